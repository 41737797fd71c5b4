"""A synthetic results folder, and the tables, figures and report made from it, once for the whole family."""

from __future__ import annotations

from pathlib import Path

import pytest
from fixture import make_results

from eval.artifacts import Archive
from eval.report import build_report
from eval.tables import Book


@pytest.fixture(scope="session")
def root(tmp_path_factory) -> Path:
    """A results root with its report built; tests must not change it."""
    folder = make_results(tmp_path_factory.mktemp("eval") / "results")
    build_report(folder)
    return folder


@pytest.fixture(scope="session")
def book(root) -> Book:
    return Book(Archive(root))
