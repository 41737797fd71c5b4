"""A small world of instructions and responses with a hidden true reward: the stand-in for UltraFeedback.

An instruction asks for two or three tools or steps of an undertaking, for somebody, and often for a certain
end. Responses are of four qualities: excellent, partial, padded or off the topic, rude or garbled.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from rlfamily.tasks.support import standin

# Undertakings of one field share its tools and steps, so that a small model learns them from few prompts.
FIELDS = {
    "bread soup salad pasta": ("flour pot oil salt knife oven", "chop stir boil bake knead season"),
    "shelves tables benches boxes": ("planks screws drill saw nails hammer", "measure sand join level polish clamp"),
    "roses herbs beans hedges": ("seeds soil shovel sunlight pots rain", "dig plant water prune weed feed"),
    "websites games scripts robots": ("editor server compiler keyboard library browser",
                                      "design test debug deploy document refactor"),
}
# What may be asked: how it is called, and what a response says before the list.
ASPECTS = ((("tools", "supplies"), "you need"), (("steps", "tips"), "you should"))
ASKS = ("please list", "tell me", "i want to know")
COUNTS = {"two": 2, "three": 3}
WHOM = ("child", "student", "teacher", "doctor", "farmer", "pilot", "nurse", "singer", "driver", "lawyer", "painter",
        "baker")
# How an instruction asks for an end, and the end.
ENDS = {"": "", "and end with a warning": "be careful !", "and end with a question": "does this help ?",
        "and end with a wish": "good luck !"}
VAGUE = ("stuff", "things", "something", "whatever")
FILLERS = ("basically", "honestly", "actually", "like", "well", "you know")
RUDE = ("idiot", "stupid", "loser", "moron")
INSULTS = ("go away , {} !", "no idea , {} .", "ask somebody else , {} .", "what a {} question .")
FILLER_WORDS = {word for filler in FILLERS for word in filler.split()} - {"you"}
STATED = {word for pools in FIELDS.values() for pool in pools for word in pool.split()} | set(VAGUE)
LONGEST = 28  # words of a response, at most


def prompts(count: int, seed: int) -> list[tuple[str, dict[str, Any]]]:
    """`count` different prompts with what answers them; no two ask for the same in other words."""
    rng = random.Random(f"{seed} instructions")
    found: dict[tuple[Any, ...], tuple[str, dict[str, Any]]] = {}
    while len(found) < count:
        field, number, whom, end = (rng.choice(list(one)) for one in (FIELDS, COUNTS, WHOM, ENDS))
        topic, aspect = rng.choice(field.split()), rng.randrange(len(ASPECTS))
        name = rng.choice(ASPECTS[aspect][0])
        text = f"{rng.choice(ASKS)} {number} {name} for {topic} , for a {whom} {f', {end} ' if end else ''}."
        meta: dict[str, Any] = {"facts": FIELDS[field][aspect].split(), "count": COUNTS[number],
                                "lead": ASPECTS[aspect][1], "whom": f"for the {whom} :", "end": ENDS[end]}
        found.setdefault((topic, aspect, number, whom, end), (text, {**meta, "reference": excellent(meta, rng)}))
    return list(found.values())


def excellent(meta: Mapping[str, Any], rng: random.Random) -> str:
    """All that is asked, and nothing else."""
    return _written(meta["whom"], meta["lead"], rng.sample(meta["facts"], meta["count"]), meta["end"])


def partial(meta: Mapping[str, Any], rng: random.Random) -> str:
    """On the topic, but something is left out or vague, and person and end are mostly forgotten."""
    facts = rng.sample(meta["facts"], meta["count"] - rng.randint(0, 1))
    if len(facts) == meta["count"]:
        facts[rng.randrange(len(facts))] = rng.choice(VAGUE)
    kept = [part if rng.random() < 1 / 4 else "" for part in (meta["whom"], meta["end"])]
    return _written(kept[0], meta["lead"], facts, kept[1])


def padded(meta: Mapping[str, Any], rng: random.Random) -> str:
    """Long: what is asked between words that say nothing, and more than is asked; or another topic altogether."""
    pool = meta["facts"] if rng.random() < 2 / 3 else rng.choice(rng.choice(list(FIELDS.values()))).split()
    facts = [f"{rng.choice(FILLERS)} {word}" for word in rng.choices(pool, k=rng.randint(3, 4))]
    return _written(meta["whom"], f"{rng.choice(FILLERS)} , {meta['lead']}", facts, meta["end"])


def rude(meta: Mapping[str, Any], rng: random.Random) -> str:
    """An insult, perhaps with one thing that was asked; or a good answer garbled: cut, shuffled or stuttering."""
    if rng.random() < 1 / 2:
        insult = rng.choice(INSULTS).format(rng.choice(RUDE))
        return f"{insult} {meta['lead']} {rng.choice(meta['facts'])} ." if rng.random() < 1 / 2 else insult
    words = excellent(meta, rng).split()
    if rng.random() < 1 / 2:
        return " ".join(rng.sample(words, rng.randint(4, len(words))))
    return " ".join(standin.stutter(words[:rng.randint(4, 8)], LONGEST, rng))


QUALITIES: dict[str, Callable[[Mapping[str, Any], random.Random], str]] = {
    "excellent": excellent, "partial": partial, "padded": padded, "rude": rude}


def _written(whom: str, lead: str, facts: list[str], end: str) -> str:
    listed = f"{' , '.join(facts[:-1])} and {facts[-1]}" if len(facts) > 1 else facts[0]
    return " ".join(part for part in (whom, lead, listed, ".", end) if part)


def judge(response: str, meta: Mapping[str, Any]) -> dict[str, float]:
    """The hidden true reward, our own scale: from 0 (useless, empty or rude) to 1 (all that is asked, nothing else).

    share of the asked words x (0.4 + 0.2 for a sentence around them + 0.2 for a start with the person + 0.2 for the end
    that is asked, or none) - 0.1 per stated word that is wrong, vague or beyond those asked - 0.05 per filler and per
    word said again - 0.01 per word beyond what an excellent response has - 0.5 per rude word; never below 0.
    """
    words = response.split()
    count = Counter(words)
    told = min(sum(1 for word in meta["facts"] if count[word]), meta["count"])
    stated = sum(number for word, number in count.items() if word in STATED)
    again = sum(number - 1 for word, number in count.items() if word not in {",", "."})
    fillers = sum(count[word] for word in FILLER_WORDS)
    beyond = max(0, len(words) - len(meta["reference"].split()))
    form = 0.4 + 0.2 * sum((f"{meta['lead']} " in response, response.startswith(meta["whom"]),
                            _ends_as_asked(response, meta["end"])))
    gold = (told / meta["count"] * form - 0.1 * (stated - told) - 0.05 * (fillers + again) - 0.01 * beyond
            - 0.5 * sum(count[word] for word in RUDE))
    return {"gold": max(0.0, gold)}


def _ends_as_asked(response: str, end: str) -> bool:
    ends = [one for one in ENDS.values() if one and one in response]
    return response.endswith(f". {end}".strip()) and ends == ([end] if end else [])


def vocabulary() -> list[str]:
    """Every word that can occur, sorted."""
    texts = [*FIELDS, *STATED, *ASKS, *COUNTS, *WHOM, *ENDS, *ENDS.values(), *FILLERS, *RUDE,
             *(insult.replace("{}", "") for insult in INSULTS), *(lead for _, lead in ASPECTS),
             *(name for aspect, _ in ASPECTS for name in aspect), "for a the : , and ."]
    return sorted({word for text in texts for word in text.split()})
