"""What scores rows while they grow: equal to a plain pass over each whole row, and nothing is passed twice."""

from __future__ import annotations

import json
import random
from types import SimpleNamespace

import pytest
import torch
from guided_world import CPU, decoder, preference

from rlfamily.evaluation.guides import GuideFolders, Opener
from rlfamily.models import policy, value
from rlfamily.models.batching import Rows
from rlfamily.models.policy import load_ends
from rlfamily.rollout import Completion
from rlfamily.rollout.bench import Request
from rlfamily.rollout.followers import PairFollower, TextFollower, ValueFollower, Weighted

PROMPTS = [[5, 6, 7], [5, 6, 7], [8], [9, 10, 11, 12]]


def values(guided):
    return [value.load(folder / "model", "fp32", CPU, trainable=False) for folder in guided.folders.values.values()]


def pair(guided):
    return [policy.load(guided.folders.pair[name] / "model", guided.world.finetuning, CPU, trainable=False)
            for name in ("tuned", "untuned")]


def said(model, prompt, ids):
    """log p of the tokens, by one plain pass over the row."""
    with torch.no_grad():
        logits = model.model(torch.tensor([[*prompt, *ids]])).logits[0].float().log_softmax(-1)
    return sum(float(logits[len(prompt) + t - 1, token]) for t, token in enumerate(ids))


def pieces(guided):
    """A follower of each kind, and what it has to say of a row."""
    one, other = values(guided)
    tuned, untuned = pair(guided)

    def of_value(found):
        return lambda prompt, ids: found.score_rows(Rows([prompt], [ids]), 100)[0]

    def text(places, ids):
        return [float(sum(row) + 100 * place) for place, row in zip(places, ids, strict=True)]

    return {
        "value": (ValueFollower(one, PROMPTS), of_value(one)),
        "weighted": (Weighted([ValueFollower(one, PROMPTS), ValueFollower(other, PROMPTS)], [0.5, 2.0]),
                     lambda prompt, ids: 0.5 * of_value(one)(prompt, ids) + 2 * of_value(other)(prompt, ids)),
        "pair": (PairFollower(tuned, untuned, PROMPTS),
                 lambda prompt, ids: said(tuned, prompt, ids) - said(untuned, prompt, ids)),
        "text": (TextFollower(text, [0, 0, 2, 3]),
                 lambda prompt, ids: float(sum(ids) + 100 * PROMPTS.index(prompt))),
    }


@pytest.mark.parametrize("kind", ["value", "weighted", "pair", "text"])
def test_followers_say_what_a_plain_pass_says(guided, kind):
    follower, plainly = pieces(guided)[kind]
    chance, rows = random.Random(7), [(prompt, []) for prompt in PROMPTS]

    def near(found):
        assert found == pytest.approx([plainly(*row) for row in rows], abs=2e-4)

    near(follower.extend([[] for _ in rows]))
    for _ in range(12):
        move = chance.choice(["extend", "branch", "select"])
        if move == "extend":
            new = [[chance.randrange(3, 20) for _ in range(chance.randrange(4))] for _ in rows]
            rows = [(prompt, [*ids, *more]) for (prompt, ids), more in zip(rows, new, strict=True)]
            near(follower.extend(new))
        elif move == "branch":
            options = [[chance.randrange(3, 20) for _ in range(chance.randrange(1, 3))] for _ in rows]
            told = follower.branch(options)
            assert list(map(len, told)) == list(map(len, options))
            rows = [(prompt, [*ids, token]) for (prompt, ids), some in zip(rows, options, strict=True) for token in some]
            near([score for some in told for score in some])
        if move == "select" or len(rows) > 8:
            index = [chance.randrange(len(rows)) for _ in range(chance.randrange(1, 6))]
            follower.select(index)
            rows = [rows[place] for place in index]
    near(follower.extend([[] for _ in rows]))


def test_texts_are_asked_about_once():
    asked = []

    def score(places, ids):
        asked.extend(zip(places, ids, strict=True))
        return [float(len(row)) for row in ids]

    follower = TextFollower(score, [0, 0, 2])
    follower.extend([[], [], []])
    follower.extend([[1], [1], []])
    follower.select([0, 0, 2])
    follower.extend([[], [4], []])
    assert asked == [(0, ()), (2, ()), (0, (1,)), (0, (1, 4))]


