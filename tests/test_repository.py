"""Rules for the repository as a whole: sizes, secrets, configuration style, licence, what the entry points import."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path

import pytest
from documents import README, REPOSITORY, blocks, environment, tracked

TEXT = tracked("--others", "--exclude-standard")  # also what is about to be tracked
CODE = [name for name in TEXT if name.startswith(("rlfamily/", "eval/", "bench/")) and name.endswith(".py")]
CONF = [name for name in TEXT if name.startswith(("conf/", "experiments/")) and name.endswith(".yaml")]
MAKEFILE = (REPOSITORY / "Makefile").read_text()
OUTSIDE = "../" + "shared"

HOST = re.compile(r"https?://([^\s/\"'`)>]+)")
KNOWN_HOSTS = {"www.apache.org", "www.w3.org", "arxiv.org", "huggingface.co", "github.com"}
OWN_HOSTS = r".*\{|127\.0\.0\.1\b|localhost\b|HOST:PORT$"  # filled in by code, this machine, a stand-in for a name
ADDRESS = re.compile(r"\b(?!127\.0\.0\.1\b|0\.0\.0\.0\b)(?:10|172|192)\.\d{1,3}\.\d{1,3}\.\d{1,3}\b")
SECRETS = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9_-]{20,}|gh[pousr]_[A-Za-z0-9]{20,}|AKIA[A-Z0-9]{16}|xox[abp]-[\w-]{10,})"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----"
    r"|(?i:api[_-]?key|token|secret|passw(?:or)?d)[\"']?\s*[:=]\s*[\"'][\w-]{12,}[\"']")


def read(name: str) -> str:
    return (REPOSITORY / name).read_text(errors="replace")


def test_files_are_found() -> None:
    assert len(CODE) > 50
    assert len(CONF) > 15
    assert "README.md" in TEXT


def test_no_file_of_the_library_is_long() -> None:
    long = {name: lines for name in CODE if (lines := len(read(name).splitlines())) > 300}
    assert not long, f"over 300 lines: {long}"


@pytest.mark.parametrize("word", ["_target_", "@package", "${", "_partial_", "???"])
def test_configuration_holds_values_only(word: str) -> None:
    assert not [name for name in CONF if word in read(name)]


def test_there_is_one_defaults_list() -> None:
    assert [name for name in CONF if re.search(r"^defaults:", read(name), re.M)] == ["conf/config.yaml"]


def problems(text: str) -> list[str]:
    """What must not stand in a file of this repository."""
    hosts = {host for host in HOST.findall(text) if not re.match(OWN_HOSTS, host)} - KNOWN_HOSTS
    found = [f"unknown host {host}" for host in sorted(hosts)]
    found += ["looks like a secret"] * bool(SECRETS.search(text)) + ["a network address"] * bool(ADDRESS.search(text))
    return found + ["points outside of the repository"] * (OUTSIDE in text)


def test_no_secret_no_foreign_host_nothing_outside() -> None:
    bad = {name: found for name in TEXT if (found := problems(read(name)))}
    assert not bad, bad


@pytest.mark.parametrize("text", [
    "hf_" + "a1" * 15, "wandb_api_key = '" + "0f" * 20 + "'", 'password: "' + "x" * 14 + '"', "10.1" + ".2.3",
    "http://" + "proxy.local/pip", OUTSIDE + "/x",
])
def test_what_must_not_stand_there_is_found(text: str) -> None:
    assert problems(text)


@pytest.mark.parametrize(("arguments", "limit"), [
    (["-c", "import rlfamily"], 200),
    (["-m", "rlfamily.reproduce", "--help"], 1000),
    (["-m", "rlfamily.reproduce", "--plan", "no_such_table"], 1000),
    (["-m", "rlfamily.train", "algorithm=toper"], 1000),
])
def test_the_way_to_help_and_to_errors_is_light(arguments: list[str], limit: int) -> None:
    done = subprocess.run([sys.executable, "-X", "importtime", *arguments], cwd=REPOSITORY, env=environment(),
                          capture_output=True, text=True, check=False)
    imported = re.findall(r"^import time:\s+\d+ \|\s+\d+ \|\s*([\w.]+)$", done.stderr, re.M)
    heavy = {name.partition(".")[0] for name in imported} & {"torch", "transformers", "pandas", "matplotlib", "wandb"}
    assert not heavy, f"{arguments} imports {heavy}"
    assert 0 < len(imported) < limit, f"{arguments} imports {len(imported)} modules"


def test_licence() -> None:
    text = read("LICENSE")
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    assert "rlfamily contributors" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_ci_runs_the_checks_and_the_documented_tests() -> None:
    section = [block for block in blocks(README) if block.heading == "Tests and checks" and block.language == "bash"]
    documented = section[0].commands()
    assert documented[:2] == ["make test", "make check"]
    ci = [line.strip() for line in read(".ci/run").splitlines()]
    assert "make check" in ci
    assert "make test" in ci
    assert "make test-newest" in ci
    assert "set -euo pipefail" in ci, "a failing step must fail the whole"
    optional = {re.search(r'^NEED_\w+ = "(\w+)"$', read(name), re.M)[1]  # type: ignore[index]
                for name in ("tests/conftest.py", "tests/bench/conftest.py")}
    demanded = {line.removeprefix("export ").partition("=1")[0] for line in ci if line.startswith("export ")}
    assert demanded == optional, "what other machines may skip must not be skipped here"


def test_make_alone_lists_every_target() -> None:
    targets = set(re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.M)[1].split())  # type: ignore[index]
    assert targets == set(re.findall(r"^([a-z][a-z-]*):", MAKEFILE, re.M))
    done = subprocess.run(["make"], cwd=REPOSITORY, env=environment(), capture_output=True, text=True, check=True)
    assert {line.split()[0] for line in done.stdout.splitlines()[1:]} == targets


def test_the_pythons_that_work_are_said_in_one_voice() -> None:
    pythons = re.search(r"^PYTHONS := (.*)$", MAKEFILE, re.M)[1].split()  # type: ignore[index]
    minors = [int(version.removeprefix("3.")) for version in pythons]
    assert minors == list(range(minors[0], minors[-1] - 1, -1)), "newest first, without a gap"
    project = tomllib.loads(read("pyproject.toml"))["project"]
    assert project["requires-python"] == f">=3.{minors[-1]},<3.{minors[0] + 1}"
    oldest, newest = pythons[-1], pythons[0]
    assert f"You need Python {oldest}, {', '.join(pythons[-2:0:-1])} or {newest} " in read("README.md")
    assert sys.version_info[:2] in [(3, minor) for minor in minors]


@pytest.mark.parametrize(("program", "said"), [("nosuchpython", "there is no program nosuchpython"), ("./old", "./old is Python 3.10.1")])
def test_a_python_that_will_not_do_is_refused_in_one_line(tmp_path: Path, program: str, said: str) -> None:
    (tmp_path / "old").write_text('#!/bin/sh\ntest "$1" = -V && echo Python 3.10.1 && exit\nexit 1\n')
    (tmp_path / "old").chmod(0o755)
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_text(read(name))
    done = subprocess.run(["make", "setup", f"PYTHON={program}"], cwd=tmp_path, env=environment(), capture_output=True,
                          text=True, check=False)
    assert done.returncode == 2 and not (tmp_path / ".venv").exists()
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert line == f"error: {said}: install one of Python 3.13 3.12 3.11, or say make PYTHON=/path/to/it"


def test_every_requirement_has_the_same_pin_everywhere() -> None:
    def plain(name: str) -> str:
        return re.sub(r"[-_.]+", "-", name).lower()

    lines = [line.partition("#")[0].strip() for line in read("constraints.txt").splitlines()]
    exact = {plain(name): version for name, _, version in (line.partition("==") for line in lines if line)}
    project = tomllib.loads(read("pyproject.toml"))["project"]
    wanted = [*project["dependencies"], *chain.from_iterable(project["optional-dependencies"].values())]
    pinned = {plain(name): version for name, _, version in (line.partition("==") for line in wanted if "==" in line)}
    different = {name: (version, exact.get(name)) for name, version in pinned.items() if exact.get(name) != version}
    assert not different, f"pyproject.toml and constraints.txt differ, so setup fails on a bare machine: {different}"
