"""When two problems are the same one, whoever typed them: so that no test problem is trained on."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

from rlfamily.tasks.support.puzzles import PuzzleKey

Item = TypeVar("Item")
_RUN = re.compile(r"\d+(?:(?:\s*,\s*|\s+and\s+|\s+)\d+)+")
_INTEGER = re.compile(r"\d+")


def normal(text: str) -> str:
    """A text without what does not tell problems apart: Unicode form (NFKC), case, blanks, line ends, invisible marks.

    Problems are the same when this is equal. It is for comparing only: what is kept stays as it was written.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return "".join(letter for letter in folded if not letter.isspace() and unicodedata.category(letter) != "Cf")


def unseen(
    items: Iterable[Item], marks: Callable[[Item], Iterable[Hashable]], held_out: set[Hashable],
    left_out: Counter[str], what: str, count: int | None = None,
) -> list[Item]:
    """The first `count` items (None: all) that share no mark with `held_out`, nor with one taken before.

    The others met on the way are counted in `left_out`, under `what` they are.
    """
    taken: list[Item] = []
    met: set[Hashable] = set()
    for item in items:
        found = set(marks(item))
        if found & held_out:
            left_out[f"{what} that are held out"] += 1
        elif found & met:
            left_out[f"repeated {what}"] += 1
        else:
            met |= found
            taken.append(item)
        if len(taken) == count:
            break
    return taken


def puzzles_in(text: str) -> set[PuzzleKey]:
    """Every puzzle that a text may ask for: integers in a row, in any order, and another integer of it as the target.

    The target may also be the last or the first of the row. Texts of any template: too many are found, not too few.
    """
    plain = unicodedata.normalize("NFKC", text)
    runs = [list(map(int, _INTEGER.findall(run))) for run in _RUN.findall(plain)]
    targets = set(map(int, _INTEGER.findall(plain)))
    return {key for run in runs for key in (
        *_keys(run, targets), *_keys(run[:-1], run[-1:]), *_keys(run[1:], run[:1]))}


def _keys(numbers: Sequence[int], targets: Iterable[int]) -> list[PuzzleKey]:
    return [(tuple(sorted(numbers)), target) for target in targets]