def opener(guided, tmp_path, chosen, folders=None, tokenizer=None):
    from small import place

    world = guided.world
    return Opener(place(tmp_path), chosen, guided.guiding(), folders or guided.folders, world.finetuning, CPU,
                  tokenizer or world.policy().tokenizer, frozenset(load_ends(world.base)))


def requests(guided, count=3):
    return [Request(item, example, ids, 0, 0) for (item, example), ids in
            zip(guided.prompts(count).examples.items(), guided.encoded(count), strict=True)]


def responses(guided, count=3):
    """Parts and whole ones, in the policy's tokens."""
    tokenizer = guided.world.policy().tokenizer
    words = range(3, 9)
    return [[words[0], words[3]], [words[1], words[2], words[5], tokenizer.eos_token_id], []][:count]


def turned(folder, into):
    """The same model with its ids turned around: other tokens, the same texts."""
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, into)
    told = json.loads((into / "tokenizer.json").read_text())
    size = len(told["model"]["vocab"])
    old_of = told["model"]["vocab"]
    new_of = {number: number if number < 3 else size + 2 - number for number in old_of.values()}
    told["model"]["vocab"] = {word: new_of[number] for word, number in old_of.items()}
    (into / "tokenizer.json").write_text(json.dumps(told))
    weights = load_file(into / "model.safetensors")
    order = [old for _, old in sorted((new, old) for old, new in new_of.items())]
    for name, tensor in weights.items():
        if tensor.shape[:1] == (size,):
            weights[name] = tensor[order].contiguous()
    save_file(weights, into / "model.safetensors", metadata={"format": "pt"})


def test_models_with_other_tokens_are_given_the_text(guided, tmp_path):
    for kind, names in (("values", ["1"]), ("pair", ["tuned", "untuned"])):
        folders = getattr(guided.folders, kind)
        for name in names:
            turned(folders[name] / "model", tmp_path / kind / name / "model")
    others = GuideFolders({}, {"1": tmp_path / "values" / "1"}, {name: tmp_path / "pair" / name for name in ("tuned", "untuned")})
    asked, ids = requests(guided), responses(guided)
    for kind, name, follower in (("values", "tokens", ValueFollower), ("pair", "weak to strong", PairFollower)):
        same = GuideFolders({}, {"1": guided.folders.values["1"]}, guided.folders.pair)
        ours, theirs = (opener(guided, tmp_path / "place", decoder(name), folders).guides()[kind] for folders in (same, others))
        follow = ours.follow(asked), theirs.follow(asked)
        if kind == "pair":
            assert isinstance(follow[0], follower) and isinstance(follow[1], TextFollower)
        assert follow[0].extend(ids) == pytest.approx(follow[1].extend(ids), abs=2e-4)
        told = []
        for one in follow:
            one.select([0, 2])  # those that have not ended
            told.append([score for some in one.branch([[4, 5], [6]]) for score in some])
        assert told[0] == pytest.approx(told[1], abs=2e-4)
        rows = [Completion(row, [], False) for row in ids]
        assert ours.rate(asked, rows) == pytest.approx(theirs.rate(asked, rows), abs=2e-4)


def test_a_reward_model_reads_parts_as_a_value_function(guided, tmp_path):
    """Whole responses get the task's reward; parts what the model says at their end; both agree on what has ended."""
    made = opener(guided, tmp_path, decoder("args")).guides()["rewards"]
    asked, ids = requests(guided), responses(guided)
    follower = made.follow(asked)
    assert isinstance(follower, Weighted)
    found = follower.extend(ids)
    judge = value.load(guided.folders.rewards["judge"] / "model", "fp32", CPU, trainable=False)
    contexts = [request.prompt for request in asked]
    assert found == pytest.approx([0.5 * score for score in judge.score_rows(Rows(contexts, ids), 1000)], abs=1e-4)
    assert made.rate(asked[1:2], [Completion(ids[1], [], False)]) == pytest.approx(found[1:2], abs=1e-4)
    assert preference().components["judge"].weight == 0.5


def test_rewards_know_which_parts_have_ended(guided, tmp_path, monkeypatch):
    from rlfamily.evaluation import guides

    flags = []

    class Spy:
        def score(self, examples, texts, truncated):
            flags.extend(truncated)
            return [SimpleNamespace(reward=0.0) for _ in texts]

    monkeypatch.setattr(guides, "task_reward", lambda *given: Spy())
    follower = opener(guided, tmp_path, decoder("cards")).guides()["rewards"].follow(requests(guided))
    follower.extend(responses(guided))
    assert flags == [True, False, True]
