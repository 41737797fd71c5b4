"""README and CONTRIBUTING do what they say: every command is carried out (dry where long), every list is complete.

A command that no rule below covers fails. The commands of the two recipes run in test_recipes.py.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import pytest
from documents import (
    CHANGELOG,
    CONTRIBUTING,
    README,
    RECIPES,
    REPOSITORY,
    anchors,
    blocks,
    environment,
    links,
    present,
    table,
    tracked,
)

from bench import report
from rlfamily import __version__, algorithms, execution, experiment, judges, tasks
from rlfamily.composing import expand
from rlfamily.config import RunConfig, build
from rlfamily.plan import cells, stages
from rlfamily.reproduce import choose_rows

BIN = Path(sys.executable).parent
MAKEFILE = (REPOSITORY / "Makefile").read_text()
DOCUMENTS = (README, CONTRIBUTING, CHANGELOG, *sorted((REPOSITORY / "docs").glob("*.md")))
COMMANDS = list(dict.fromkeys(command for document in DOCUMENTS for block in blocks(document)
                              if block.language == "bash" and block.heading not in RECIPES
                              for command in block.commands()))
QUICK = "topr_tab1"  # trains nothing, so it runs for real
FOLDERS = ("rlfamily", "eval", "bench", "conf", "experiments")
RESULTS = ("results/", "bench/results/")  # made by commands: a document may name what is not there yet


@dataclass(frozen=True)
class Shell:
    """Runs what a document says, in this environment and with results elsewhere."""

    results: Path

    def run(self, *words: str) -> str:
        """Carry out a program of this environment; returns what it printed."""
        done = subprocess.run([str(BIN / words[0]), *words[1:]], cwd=REPOSITORY, env=environment(), text=True,
                              capture_output=True, check=False)
        assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """With the results of one table that trains nothing."""
    shell = Shell(tmp_path_factory.mktemp("docs") / "results")
    shell.run("python", "-m", "rlfamily.reproduce", QUICK, f"results={shell.results}")
    return shell


def _stood_in(shell: Shell, word: str) -> str:
    """A folder, or a file, of the reader's own machine: here an empty one."""
    key, _, path = word.partition("=")
    if not path.startswith(("/models/", "/data/")):
        return word
    folder = shell.results.parent / path.strip("/")
    if folder.suffix in (".json", ".csv"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.touch()
        return f"{key}={folder}"
    folder.mkdir(parents=True, exist_ok=True)
    return f"{key}={folder}"


def reproduce(shell: Shell, *words: str) -> None:
    """For real when it trains nothing or only explains itself, else as a plan."""
    if "--help" in words:
        assert "usage:" in shell.run("python", "-m", "rlfamily.reproduce", *words)
        return
    rest = [_stood_in(shell, word) for word in words if not word.startswith("results=")]
    dry = ["--plan"] if QUICK not in rest and "--plan" not in rest else []
    printed = shell.run("python", "-m", "rlfamily.reproduce", *dry, *rest, f"results={shell.results}")
    assert "cells, " in printed if dry or "--plan" in rest else "report " in printed


def train(shell: Shell, *words: str) -> None:
    """Every cell is composed, checked and planned; a single one also goes through the command line."""
    overrides = [word for word in words if "=" in word]
    found = expand(overrides)
    assert (len(found) > 1) == ("-m" in words), "a sweep needs -m, a single cell does not"
    assert all(stages(build(cell), ["train", "score"])["score"].key for cell in found)
    if "-m" not in words:
        assert "algorithm:" in shell.run("python", "-m", "rlfamily.train", *overrides, "--cfg", "job")


def evaluate(shell: Shell, *words: str) -> None:
    """For real, on the quick table."""
    rest = words[:words.index("--results")] if "--results" in words else words
    assert str(shell.results) in shell.run("python", "-m", "eval", *rest, "--results", str(shell.results))


def bench(shell: Shell, *words: str) -> None:
    """Its parts and options exist; what they measure is run by tests/bench."""
    known = {*report.PARTS, *re.findall(r"--\w+", shell.run("python", "-m", "bench", "--help"))}
    assert set(words) <= known, f"no such part or option: {set(words) - known}"


def check_tests(shell: Shell, *words: str) -> None:
    """pytest reads its options and finds the paths; the tests themselves are running already."""
    paths = [word for word in words if re.fullmatch(r"[\w./]+/[\w./]+", word)]
    assert all((REPOSITORY / path).exists() for path in paths), f"no such test: {paths}"
    shell.run("python", "-m", "pytest", *words, "--version")


def mutants(shell: Shell, *words: str) -> None:
    """The modules and options exist; none of the mutants is tried."""
    assert "0 of 0 mutants" in shell.run("python", "-m", "tests.mutants", *words, "--sample", "0")


MODULES: dict[str, Callable[..., None]] = {
    "rlfamily.reproduce": reproduce,
    "rlfamily.train": train,
    "eval": evaluate,
    "pytest": check_tests,
    "bench": bench,
    "tests.mutants": mutants,
}
TOOLS: dict[str, Callable[..., None]] = {
    "ruff": lambda shell, *words: shell.run("ruff", *words, "--help"),
    "mypy": lambda shell, *words: shell.run("mypy", "--version"),
    "lint-imports": lambda shell, *words: shell.run("lint-imports", *words, "--help"),
    "jupyter-execute": lambda shell, *words: shell.run("jupyter-execute", words[0], "--version", words[-1]),
    "wandb": lambda shell, *words: shell.run("wandb", words[0], "--help"),
}


def carry_out(shell: Shell, command: str) -> None:
    """Apply the rule that covers the command; fail when there is none."""
    program, *words = shlex.split(command)
    if program == "make":
        make(shell, *words)
    elif program == "source":
        assert words == [".venv/bin/activate"]
        assert "VENV := .venv" in MAKEFILE
    elif program == ".venv/bin/python" and words[0] == "-m" and words[1] in MODULES:
        MODULES[words[1]](shell, *words[2:])
    elif program.removeprefix(".venv/bin/") in TOOLS:
        TOOLS[program.removeprefix(".venv/bin/")](shell, *words)
    else:
        pytest.fail(f"no rule covers the documented command: {command}")


def make(shell: Shell, *words: str) -> None:
    """`make -n` knows the target; what it would start in the environment is carried out by its own rule."""
    targets = [word for word in words if "=" not in word]
    assert all(re.search(rf"^{target}:.*##", MAKEFILE, re.M) for target in targets), f"no such target: {targets}"
    done = subprocess.run(["make", "-n", *words], cwd=REPOSITORY, env=environment(), capture_output=True, text=True,
                          check=False)
    assert done.returncode == 0, done.stderr
    printed = [re.sub(r"^(test ! -e \S+ \|\| )?env( -u \w+)+ ", "", line) for line in done.stdout.splitlines()]
    printed = [line.replace(".venv-newest/bin/", ".venv/bin/") for line in printed]  # the same command on another Python
    started = [line for line in printed if line.startswith(".venv/bin/") and " -m pip " not in line]
    assert started or targets in ([], ["setup"], ["setup-peer"], ["clean"]), f"make {' '.join(words)} starts nothing"
    for line in started:
        carry_out(shell, line)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_documented_command_works(shell: Shell, command: str) -> None:
    carry_out(shell, command)


@pytest.mark.parametrize("command", ["rm -rf results", "make nonsense", ".venv/bin/python -m rlfamily.nonsense",
                                     ".venv/bin/python -m rlfamily.reproduce topr_tab99",
                                     ".venv/bin/python -m rlfamily.train algorithm=topr,rloo",
                                     ".venv/bin/python -m pytest tests/nonsense",
                                     ".venv/bin/python -m bench rase", ".venv/bin/python -m bench --quik"])
def test_a_wrong_or_uncovered_command_is_noticed(shell: Shell, command: str) -> None:
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        carry_out(shell, command)


def test_the_public_commands_are_documented() -> None:
    targets = set(re.findall(r"^([a-z-]+):.*##", MAKEFILE, re.M)) - {"help"}
    documented = {command.split()[1] for command in COMMANDS if command.startswith("make ")}
    assert documented == targets
    assert {"make reproduce TABLE=topr_tab2", "make test"} <= set(COMMANDS)


def test_python_blocks_run(shell: Shell, tmp_path: Path) -> None:
    texts = [block.text for block in blocks(README) if block.language == "python"]
    assert texts
    (tmp_path / "results").symlink_to(shell.results)
    subprocess.run([sys.executable, "-c", "\n".join(texts)], cwd=tmp_path, env=environment(), check=True)


def test_the_table_of_tables_is_the_experiments_folder() -> None:
    rows = {name: (place, number, command) for name, place, _, number, command in table(README, "Tables")}
    assert set(rows) >= {Path(name).stem for name in tracked() if re.fullmatch(r"experiments/\w+\.yaml", name)}
    for name, (place, number, command) in rows.items():
        spec = experiment.load(name)
        assert (place, command) == (spec.place, f"`make reproduce TABLE={name}`")
        unasked = choose_rows({name: spec}, "")[name]
        assert int(number) == len(cells(spec, "tiny", rows=unasked)), f"{name}: wrong number of cells"


def test_the_rows_one_can_ask_for_are_the_optional_ones() -> None:
    documented = [(ending, place) for ending, places, _ in table(README, "Rows one can ask for")
                  for place in places.split(", ")]
    optional = [(name, row) for name in experiment.names() for row, one in experiment.load(name).rows.items()
                if one.optional]
    assert not [row for name, row in optional if not any(place == name and text in row for text, place in documented)]
    assert not [text for text, place in documented if not any(place == name and text in row for name, row in optional)]


def test_methods_judges_and_tasks_are_those_there_are() -> None:
    methods = {row[1].strip("`") for row in table(README, "Methods")}
    assert methods == {f"rlfamily/algorithms/{name}.py" for name in algorithms.names()}
    assert {row[0].strip("`") for row in table(README, "Judges")} == set(judges.names())
    assert {row[0].split("`")[1] for row in table(README, "Two scales")} == set(tasks.names())


def test_the_repo_map_has_every_room() -> None:
    text = next(block.text for block in blocks(README) if block.heading == "Repo map")
    entries = re.findall(r"^([\w.][\w./-]*) +\S", text, re.M)
    assert len(entries) == len(set(entries)), "a room has two lines"
    files = [Path(name) for name in tracked() if name.startswith(tuple(f"{folder}/" for folder in FOLDERS))
             and not name.startswith(RESULTS)]
    rooms = {f"{path.parent}/" for path in files} | {str(path) for path in files if str(path.parent) == "rlfamily"}
    missing = rooms - set(entries) - {"rlfamily/", "rlfamily/__init__.py"}
    assert not missing, f"no line in the repo map: {sorted(missing)}"
    gone = [name for name in entries if not (REPOSITORY / name).exists()]
    assert not gone, f"in the repo map, but not there: {gone}"


def test_the_parts_of_the_benchmark_are_those_there_are() -> None:
    assert [row[0].strip("`") for row in table(README, "Speed")] == list(report.PARTS)


def test_the_exit_codes_are_the_constants() -> None:
    documented = [int(row[0]) for row in table(README, "Interruptions, failures, exit codes")]
    assert documented == [execution.OK, execution.FAILED, execution.USAGE, execution.INCOMPLETE, execution.INTERRUPTED]


def test_the_wandb_modes_are_the_choices() -> None:
    cells = [row[0] for row in table(README, "Weights & Biases")]
    modes = get_args(RunConfig.model_fields["wandb"].annotation)
    assert {cell.split("`")[1] for cell in cells} == {f"wandb={mode}" for mode in modes}
    assert [cell for cell in cells if "(default)" in cell] == [f"`wandb={build().wandb}` (default)"]


def test_the_layers_are_the_import_contract() -> None:
    section = CONTRIBUTING.read_text().split("\n## Layers\n")[1].split("\n## ")[0]
    documented = [re.findall(r"`(rlfamily\.\w+)`", line) for line in re.findall(r"^\d+\. .*$", section, re.M)]
    contract = re.search(r'type = "layers"\nlayers = \[(.*?)\n\]', (REPOSITORY / "pyproject.toml").read_text(), re.S)
    assert contract
    assert documented == [line.split(" | ") for line in re.findall(r'"(.+)"', contract[1])]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for link in links(document):
        path, _, anchor = link.partition("#")
        target = REPOSITORY / path if path else document
        assert target.exists(), f"{document.name}: {link} leads nowhere"
        assert not anchor or anchor in anchors(target), f"{document.name}: no heading for {link}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_named_paths_and_settings_exist(document: Path) -> None:
    prose = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.M | re.S)
    names = re.findall(r"`([\w./<>*{}-]+)`", prose)
    known = set(FOLDERS) | {"tests", "results"}
    paths = [name for name in names if name.partition("/")[0] in known and "/" in name and not set(name) & set("<>*{}")]
    example = {block.path for block in blocks(document) if block.path}
    gone = [name for name in paths if not (REPOSITORY / name).exists() and name not in example
            and not name.startswith(RESULTS)]
    assert not gone, f"{document.name} names {gone}"


def test_the_changelog_has_this_version() -> None:
    headings = re.findall(r"^## (.+)$", CHANGELOG.read_text(), re.M)
    assert headings[0] == "Unreleased"
    assert headings[1].split()[0] == __version__
    assert "**[numbers]**" in CHANGELOG.read_text()


def test_the_documents_are_plain() -> None:
    hype = r"\b(blazing|state[- ]of[- ]the[- ]art|seamless(?!_m4t)|effortless|powerful|cutting[- ]edge|simply|just works)"
    for document in DOCUMENTS:
        assert not re.findall(hype, document.read_text(), re.I), document.name
        wide = [line for line in document.read_text().splitlines() if len(line) > 120 and not line.startswith("|")]
        assert not wide, f"{document.name}: lines over 120 characters: {wide}"


def test_what_is_present_is_found() -> None:
    assert "rlfamily/train.py" in present("rlfamily")
    assert len(COMMANDS) > 25
    assert os.access(REPOSITORY / ".ci" / "run", os.X_OK)
