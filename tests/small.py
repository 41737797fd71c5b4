"""A world small enough for tests: data, a pretrained model of a few thousand weights, and a place to run jobs at."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

# A training step takes milliseconds, and both answer styles occur, so that rewards differ.
SMALL = [
    "task.source.train=64", "task.source.validation=16", "task.source.test=16", "task.source.demonstrations_train=24",
    "task.source.demonstrations_validation=8", "task.source.corpus=800", "task.source.max_operand=9",
    "task.eval_prompts=8", "task.eval_draws=2", "task.prompt_fraction=0.02",
    "model.hidden_size=32", "model.intermediate_size=64", "model.layers=2", "model.heads=4", "model.kv_heads=2",
    "task.pretrain.lines=800", "model.pretrain.batch_prompts=32", "task.pretrain.epochs=4", "task.pretrain.gate.least=0.0",
    "model.pretrain.optimizer.lr=1e-2",
]


T5 = ["model=t5_tiny_small", "model.kv_heads=4"]  # after SMALL: the same world with an encoder


@dataclass(frozen=True)
class World:
    """Data, the folder of a pretrained model, and the configuration that made both."""

    config: Any
    data: Path
    base: Path

    @property
    def finetuning(self) -> Any:
        return self.config.model

    def lesson(self, prompts: int, demonstrations: bool = False, **changes: Any) -> Any:
        """What a run takes of the task that asks for `prompts`; `changes` are to the task's settings."""
        from rlfamily.settings import Limits

        task = self.config.task.model_copy(update=changes)
        whole = Limits(max_tokens=task.max_tokens_demonstration, max_new_tokens=None, min_new_tokens=0)
        return task.lesson(prompts, whole if demonstrations else task.rollout, rewarded=True)

    def policy(self, trainable: bool = False, **changes: Any) -> Any:
        """The pretrained model; `changes` are to how it is finetuned."""
        import torch

        from rlfamily.models import policy

        return policy.load(self.base, self.finetuning.model_copy(update=changes), torch.device("cpu"), trainable)


def whole(temperature: float = 1.0) -> Any:
    """A distribution of which nothing is left out."""
    from rlfamily.settings import Distribution

    return Distribution(temperature=temperature, top_k=0, top_p=1.0, repetition_penalty=1.0, no_repeat_ngram=0)


def place(folder: Path, **hardware: Any) -> Any:
    """A place for one job below `folder`; `hardware` changes that of hardware=cpu."""
    from rlfamily.place import alone

    return alone(folder, _hardware(), **{"checkpoint_seconds": 1000.0, **hardware})


@cache
def _hardware() -> Any:
    from rlfamily.config import build

    return build().hardware


def build_world(folder: Path, *overrides: str) -> World:
    """Made by the jobs under test, in two seconds; `overrides` come after SMALL."""
    import torch

    from rlfamily import tasks
    from rlfamily.config import algorithm_settings, build
    from rlfamily.trainer import jobs

    torch.set_num_threads(1)
    config = build([*SMALL, *overrides])
    (folder / "data").mkdir()
    tasks.get("countdown").build(config.task.data, folder / "data")
    corpus, recipe = config.task.pretrain, config.model.pretrain
    jobs.pretrain(place(folder / "base"), folder / "data", config.model, algorithm_settings("sft", prompts=corpus.lines, epochs=corpus.epochs, **recipe.model_dump()),
                  config.task.max_tokens_demonstration)
    return World(config, folder / "data", folder / "base" / "out" / "model")


def stage(root: Path, kind: str, config: Any, inputs: dict[str, Any], **hardware: Any) -> tuple[Path, dict[str, Any]]:
    """Run a stage as a worker does, on folders that are made artifacts first; its own artifact, and its summary."""
    from rlfamily.stages.graph import Node
    from rlfamily.stages.perform import perform
    from rlfamily.stages.store import Order, Store

    store = Store(root)
    node = Node(kind, config, {}, place(root / "unused", **hardware).hardware, kind)
    keys = {name: _artifact(store, name, source) if isinstance(source, Path) else {
        inner: _artifact(store, f"{name}{inner}", folder) for inner, folder in source.items()} for name, source in inputs.items()}
    order = Order.of(node).model_copy(update={"inputs": keys})
    store.write_order(order)
    perform(store, order)
    return store.layout.object(order.key), store.layout.manifest(order.key).summary


def _artifact(store: Any, name: str, folder: Path) -> str:
    import shutil

    from rlfamily.stages.store import Effort, Order

    order = Order(key=f"{name:a<32}"[:32], kind="hub", version="1", label=name, config={}, inputs={}, hardware={})
    if not store.committed(order.key):
        out = store.layout.work(order.key) / "out"
        shutil.copytree(folder, out)
        store.commit(order, out, {}, Effort(started="2026-01-01T00:00:00+00:00", seconds=0.0, attempts=1))
    return order.key
