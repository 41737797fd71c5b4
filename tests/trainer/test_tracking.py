"""The wandb mirror: complete or absent, never a second truth."""

from __future__ import annotations

import pytest
from building import settings_of, train
from small import place

from rlfamily.errors import UserError
from rlfamily.trainer.tracking import Mirrored, make_tracker


def test_off_writes_nothing(world, tmp_path):
    here = place(tmp_path, wandb="off")
    train(here, world, settings_of("sft"), "sft")
    assert {file.name for file in tmp_path.iterdir()} == {"work", "out"}


@pytest.mark.slow
def test_offline_writes_one_finished_run(world, tmp_path):
    here = place(tmp_path, wandb="offline", wandb_names={"table": "P Table 1", "task": "countdown_tiny", "model": "m"})
    train(here, world, settings_of("sft"), "sft")
    (run,) = (tmp_path / "wandb").glob("offline-run-*")
    (file,) = run.glob("run-*.wandb")
    content = file.read_bytes()
    for field in (b"train/grad_norm", b"train/entropy", b"train/lr", b"label", b"P Table 1", b"countdown_tiny", b"clip_norm"):
        assert field in content


def test_online_needs_a_key(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with pytest.raises(UserError, match="wandb=online needs WANDB_API_KEY in the environment"):
        make_tracker("online", Mirrored(tmp_path, "key", "label", {}, {}))
