"""Which mistakes would the tests not notice?

    python -m tests.mutants MODULE.py [MODULE.py ...] [--sample N] [--seed N] [--jobs N] [--tests FILE ...]
    python -m tests.mutants MODULE.py:LINE ...     only those lines, for instance of survivors, with other tests
    python -m tests.mutants --changed [REV]        only the lines of rlfamily/ and eval/ that changed since REV (HEAD)

Each mutant is a module with one small mistake: `<` for `<=`, `+` for `-`, another number, a keyword left out, ... Its
tests run on it in a copy of the repository, until the first fails. Printed is what survived, as file:line, before and
after. The tests of a module are those that import it or its package by name, and those of the folder that mirrors its
own; `--tests` takes others. By hand: a whole module takes minutes. `--sample` takes that many of all mutants by chance.
"""

from __future__ import annotations

import argparse
import ast
import random
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from . import Mutant, mutants
from .running import Copy, Found, dotted, quickest_first, run

SLOWEST = 3600.0  # seconds that the tests of a module may take without a mutant
APART = ("test_fingerprints.py", "test_docs.py", "test_mutants_tool.py")  # these read sources, or call whole commands


def imported(text: str) -> set[str]:
    """Every dotted name that a source imports: `from a import b` gives a and a.b."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {one.name for one in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module, *(f"{node.module}.{one.name}" for one in node.names)}
    return found


def tests_of(root: Path, module: str) -> list[str]:
    """Files of tests that belong to a module: by what they import, and by their folder."""
    name = dotted(module)
    package = name.rpartition(".")[0]
    wanted = {name} | ({package} if "." in package else set())
    folder = root / "tests" / Path(module).parent.relative_to("rlfamily" if module.startswith("rlfamily/") else ".")
    found = []
    for path in sorted((root / "tests").rglob("test_*.py")):
        mirrors = path.parent == folder and folder != root / "tests"
        if path.name not in APART and (mirrors or wanted & imported(path.read_text())):
            found.append(str(path.relative_to(root)))
    return found


def changed_lines(root: Path, revision: str) -> dict[str, set[int]]:
    """Lines of rlfamily/ and eval/ that are new since a revision, by file."""
    text = subprocess.run(["git", "diff", "-U0", "--no-color", revision, "--", "rlfamily", "eval"], cwd=root,
                          capture_output=True, text=True, check=True).stdout
    found: dict[str, set[int]] = {}
    name = ""
    for line in text.splitlines():
        if line.startswith("+++ "):
            name = line.removeprefix("+++ ").removeprefix("b/")
        elif hunk := re.match(r"@@ -\S+ \+(\d+)(?:,(\d+))? @@", line):
            first, count = int(hunk[1]), int(hunk[2] or 1)
            found.setdefault(name, set()).update(range(first, first + count))
    return {name: lines for name, lines in found.items() if name.endswith(".py") and lines}


def asked_lines(modules: list[str]) -> dict[str, set[int] | None]:
    """Lines by file of `MODULE.py` (all of them: None) and `MODULE.py:LINE`."""
    found: dict[str, set[int] | None] = {}
    for module, _, line in (one.partition(":") for one in modules):
        known = found.setdefault(module, set() if line else None)
        if known is not None:
            known.add(int(line))
    return found


def arguments(given: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", metavar="MODULE.py[:LINE]")
    parser.add_argument("--changed", nargs="?", const="HEAD", metavar="REV", help="only what changed since REV")
    parser.add_argument("--tests", nargs="+", metavar="FILE", help="these instead of the modules' own")
    parser.add_argument("--sample", type=int, metavar="N", help="so many of all mutants, by chance")
    parser.add_argument("--seed", type=int, default=0, help="of --sample")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="mutants at once")
    parser.add_argument("--limit", type=float, metavar="SECONDS", help="for one mutant; else thrice what its tests take")
    made = parser.parse_args(given)
    if bool(made.modules) == bool(made.changed):
        parser.error("name modules, or --changed [REV]")
    return made


def choose(root: Path, asked: argparse.Namespace) -> list[tuple[str, Mutant]]:
    """The mutants to try, each with its module. Raises FileNotFoundError for a module that is not there."""
    lines = changed_lines(root, asked.changed) if asked.changed else asked_lines(asked.modules)
    every = [(module, one) for module, only in lines.items() for one in mutants((root / module).read_text())
             if only is None or one.line in only]
    if asked.sample is None or asked.sample >= len(every):
        return every
    return [every[position] for position in sorted(random.Random(asked.seed).sample(range(len(every)), asked.sample))]


def by_tests(
    root: Path, chosen: list[tuple[str, Mutant]], given: list[str] | None
) -> dict[tuple[str, ...], list[tuple[str, Mutant]]]:
    """The mutants of modules with the same tests together. Raises LookupError for a module that has none."""
    made: dict[tuple[str, ...], list[tuple[str, Mutant]]] = {}
    known = {module: tuple(given or tests_of(root, module)) for module in dict(chosen)}
    for module, one in chosen:
        if not known[module]:
            raise LookupError(f"{module}: no test imports it, and no folder mirrors it: name some with --tests")
        made.setdefault(known[module], []).append((module, one))
    return made


def told(found: Found) -> str:
    """One survivor, for people."""
    mutant = found.mutant
    before, after = (" ".join(text.split()) or "nothing" for text in (mutant.before, mutant.after))
    return f"{found.module}:{mutant.line}: {before} -> {after}"


def report(root: Path, found: Iterable[Found]) -> Counter[str]:
    """Print survivors, each with its line, as they come; how many there were of each word."""
    words: Counter[str] = Counter()
    for one in found:
        words[one.word] += 1
        if one.word == "survived":
            line = (root / one.module).read_text().splitlines()[one.mutant.line - 1]
            print(f"{told(one)}\n    {line.strip()}", flush=True)
    return words


def main(given: list[str]) -> int:
    """Exit status 1 when something survived, 2 when the tests fail by themselves or the command makes no sense."""
    asked, root = arguments(given), Path.cwd()
    words: Counter[str] = Counter()
    try:
        groups = by_tests(root, choose(root, asked), asked.tests)
        with tempfile.TemporaryDirectory(prefix="mutants-") as scratch:
            copies = [Copy.of(root, Path(scratch).resolve() / str(job)) for job in range(asked.jobs)]
            for tests, some in groups.items():
                for copy in copies:
                    ordered, seconds = quickest_first(copy, some[0][0], tests, SLOWEST)
                print(f"{len(some)} mutants of {', '.join(dict(some))}\n"
                      f"on {len(ordered)} files of tests, {seconds:.0f} s without a mutant", flush=True)
                words += report(root, run(copies, some, ordered, asked.limit or 10 + 3 * seconds))
    except (OSError, LookupError, RuntimeError, subprocess.CalledProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    noticed, total = words.total() - words["survived"], words.total()
    print(f"{noticed} of {total} mutants noticed" + (f" ({noticed / total:.0%})" if total else ""))
    return int(words["survived"] > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
