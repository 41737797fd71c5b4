"""One tiny world with guides for all tests here."""

from __future__ import annotations

import pytest
from guided_world import answer, build_guided
from small import build_world

from rlfamily.tasks import countdown


@pytest.fixture(scope="module")
def guided(tmp_path_factory):
    return build_guided(build_world(tmp_path_factory.mktemp("world")), tmp_path_factory.mktemp("guides"))


@pytest.fixture(autouse=True)
def answers(monkeypatch):
    """Countdown has no answers that could be counted; here its first word is one."""
    monkeypatch.setattr(countdown, "answer", answer, raising=False)
