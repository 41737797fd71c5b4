"""The peer of the race has an environment of its own, which may be missing: then its tests are skipped, or fail where
NEED_PEER says that it must be there.
"""

from __future__ import annotations

import os

import pytest

from bench import race

NEED_PEER = "RLFAMILY_NEED_PEER"
"""Environment variable: 1 makes tests of the race fail where the peer is missing. Set in .ci/run."""


@pytest.fixture
def peer():
    """There is a peer."""
    if not race.PEER.exists():
        lacks = "the peer is not installed: make setup-peer"
        pytest.fail(lacks) if os.environ.get(NEED_PEER) == "1" else pytest.skip(lacks)
