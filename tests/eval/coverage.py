"""python -m tests.eval.coverage: how often verdicts are wrong and intervals cover, simulated on 0/1 outcomes.

Every world draws, for two methods A and B, one response to each of the same prompts, right with a known probability.
The claim "A greater than B" is judged as the product judges it: through series, bootstrap draws and claim checks.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from eval.artifacts import Archive
from eval.checks import At, Evaluator, Side
from eval.series import draw, read_series
from eval.statistics import Floats, interval
from rlfamily.quantities import Metric
from rlfamily.records import CellEntry

WORLDS = 400
METRIC = Metric(name="valid", stage="score", field="valid", better="higher")
# (chance of A, chance of B, prompts, seeds)
PAIRS = [(0.05, 0.05, 30, 1), (0.5, 0.5, 30, 1), (0.95, 0.95, 30, 1), (0.06, 0.03, 30, 1), (0.04, 0.03, 30, 1),
         (0.97, 0.96, 30, 1), (0.05, 0.05, 30, 3), (0.5, 0.5, 300, 1), (0.6, 0.4, 300, 1)]
RATES = [(1 / 30, 30, 1), (0.01, 30, 1), (0.1, 30, 1), (0.5, 30, 1), (0.97, 30, 1), (1 / 30, 30, 3), (0.2, 300, 1)]


class World:
    """Outcomes of one method in place of an archive."""

    def __init__(self, name: str, right_SI: Floats) -> None:
        self.name, self.right_SI = name, right_SI

    def rows(self, key: str, file: str) -> list[dict[str, Any]]:
        """The rows of one seed."""
        return [{"item": item, "valid": int(right)} for item, right in enumerate(self.right_SI[int(key.split()[-1])])]

    def select(self, key: str, file: str, where: object) -> list[dict[str, Any]]:
        """All of them."""
        return self.rows(key, file)

    def manifest(self, key: str) -> str:
        """Something that is not None."""
        return key

    def altered(self, key: str, file: str) -> str:
        """Nothing is."""
        return ""

    def measured(self) -> tuple[float, Floats]:
        """Value and draws, as for an entry of a table."""
        cells = [CellEntry(model="m", row=self.name, column="c", seed=seed, overrides=[], names={}, config={},
                           stages={"score": f"{self.name} {seed}"}, status="done") for seed in range(len(self.right_SI))]
        series = [read_series(cast(Archive, self), cell, METRIC) for cell in cells]
        return draw(series, METRIC, (self.name, "c"))


def outcomes(rng: np.random.Generator, chance: float, items: int, seeds: int) -> Floats:
    """Right or wrong [S, I]."""
    return (rng.random((seeds, items)) < chance).astype(float)


def verdicts(a: float, b: float, items: int, seeds: int, worlds: int = WORLDS) -> dict[str, float]:
    """Shares of the verdicts on "A greater than B"."""
    rng, words = np.random.default_rng(1), []
    for world in range(worlds):
        draws = {name: World(f"{name} {world}", outcomes(rng, chance, items, seeds)).measured()[1]
                 for name, chance in (("A", a), ("B", b))}

        def number(at: At, draws: dict[str, Floats] = draws) -> Floats:
            return draws[at["row"]]

        side = Side(number, lambda table: [], lambda table: False)
        words.append(Evaluator("c", side, {}, {}).verdict({"greater": ["A", "B"]}).word)
    return {word: words.count(word) / worlds for word in ("supported", "contradicted", "inconclusive")}


def coverage(rate: float, items: int, seeds: int, worlds: int = WORLDS) -> float:
    """Share of the worlds whose 95 % interval holds the true rate."""
    rng, held = np.random.default_rng(2), 0
    for world in range(worlds):
        low, high = interval(World(f"{world}", outcomes(rng, rate, items, seeds)).measured()[1])
        held += low <= rate <= high
    return held / worlds


def main() -> None:
    """Print both tables."""
    print("| A | B | prompts | seeds | supported | contradicted | inconclusive |\n|--:|--:|--:|--:|--:|--:|--:|")
    for a, b, items, seeds in PAIRS:
        found = verdicts(a, b, items, seeds)
        print(f"| {a} | {b} | {items} | {seeds} | " + " | ".join(f"{100 * one:.1f} %" for one in found.values()) + " |")
    print("\n| true rate | prompts | seeds | covered |\n|--:|--:|--:|--:|")
    for rate, items, seeds in RATES:
        print(f"| {rate:.3f} | {items} | {seeds} | {100 * coverage(rate, items, seeds):.1f} % |")


if __name__ == "__main__":
    main()
