"""Weights sharded over processes (gloo, CPU) train as whole ones do, resume, and are written and handed over whole."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
from dataclasses import replace

import pytest
import torch
from building import settings_of, train, trainer_of
from sharded import SHAPE, SHARDED, rows_of, same, weights_of
from small import place
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from rlfamily.models import policy, sharding
from rlfamily.models.batching import Rows
from rlfamily.trainer import checkpoint, jobs
from rlfamily.trainer.sources import TrainBatch

VALUE = {"group_size": 3, "prompts": 500, "inner_updates": 2, "kl_ref_every": 1}


class Given:
    """A rollout source without an engine: the same made-up responses at every run, other ones at every step."""

    steps_per_epoch = total_steps = 3

    def __init__(self, learner):
        self.learner = learner

    def batch(self, step, clock):
        prompts = [[3 + step, 4, 5], [6, 7 + step]]
        rows = Rows([prompt for prompt in prompts for _ in range(3)],
                    [[(7 * row + place + step) % 20 for place in range(2 + row)] for row in range(6)])
        rewards = [float((row + step) % 3) for row in range(6)]
        return TrainBatch(rows, 3, rewards=rewards, parts=[{}] * 6, truncated=[False] * 6, sampler_logp=[[]] * 6,
                          prompt_texts=[""] * 6, texts=[""] * 6)

    def log_behaviour(self, step, batch, logp_NT):
        pass

    def state(self):
        return {}

    def restore(self, state):
        pass


CLIPPED, FREE = {"optimizer": {"clip_norm": 0.01}}, {"optimizer": {"clip_norm": 1e6}}
RUNS = {
    "sft": ("sft", "full", SHAPE | FREE),
    "sft, clipped": ("sft", "full", SHAPE | CLIPPED),
    "sft, adapters": ("sft", "lora", SHAPE | FREE | {"kl_ref_every": 2}),
    "dpo": ("dpo", "full", SHAPE | FREE),
    "dpo, adapters": ("dpo", "lora", SHAPE | FREE),
    "ppo": ("ppo", "full", VALUE | FREE),
    "ppo, adapters, clipped": ("ppo", "lora", VALUE | CLIPPED),
}


@pytest.fixture(autouse=True)
def rollouts_given(monkeypatch):
    """Methods that draw get made-up responses: the torch engine does not draw from sharded weights."""
    monkeypatch.setattr(jobs, "_rollouts", lambda here, inputs, learner, *rest: Given(learner))


def options_of(run, folders):
    name, finetune, changes = RUNS[run]
    return (settings_of(name, **changes), name), folders[name] | {"finetune": finetune}


def started(body, *arguments, processes=2, **options):
    """Fork processes that accelerate joins: the heavy imports are done, and they have the parent's patches."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def main(rank):
        from accelerate.state import AcceleratorState

        AcceleratorState._reset_state(reset_partial_state=True)  # the parent's: one process
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(processes), MASTER_ADDR="127.0.0.1",
                          MASTER_PORT=str(port))
        body(*arguments, **options)
        torch.distributed.destroy_process_group()

    children = [multiprocessing.get_context("fork").Process(target=main, args=(rank,)) for rank in range(processes)]
    for child in children:
        child.start()
    return children


def ended(children):
    for child in children:
        child.join(120)
    return [child.exitcode for child in children]


def sharded_run(folder, world, settings, name, hardware=SHARDED, **options):
    train(place(folder, **hardware), world, settings, name, **options)


@pytest.mark.parametrize(("run", "processes", "micro_tokens"), [
    *((run, 2, 8192) for run in RUNS), ("sft", 2, 40), ("sft, adapters", 3, 1), ("dpo, adapters", 2, 40), ("ppo", 3, 40)])
def test_shares_train_as_the_whole(world, folders, tmp_path, run, processes, micro_tokens):
    (settings, name), options = options_of(run, folders)
    whole, sharded = tmp_path / "whole", tmp_path / "sharded"
    train(place(whole, micro_tokens=micro_tokens), world, settings, name, **options)
    hardware = {"processes": processes, "sharding": "fsdp", "micro_tokens": micro_tokens}
    children = started(sharded_run, sharded, world, settings, name, hardware, processes=processes, **options)
    assert ended(children) == [0] * processes
    same(sharded, whole)
    norms = [row["grad_norm"] for row in rows_of(whole)]
    assert ("clipped" in run) == (max(norms) > settings.optimizer.clip_norm)
    files = [{file.name for file in (folder / "out" / "model").iterdir()} for folder in (sharded, whole)]
    assert files[0] == files[1]
    config = [json.loads((folder / "out" / "model" / "config.json").read_text()) for folder in (sharded, whole)]
    assert config[0] == config[1]
    policy.load(sharded / "out" / "model", world.finetuning, torch.device("cpu"), trainable=False)


@pytest.fixture(scope="module")
def untied(world, tmp_path_factory):
    """The world with an output layer of its own."""
    folder = tmp_path_factory.mktemp("untied")
    model = AutoModelForCausalLM.from_pretrained(world.base)
    weights = model.state_dict()
    model.config.tie_word_embeddings = False
    twin = AutoModelForCausalLM.from_config(model.config)
    twin.load_state_dict(weights | {"lm_head.weight": weights["model.embed_tokens.weight"] * 0.5})
    twin.save_pretrained(folder)
    PreTrainedTokenizerFast.from_pretrained(world.base).save_pretrained(folder)
    return replace(world, base=folder)


