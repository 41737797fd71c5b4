"""Generating and scoring are two stages: any decoder makes responses, the reward reads them as they lie on disk."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from small import SMALL, World, build_world, place

from rlfamily import decoding
from rlfamily.config import build
from rlfamily.decoding import Choice, DecodingConfig
from rlfamily.errors import UserError
from rlfamily.evaluation import generate, pairs, sampler, score
from rlfamily.examples import held_out
from rlfamily.plan import stages
from rlfamily.records import read_jsonl, write_jsonl
from rlfamily.rollout.collect import training_prompts
from rlfamily.rollout.settings import Generation
from rlfamily.settings import Distribution
from rlfamily.stages.kind import get_kind
from rlfamily.tasks import countdown


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return build_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def twice(monkeypatch: pytest.MonkeyPatch) -> str:
    """A decoder of one's own: draws two responses and keeps the shorter, which costs both."""
    module = ModuleType("rlfamily.decoding.twice")

    class Config(DecodingConfig):
        pass

    def decode(config: Any, bench: Any) -> list[Choice]:
        return [Choice(min(some, key=lambda one: len(one.ids))) for some in bench.draw(2)]

    module.__dict__.update(Config=Config, decode=decode, VERSION="1", MODES=("greedy", "sample"),
                           asks=lambda config: frozenset())
    monkeypatch.setitem(sys.modules, "rlfamily.decoding.twice", module)
    monkeypatch.setattr(decoding.DECODERS, "names", lambda: ["plain", "twice"])
    return "twice"


def settings(world: World, chosen: Any) -> Generation:
    task = world.config.task
    return Generation(prompts=5, draws=2, greedy=True, limits=task.evaluation, distribution=task.distribution, decoding=chosen,
                      engine="torch")


def test_scores_are_those_of_the_responses_on_disk(world: World, tmp_path: Path) -> None:
    made = place(tmp_path / "responses")
    generate.write_responses(made, world.data, world.base.parent, world.finetuning, settings(world, world.config.decoding), "1")
    here = place(tmp_path / "scores")
    summary = score.write_scores(here, world.data, made.out, {}, "countdown", world.config.task.reward, {})
    responses, scores = list(read_jsonl(made.out / "responses.jsonl")), list(read_jsonl(here.out / "scores.jsonl"))
    examples = list(read_jsonl(world.data / "test.jsonl"))
    assert summary["responses"] == len(scores) == len(responses) == 15
    for response, row in zip(responses, scores, strict=True):
        verdict = countdown.score(response["response"], examples[row["item"]]["meta"])
        assert row == {**{name: response[name] for name in ("mode", "item", "draw", "prompt", "response", "truncated")},
                       **verdict, "reward": 2 * (verdict["format"] + verdict["valid"]) - 2, "length": len(response["ids"])}


def test_any_policy_meets_any_decoder(world: World, tmp_path: Path, twice: str) -> None:
    chosen = decoding.get(twice).Config(kind=twice)
    rows = {}
    for name, one in (("plain", world.config.decoding), (twice, chosen)):
        here = place(tmp_path / name)
        summary = generate.write_responses(here, world.data, world.base.parent, world.finetuning, settings(world, one), "1")
        rows[name] = list(read_jsonl(here.out / "responses.jsonl"))
        assert summary["cost_tokens"] == sum(row["cost_tokens"] for row in rows[name])
    sampled = [(a, b) for a, b in zip(rows["plain"], rows[twice], strict=True) if a["mode"] == "sample"]
    assert all(b["cost_tokens"] > a["cost_tokens"] and len(b["ids"]) <= len(a["ids"]) for a, b in sampled)


