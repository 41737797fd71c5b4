"""What a trace shows is how the real responses came about."""

from __future__ import annotations

import pytest
from small import place

from rlfamily.decoding import best_of_n, iro, plain
from rlfamily.evaluation import generate
from rlfamily.evaluation.guides import GuideFolders
from rlfamily.evaluation.trace import write_trace
from rlfamily.models import value
from rlfamily.records import read_jsonl
from rlfamily.rollout.settings import Generation, Guiding

SEARCH = iro.Config(kind="iro", beams=2, branches=2, chunk=6, pick="diverse", temperature=1.0, finished="repeat", final="value",
                    betas=[1.0], compressed=False, values=None)


def made(world, folder, decoder, folders, prompts=3):
    """Rows of trace.jsonl by item, and the real responses."""
    task = world.config.task
    settings = Generation(prompts=prompts, draws=1, greedy=False, limits=task.evaluation, distribution=task.distribution, decoding=decoder,
                          engine="torch")
    here = place(folder)
    asked = (here, world.data, world.base.parent, world.finetuning, settings, "1", Guiding(task=task.kind, reward=task.reward), folders)
    generate.write_responses(*asked)
    responses = {row["item"]: row["response"] for row in read_jsonl(here.out / "responses.jsonl") if row["mode"] == "sample"}
    write_trace(*asked)
    first = (here.out / "trace.jsonl").read_bytes()
    write_trace(*asked)
    assert (here.out / "trace.jsonl").read_bytes() == first
    rows = list(read_jsonl(here.out / "trace.jsonl"))
    return {item: [row for row in rows if row["item"] == item] for item in range(prompts)}, responses


@pytest.fixture
def values(world, tmp_path):
    """A value function with a new head."""
    import torch

    value.load(world.base, "fp32", torch.device("cpu"), trainable=True, seed=0).save(tmp_path / "value" / "model")
    return GuideFolders(values={"1": tmp_path / "value"})


def test_a_search_is_shown_part_by_part(world, tmp_path, values):
    traces, responses = made(world, tmp_path / "made", SEARCH, values)
    assert max(row["round"] for rows in traces.values() for row in rows) > 1
    for item, rows in traces.items():
        at = {(row["round"], row["candidate"]): row for row in rows}
        last = max(row["round"] for row in rows)
        assert len(rows) == 4 * (last + 1) and all(row["value"] is not None for row in rows)
        (won,) = [row for row in rows if row["round"] == last and row["kept"]]
        assert won["value"] == max(row["value"] for row in rows if row["round"] == last)
        said, one = "", won
        while True:
            said, before = one["text"] + said, (one["round"] - 1, one["parent"])
            if one["parent"] is None:
                break
            one = at[before]
            assert one["kept"]
        assert said == responses[item]


def test_every_kept_candidate_of_a_round_goes_on(world, tmp_path, values):
    traces, _ = made(world, tmp_path / "made", SEARCH, values)
    for rows in traces.values():
        for number in range(max(row["round"] for row in rows)):
            kept = {row["candidate"] for row in rows if row["round"] == number and row["kept"]}
            assert kept == {row["parent"] for row in rows if row["round"] == number + 1} and 1 <= len(kept) <= 2


def test_samples_that_one_was_chosen_from_are_one_round(world, tmp_path):
    traces, responses = made(world, tmp_path, best_of_n.Config(kind="best_of_n", samples=3), GuideFolders())
    for item, rows in traces.items():
        assert [(row["round"], row["parent"]) for row in rows] == [(0, None)] * 3
        (won,) = [row for row in rows if row["kept"]]
        assert won["text"] == responses[item] and won["value"] == max(row["value"] for row in rows)


def test_a_plain_response_has_one_candidate(world, tmp_path):
    traces, responses = made(world, tmp_path, plain.Config(kind="plain"), GuideFolders())
    assert {item: [row["text"] for row in rows] for item, rows in traces.items()} == {item: [text] for item, text in responses.items()}
