"""A train stage that shards: through torchrun, refused in one line, and drawing with vLLM."""

from __future__ import annotations

import json
import shutil

import pytest
from building import run_of, settings_of, train
from sharded import SHAPE, SHARDED, rows_of, same
from small import SMALL, place, stage

from rlfamily.errors import UserError


@pytest.mark.slow
def test_a_train_stage_shards(world, tmp_path):
    """As a stage starts it: through torchrun."""
    settings = settings_of("sft", **SHAPE)
    whole, inputs = tmp_path / "whole", {"data": world.data, "policy": world.base.parent}
    train(place(whole), world, settings, "sft")
    out, totals = stage(tmp_path / "results", "train", run_of(world, settings, "sft"), inputs, **SHARDED)
    shutil.copytree(out, tmp_path / "sharded" / "out")
    assert totals["processes"] == 2 and totals["steps"] == len(rows_of(whole))
    same(tmp_path / "sharded", whole)


@pytest.mark.slow
def test_what_a_process_refuses_is_one_line(world, tmp_path):
    config = run_of(world, settings_of("sft", prompts=1000000), "sft")
    with pytest.raises(UserError, match=r"data: algorithm.prompts .* asks for 20000 rows, demonstrations_train has 24"):
        stage(tmp_path, "train", config, {"data": world.data, "policy": world.base.parent}, **SHARDED)


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.parametrize("finetune", ["full", "lora"])
def test_vllm_draws_from_shares(run_cli, tmp_path, finetune):
    """A cell from the command line: two processes, an engine each, the gathered weights handed over at every step."""
    shape = ["model.heads=1", "model.kv_heads=1"]  # vLLM has no attention for smaller heads on CPUs
    done = run_cli("rlfamily.train", *SMALL, *shape, "algorithm=rloo", "algorithm.prompts=600", "algorithm.epochs=1",
                   "algorithm.optimizer.lr=1e-3", f"model.finetune={finetune}", "rollout.engine=vllm", "wandb=off",
                   "hardware.processes=2", "hardware.sharding=fsdp", f"results={tmp_path}", timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    logs = [[json.loads(line) for line in path.read_text().splitlines()] for path in tmp_path.rglob("objects/*/*/metrics.jsonl")]
    (rows,) = [rows for rows in logs if "mismatch_max" in rows[0]]
    assert len(rows) == 3 and all(row["mismatch_max"] < 2e-4 for row in rows)