def test_the_decoder_is_part_of_the_keys_of_responses_and_scores_alone(twice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = build(SMALL)
    other = config.model_copy(update={"decoding": decoding.get(twice).Config(kind=twice)})
    one, two = (stages(each, ["train", "score", "logprobs"]) for each in (config, other))
    assert {role for role in one if one[role].key != two[role].key} == {"score"}
    assert two["score"].inputs["responses"].uses == {"decoding.twice": "1"}  # type: ignore[union-attr]


def test_held_out_responses_are_drawn_from_the_distribution_that_the_task_names(world: World) -> None:
    distribution = world.config.task.distribution.model_copy(update={
        "temperature": 0.7, "top_k": 9, "top_p": 0.5, "repetition_penalty": 1.2, "no_repeat_ngram": 3})
    chosen = settings(world, world.config.decoding).model_copy(update={"distribution": distribution})
    sampled, greedy = (sampler.params_of(chosen, mode) for mode in ("sample", "greedy"))
    assert (sampled.greedy, sampled.temperature, sampled.top_k, sampled.top_p) == (False, 0.7, 9, 0.5)
    assert (sampled.repetition_penalty, sampled.no_repeat_ngram) == (1.2, 3)
    assert greedy == replace(sampled, greedy=True)
    limits = world.config.task.evaluation
    assert (sampled.max_total_tokens, sampled.min_new_tokens) == (limits.max_tokens, limits.min_new_tokens)


class Asked(Exception):
    """What an engine was asked for."""


def test_pairs_are_drawn_at_the_temperature_asked_for(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Drawer:
        def generate(self, prompts: Any, params: Any, seeds: Any, copies: int) -> Any:
            raise Asked(params, copies)

    tokenizer = world.policy().tokenizer
    monkeypatch.setattr(pairs, "frozen", lambda *given: (Drawer(), tokenizer))
    with pytest.raises(Asked) as asked:
        pairs.write_pairs(place(tmp_path), world.data, world.base, {}, world.lesson(60),
                          Distribution(temperature=0.7, top_k=5, top_p=0.9, repetition_penalty=1.2, no_repeat_ngram=3), world.finetuning, "torch", 0)
    params, copies = asked.value.args
    assert (params.greedy, params.temperature, params.top_k, params.top_p, copies) == (False, 0.7, 5, 0.9, 2)
    assert (params.repetition_penalty, params.no_repeat_ngram) == (1.2, 3)


def test_training_prompts_without_room_are_left_out_and_noted(world: World, tmp_path: Path) -> None:
    rows = list(read_jsonl(world.data / "train.jsonl"))
    lesson, tokenizer = world.lesson(60).model_copy(update={"prompts": len(rows)}), world.policy().tokenizer
    for words, left_out in ((lesson.limits.max_tokens - 1, 0), (lesson.limits.max_tokens, 1)):
        here = place(tmp_path / str(words))
        write_jsonl(here.work / "train.jsonl", [row | ({} if place else {"prompt": " ".join(["3"] * words)})
                                               for place, row in enumerate(rows)])
        taken = training_prompts(here, here.work, lesson.model_copy(update={"prompts": len(rows) - left_out}), tokenizer, 0)
        assert len(taken) == len(rows) - left_out == len({example.id for example in taken})
        assert here.notes == ({"left_out": {"training prompts that leave no room for a response": 1}} if left_out else {})


def test_an_unknown_decoder_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"decoding.*no 'plian'.*did you mean 'plain'"):
        build([*SMALL, "decoding=plian"])
    with pytest.raises(UserError, match=r"no decoder 'plian' in rlfamily/decoding \(did you mean 'plain'\?\)"):
        build([*SMALL, "decoding.kind=plian"])


def test_what_a_stage_writes_is_what_its_kind_says(world: World, tmp_path: Path) -> None:
    made = place(tmp_path)
    generate.write_responses(made, world.data, world.base.parent, world.finetuning, settings(world, world.config.decoding), "1")
    for kind, folder in (("generate", made.out), ("data", world.data), ("base", world.base.parent)):
        said = get_kind(kind).WRITES
        names = {path.name + ("/" if path.is_dir() else "") for path in folder.iterdir()}
        assert names <= set(said), (kind, names)


@pytest.mark.parametrize(("sizes", "count", "expected"), [
    ((4, 6, 3), 6, (2, 3, 1)),  # exact 1.85, 2.77, 1.38
    ((4, 6, 3), 13, (4, 6, 3)), ((4, 6, 3), 3, (1, 1, 1)), ((4, 6, 3), 2, (1, 1, 0)), ((4, 6, 3), 1, (0, 1, 0)),
    ((40, 272, 674, 30, 30), 20, (1, 5, 12, 1, 1)),  # exact .76, 5.20, 12.89, .57, .57: a tie of thirds for the last
    ((1, 1, 1000), 3, (1, 1, 1)), ((1, 1, 1000), 10, (1, 1, 8)), ((5, 5), 3, (2, 1)),
])
def test_a_limit_takes_its_share_of_every_benchmark(
    tmp_path: Path, sizes: tuple[int, ...], count: int, expected: tuple[int, ...]
) -> None:
    names = [name for name, size in zip("abcde", sizes, strict=False) for _ in range(size)]
    examples = [{"id": f"test-{place}", "prompt": "p", "meta": {"benchmark": name}} for place, name in enumerate(names)]
    write_jsonl(tmp_path / "test.jsonl", examples)
    chosen = held_out(tmp_path, count)
    for name, wanted in zip("abcde", expected, strict=False):
        assert [place for place in chosen if names[place] == name] == [names.index(name) + turn for turn in range(wanted)]
    assert {place: example.id for place, example in chosen.items()} == {place: f"test-{place}" for place in sorted(chosen)}
    with pytest.raises(UserError, match=f"task.eval_prompts={len(names) + 1}, but the test split has {len(names)} prompts"):
        held_out(tmp_path, len(names) + 1)


def test_items_are_places_in_the_test_split(world: World, tmp_path: Path) -> None:
    """Of two benchmarks in one file; a larger share adds to the pool of a smaller one."""
    data = tmp_path / "data"
    data.mkdir()
    rows = list(read_jsonl(world.data / "test.jsonl"))[:6]
    write_jsonl(data / "test.jsonl", [row | {"meta": row["meta"] | {"benchmark": "ab"[place // 3]}}
                                      for place, row in enumerate(rows)])
    items = {}
    for prompts, drawn in ((4, 12), (2, 0), (6, 6)):
        asked = settings(world, world.config.decoding).model_copy(update={"prompts": prompts})
        made = place(tmp_path / "responses")
        summary = generate.write_responses(made, data, world.base.parent, world.finetuning, asked, "1")
        found = list(read_jsonl(made.out / "responses.jsonl"))
        assert summary["drawn"] == drawn and all(row["prompt"] == rows[row["item"]]["prompt"] for row in found)
        items[prompts] = [row["item"] for row in found if row["mode"] == "greedy"]
    assert items == {4: [0, 1, 3, 4], 2: [0, 3], 6: [0, 1, 2, 3, 4, 5]}
