"""Files of logged responses: what methods learn from that draw none of their own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rlfamily.examples import Demonstration, Logged
from rlfamily.records import write_jsonl


def write(out: Path, splits: Mapping[str, Sequence[Logged]]) -> dict[str, Any]:
    """Write the logged responses of each split, and the best of each prompt (of equal ones the first) as demonstration.

    The summary says how many prompts of a split have how many responses.
    """
    summary: dict[str, Any] = {}
    for split, prompts in splits.items():
        write_jsonl(out / f"logged_{split}.jsonl", map(asdict, prompts))
        write_jsonl(out / f"demonstrations_{split}.jsonl", (asdict(_best(one)) for one in prompts))
        sizes = Counter(len(one.responses) for one in prompts)
        summary[f"logged_{split}"] = sum(size * count for size, count in sizes.items())
        summary[f"group_sizes_{split}"] = {str(size): sizes[size] for size in sorted(sizes)}
    return summary


def _best(one: Logged) -> Demonstration:
    return Demonstration(one.id, one.prompt, one.responses[one.rewards.index(max(one.rewards))])