@pytest.mark.parametrize("finetune", ["full", "lora"])
def test_an_output_layer_of_its_own(untied, tmp_path, finetune):
    settings = settings_of("sft", **SHAPE)
    whole, sharded = tmp_path / "whole", tmp_path / "sharded"
    train(place(whole), untied, settings, "sft", finetune=finetune)
    assert "lm_head.weight" in weights_of(whole)
    assert ended(started(sharded_run, sharded, untied, settings, "sft", finetune=finetune)) == [0, 0]
    same(sharded, whole)


def test_every_process_holds_a_share(world, tmp_path):
    def body():
        trainer = trainer_of(tmp_path / os.environ["RANK"], world, settings_of("ppo", **VALUE), "ppo",
                             hardware=SHARDED)
        head = sum(weight.numel() for weight in trainer.learner.value_head.parameters())
        shares, every = (sum(weight.numel() for weight in found) - head for found in (trainer.parameters, trainer.weights))
        for _ in trainer.steps():  # the moments are shares too
            moments = trainer.optimizer.state_dict()["state"].values()
            assert sum(moment["exp_avg"].numel() for moment in moments) == shares + head
        (tmp_path / f"{os.environ['RANK']}.json").write_text(json.dumps([shares, every]))

    assert ended(started(body)) == [0, 0]
    (first, every), (second, _) = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first + second == every and 0.45 * every < second <= first


@pytest.mark.parametrize("finetune", ["full", "lora"])
def test_weights_are_handed_over_whole(world, tmp_path, finetune):
    """To every process, by the names and of the shapes that an unsharded policy has, as they are after training."""
    def taken(folder, hardware):
        trainer = trainer_of(folder, world, settings_of("sft", **SHAPE), "sft", finetune=finetune, hardware=hardware)
        for _ in trainer.steps():
            pass
        return dict(trainer.learner.named_weights())

    def body():
        rank = os.environ["RANK"]
        torch.save(taken(tmp_path / rank, SHARDED), tmp_path / f"{rank}.pt")

    assert ended(started(body)) == [0, 0]
    expected = taken(tmp_path / "whole", {})
    assert all(("lora_" in name) == (finetune == "lora") and not weight.requires_grad for name, weight in expected.items())
    for rank in (0, 1):
        weights = torch.load(tmp_path / f"{rank}.pt")
        assert list(weights) == list(expected)
        for name, weight in weights.items():
            torch.testing.assert_close(weight, expected[name], atol=1e-5, rtol=0)


RESUMED = {"sft": ("sft", "full", {}), "dpo, adapters": ("dpo", "lora", {}), "ppo": ("ppo", "full", VALUE)}
TRUTH = ("metrics.jsonl", "model/model.safetensors")


@pytest.mark.parametrize("run", RESUMED)
@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_is_as_if_it_had_not_been(world, folders, tmp_path, run, killed):
    """One of the two dies, the other with it; both start again from the last checkpoint that was whole."""
    name, finetune, changes = RESUMED[run]
    settings = settings_of(name, optimizer={"schedule": "linear", "warmup_steps": 2}, **SHAPE | changes)
    options = folders[name] | {"finetune": finetune, "hardware": SHARDED | {"checkpoint_seconds": 0.0}}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert ended(started(sharded_run, whole, world, settings, name, **options)) == [0, 0]

    def dying(*arguments, **keywords):
        moments = []
        kept, save = sharding.kept, checkpoint.save

        def saving(path, trainer, extra):
            moments.clear()
            save(path, trainer, extra)

        def dying_at_the_fourth(moment):
            moments.append(moment)
            if (broken / "work" / "checkpoint.pt").exists() and len(moments) == 4 and os.environ["RANK"] == str(killed):
                os.kill(os.getpid(), signal.SIGKILL)
            return kept(moment)

        sharding.kept, checkpoint.save = dying_at_the_fourth, saving
        sharded_run(*arguments, **keywords)

    codes = ended(started(dying, broken, world, settings, name, **options))
    assert codes[killed] == -signal.SIGKILL and codes[1 - killed] != 0
    assert torch.load(broken / "work" / "checkpoint.pt", weights_only=True)["step"] == 1
    kept = (broken / "work" / "timings.jsonl").read_bytes().splitlines(keepends=True)[0]
    assert ended(started(sharded_run, broken, world, settings, name, **options)) == [0, 0]
    for file in TRUTH:
        assert (broken / "out" / file).read_bytes() == (whole / "out" / file).read_bytes()
    assert (broken / "out" / "timings.jsonl").read_bytes().startswith(kept)


@pytest.mark.parametrize("finetune", ["full", "lora"])
@pytest.mark.parametrize("first", ["whole", "sharded"])
def test_a_run_goes_on_in_another_arrangement(world, tmp_path, finetune, first):
    """The machine may change between two starts of a run, as nothing of it changes a number."""
    settings = settings_of("sft", **SHAPE)
    at_once, moved = tmp_path / "at once", tmp_path / "moved"
    train(place(at_once), world, settings, "sft", finetune=finetune)

    def stopping(hardware):
        here = place(moved, checkpoint_seconds=0.0, **hardware)

        def progress(step, total, note=""):
            if step == 2:
                os._exit(9)

        train(replace(here, progress=progress), world, settings, "sft", finetune=finetune)

    hardware = {"whole": {}, "sharded": SHARDED}
    processes = {"whole": 1, "sharded": 2}
    second = "sharded" if first == "whole" else "whole"
    assert 9 in ended(started(stopping, hardware[first], processes=processes[first]))
    assert torch.load(moved / "work" / "checkpoint.pt", weights_only=True)["step"] == 1
    children = started(sharded_run, moved, world, settings, "sft", hardware[second], processes=processes[second],
                       finetune=finetune)
    assert set(ended(children)) == {0}
    same(moved, at_once)
