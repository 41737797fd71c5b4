"""The stages behind a guided decoder: rewards, a tuned model beside an untuned one, and chains of value functions.

    base -> outcomes 1 -> V_1 -> outcomes 2 (guided by V_1) -> V_2 -> ...          (IRO, Alg. 3)

Equal beginnings of a chain are the same stages, whatever asks for them: a later iteration, another search, a sweep.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlfamily import decoding
from rlfamily.decoding import DecodingConfig, plain
from rlfamily.decoding.guided import FromModel, FromPolicy, FromReward, Guided, ValueSource
from rlfamily.decoding.pairs import HubPair, Paired, TrainedPair
from rlfamily.errors import UserError, nearest
from rlfamily.rollout.settings import Guiding
from rlfamily.stages.graph import Node
from rlfamily.stages.kinds import outcomes, value
from rlfamily.values import ValueTraining

if TYPE_CHECKING:
    from rlfamily.nodes import Planner, Sources


def inputs_of(planner: Planner, config: DecodingConfig) -> Sources:
    """What the decoder reads besides the policy, by the names of the stages that draw."""
    asked = decoding.get(config.kind).asks(config)
    found: Sources = {}
    if "rewards" in asked:
        found["rewards"] = _rewards(planner)
    if "values" in asked:
        assert isinstance(config, Guided)
        found["values"] = values_of(planner, config)
    if "pair" in asked:
        assert isinstance(config, Paired)
        found["pair"] = _pair(planner, config)
    return found


def guiding_of(planner: Planner, config: DecodingConfig) -> Guiding | None:
    """What the decoder knows of the task; None where it asks nothing."""
    task = planner.config.task
    asked = decoding.get(config.kind).asks(config)
    if not asked:
        return None
    return Guiding(task=task.kind, reward=task.reward.guiding().unsourced() if "rewards" in asked else None)


def values_of(planner: Planner, config: Guided) -> dict[str, Node]:
    """The value functions that guide a search, by their number: all of a chain, or one that learned their sum."""
    if config.values is None:
        raise UserError("decoding.values: says where the value functions come from, and is null")
    chain = [_value(planner, config, config.values, iteration) for iteration in range(1, len(config.betas) + 1)]
    if config.compressed:
        chain = [_compressed(planner, config, config.values, chain)]
    return {str(number): node for number, node in enumerate(chain, start=1)}


def _value(planner: Planner, config: Guided, source: ValueSource, iteration: int) -> Node:
    """V_t, which starts from V_(t-1) and learns from what V_1..V_(t-1) guided."""
    start = _start(planner, source) if iteration == 1 else _value(planner, config, source, iteration - 1)
    if source.training is None:
        return start
    drawn = {"1": _outcomes(planner, config, source, iteration)}
    return _fit(planner, source, source.training, f"value function {iteration}", start, drawn, {}, [])


def _compressed(planner: Planner, config: Guided, source: ValueSource, chain: list[Node]) -> Node:
    """One network regressed on the sum of the chain at every state of all outcomes (IRO Eq. 10), from the last."""
    if source.training is None:
        raise UserError("decoding.compressed: value functions that are not trained have no sum worth learning: set "
                        "decoding.compressed=false")
    loss = {"kind": "compressed", "reduction": source.training.loss.reduction}
    training = ValueTraining.model_validate({**source.training.model_dump(), "loss": loss})
    drawn = {str(number): _outcomes(planner, config, source, number) for number in range(1, len(chain) + 1)}
    teachers = {str(number): node for number, node in enumerate(chain, start=1)}
    return _fit(planner, source, training, f"value function, {len(chain)} in one", chain[-1], drawn, teachers,
                config.betas)


def _fit(
    planner: Planner, source: ValueSource, training: ValueTraining, label: str, start: Node, drawn: dict[str, Node],
    teachers: dict[str, Node], betas: list[float],
) -> Node:
    finetuning = planner.frozen().model_copy(update={"lr_multiplier": source.lr_multiplier})
    config = value.Config(
        training=training, rows=source.prompts * source.samples, max_tokens=planner.config.task.max_tokens_evaluation,
        finetuning=finetuning, rewards=source.rewards, drop_unanimous=source.drop_unanimous, betas=betas,
        seed=planner.config.seed)
    inputs: Sources = {"start": start, "policy": planner.policy, "outcomes": drawn}
    if teachers:
        inputs["teachers"] = teachers
    return planner.node("value", config, inputs, f"{label} · {planner.label}")


def _outcomes(planner: Planner, config: Guided, source: ValueSource, iteration: int) -> Node:
    """What V_t learns from: samples of the policy at first, then what the value functions before it guide."""
    drawer: DecodingConfig = plain.Config(kind="plain") if iteration == 1 else config.after(iteration - 1)
    task = planner.config.task
    reward = task.reward.guiding().unsourced()
    lesson = task.lesson(1, task.evaluation, rewarded=True).model_copy(
        update={"prompts": source.prompts, "reward": reward})
    generation = planner.generation().model_copy(update={
        "prompts": source.prompts, "draws": source.samples, "decoding": drawer.unsourced()})
    stage = outcomes.Config(
        lesson=lesson, generation=generation, finetuning=planner.frozen(), seed=planner.config.seed,
        guiding=Guiding(task=task.kind, reward=reward),
        keep="returned" if iteration == 1 else source.keep)
    inputs: Sources = {"data": planner.data, "policy": planner.policy, **inputs_of(planner, drawer),
                       "rewards": _rewards(planner)}
    return planner.node("outcomes", stage, inputs, f"outcomes {iteration} · {planner.label}", planner.lengths)


def _rewards(planner: Planner) -> dict[str, Node]:
    """The models that the task's reward asks while responses are made, by name."""
    return {name: planner.reward_sources[name] for name in planner.config.task.reward.guiding().models}


def _start(planner: Planner, source: ValueSource) -> Node:
    """The model that the first value function starts from."""
    start = source.start
    if isinstance(start, FromPolicy):
        return planner.warm_start
    if isinstance(start, FromReward):
        if start.name not in planner.reward_sources:
            names = sorted(planner.reward_sources)
            raise UserError(f"decoding.values.start.name: the task's reward has no model '{start.name}'"
                            f"{nearest(start.name, names)}; it has {', '.join(names) or 'none'}")
        return planner.reward_sources[start.name]
    assert isinstance(start, FromModel)
    return planner.reward_source(start.model, f"start of value functions ({planner.config.names['task']})")


def _pair(planner: Planner, config: Paired) -> dict[str, Node]:
    pair = config.pair
    if pair is None:
        raise UserError("decoding.pair: says where the tuned and the untuned model come from, and is null")
    if isinstance(pair, HubPair):
        return {name: planner.hub(one.path, one.revision, f"fetch {name} model {one.path}")
                for name, one in (("tuned", pair.tuned), ("untuned", pair.untuned))}
    assert isinstance(pair, TrainedPair)
    tuned = planner.trained_by(pair.algorithm)
    return {"tuned": tuned.train, "untuned": tuned.warm_start}
