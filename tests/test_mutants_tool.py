"""`make mutants`: it finds what the tests of a small module notice and what they do not, and leaves the files alone."""

from __future__ import annotations

import subprocess

import pytest

from tests.mutants import mutants

SMALL = '''"""A module."""


def larger(a: int, b: int) -> int:
    """The larger one."""
    return a if a > b else b


def passed(points: int) -> bool:
    """Ten points are enough."""
    return points >= 10
'''
TESTS = '''from small_module import larger, passed


def test_all():
    assert (larger(1, 2), larger(3, 2)) == (2, 3)
    assert passed(12) and passed(10) and not passed(3)
'''


@pytest.fixture
def small(tmp_path):
    (tmp_path / "small_module.py").write_text(SMALL)
    (tmp_path / "test_small_module.py").write_text(TESTS)
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    return tmp_path


def test_survivors_are_named_with_their_place(small, run_cli):
    done = run_cli("tests.mutants", "small_module.py", "--tests", "test_small_module.py", "--jobs", "2")
    assert done.stderr == ""
    assert done.returncode == 1
    assert done.stdout.splitlines()[2:] == ["small_module.py:6: > -> >=", "    return a if a > b else b",
                                            "2 of 3 mutants noticed (67%)"]
    assert (small / "small_module.py").read_text() == SMALL


def test_a_line_is_tried_alone(small, run_cli):
    done = run_cli("tests.mutants", "small_module.py:11", "--tests", "test_small_module.py")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "2 of 2 mutants noticed (100%)")


def test_a_sample_is_drawn_by_its_seed(small, run_cli):
    done = run_cli("tests.mutants", "small_module.py", "--tests", "test_small_module.py", "--sample", "0")
    assert (done.returncode, done.stdout) == (0, "0 of 0 mutants noticed\n")


def test_tests_that_fail_by_themselves_are_no_verdict(small, run_cli):
    (small / "test_small_module.py").write_text(TESTS + "    assert False\n")
    done = run_cli("tests.mutants", "small_module.py", "--tests", "test_small_module.py")
    assert done.returncode == 2
    assert "its tests fail without any mutant" in done.stderr


@pytest.mark.parametrize(("code", "after"), [
    ("x = a < b", ["x = a <= b"]), ("x = a is not None", ["x = a is None"]), ("x = (a) + (b)", ["x = (a) - (b)"]),
    ("x = 0.5", ["x = 0.25"]), ("x = True", ["x = False"]), ("x = a and not b", ["x = a or not b", "x = a and b"]),
    ("f(a, key=b)", ["pass", "f(a)"]), ("x = min(a, b)", ["x = max(a, b)"]), ("x += y", ["x -= y", "pass"]),
    ("zip(a, strict=True)", ["pass"]), ("f(a, device=b)", ["pass"]), ("VERSION = 3", []), ("raise KeyError(1 + 2)", ["pass"]),
    ("def f(a: int = 3) -> 'x': ...", ["def f(a: int = 4) -> 'x': ..."]), ("x = 'é', 1", ["x = 'é', 2"]),
    ("floor = ceil(a)", ["floor = floor(a)"]), ("floor = 'a'; f(floor)", ["floor = 'a'; pass"]),
    ("x = {'red': (9, 0, 0)}", []), ("x = {'red': 1}", ["x = {'red': 2}"]), ("x = [(a < b, 'c')]", ["x = [(a <= b, 'c')]"]),
])
def test_mistakes(code, after):
    assert sorted(one.applied(code) for one in mutants(code)) == sorted(after)
