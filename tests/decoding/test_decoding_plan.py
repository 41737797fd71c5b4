"""Decoders in plans: chains of value functions share their stages, and what cannot be is refused before it starts."""

from __future__ import annotations

import pytest
from small import SMALL, T5

from rlfamily.config import build
from rlfamily.errors import UserError
from rlfamily.nodes import Planner
from rlfamily.stages.graph import Node

VALUES = ["decoding.values.prompts=8", "decoding.values.samples=2"]


def planned(*overrides):
    return Planner(build([*SMALL, "algorithm=none", *overrides]), "cell").generate


def all_of(*roots):
    """Different stages behind these, by kind."""
    found, waiting = {}, list(roots)
    while waiting:
        node = waiting.pop()
        if node.key not in found:
            found[node.key] = node
            for one in node.inputs.values():
                waiting += [one] if isinstance(one, Node) else list(one.values())
    kinds = [node.kind for node in found.values()]
    return {kind: kinds.count(kind) for kind in ("value", "outcomes", "generate", "base")}


def iro(*betas, **changes):
    return planned("decoding=iro", *VALUES, f"decoding.betas=[{','.join(map(str, betas))}]",
                   *(f"decoding.{key}={value}" for key, value in changes.items()))


def test_iterations_share_the_beginning_of_their_chain():
    three = iro(1.0, 2.0, 2.5)
    assert all_of(three) == {"value": 3, "outcomes": 3, "generate": 1, "base": 1}
    assert all_of(iro(1.0), iro(1.0, 2.0), three) == {"value": 3, "outcomes": 3, "generate": 3, "base": 1}


def test_a_sweep_of_beta_2_shares_all_but_what_comes_behind_it():
    assert all_of(*(iro(1.0, beta) for beta in (0.5, 1.0, 2.0, 4.0))) == {
        "value": 2, "outcomes": 2, "generate": 4, "base": 1}
    assert all_of(*(iro(1.0, beta, 1.0) for beta in (0.5, 1.0))) == {
        "value": 2 + 2, "outcomes": 2 + 2, "generate": 2, "base": 1}, "the third learns from what beta_2 guided"


def test_a_compressed_chain_adds_one_value_function():
    assert all_of(iro(1.0, 2.0), iro(1.0, 2.0, compressed="true")) == {
        "value": 3, "outcomes": 2, "generate": 2, "base": 1}


def test_another_search_at_the_end_needs_no_other_first_value_function():
    assert all_of(iro(1.0), iro(1.0, chunk=8), iro(1.0, beams=2)) == {"value": 1, "outcomes": 1, "generate": 3, "base": 1}
    assert all_of(iro(1.0, 1.0), iro(1.0, 1.0, chunk=8))["value"] == 3, "the second learns from the search itself"


def test_other_decoders_use_the_same_first_value_function():
    blocks = planned("decoding=controlled_decoding", *VALUES, "decoding.level=block")
    assert all_of(iro(1.0), blocks)["value"] == 1


@pytest.mark.parametrize(("overrides", "words"), [
    (["decoding=iro", "decoding.values=null"], "decoding.values: says where the value functions come from, and is null"),
    (["decoding=weak_to_strong", "decoding.pair=null"], "decoding.pair: says where .* come from, and is null"),
    (["decoding=iro", "decoding.values.start={kind: reward, name: judge}"],
     "decoding.values.start.name: the task's reward has no model 'judge'; it has none"),
    (["decoding=iro", "task=helpful_tiny", "decoding.values.start={kind: reward, name: helpfulnes}"],
     r"no model 'helpfulnes' \(did you mean '\w+'\?\)"),
    (["decoding=weak_to_strong", "decoding.pair.algorithm=dop"], "no method 'dop' .*did you mean 'd"),
    (["decoding=majority_vote"], "decoding=majority_vote counts equal answers, and responses of task=countdown_tiny"),
    (["decoding=iro", "decoding.final=vote"], "decoding=iro counts equal answers"),
    (["decoding=iro", "decoding.compressed=true", "decoding.values.training=null"], "are not trained have no sum"),
    (["decoding=cards", "rollout.engine=vllm"], "decoding=cards ends segments by how unsure the policy is"),
    (["decoding=q_sharp", "rollout.engine=vllm", "hardware.vllm.mode=server"], "decoding=q_sharp chooses among likely"),
    ([*T5, "decoding=iro"], "decoding.values.start.kind=policy: that of model=t5_tiny_small has an encoder"),
    ([*T5, "decoding=cards"], "decoding=cards lets rows wait for each other"),
])
def test_what_cannot_be_is_refused_in_one_line(monkeypatch, overrides, words):
    from rlfamily.tasks import countdown

    monkeypatch.delattr(countdown, "answer", raising=False)  # of this folder's tests
    sizes = SMALL if not any(one.startswith("task=") for one in overrides) else []
    with pytest.raises(UserError, match=words) as error:
        Planner(build([*sizes, "algorithm=none", *overrides]), "cell").generate  # noqa: B018
    assert "\n" not in str(error.value)


def test_a_tuned_model_starts_where_the_cell_does():
    """A task without demonstrations has no warm start by imitation, whatever the method's own file says."""
    config = build(["task=alpaca_tiny", "model=llama_tiny", "algorithm=none", "algorithm.warm_start=base",
                    "decoding=weak_to_strong"])
    pair = Planner(config, "cell").generate.inputs["pair"]
    assert pair["untuned"].kind == "base"
    assert pair["tuned"].inputs["policy"].key == pair["untuned"].key
