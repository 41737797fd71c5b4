"""Theory stage: what the paper proves, computed on enumerable worlds with the package's own losses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlfamily.stages.worker import StageContext

VERSION = "1"


def run(context: StageContext) -> dict[str, Any]:
    """Config: checks, seed. Writes theory.jsonl, a line a number. Raises UserError for an unknown check."""
    from rlfamily.records import write_jsonl
    from rlfamily.theory import checks

    rows = list(checks.run(context.config["checks"], context.config["seed"], context.progress))
    write_jsonl(context.out / "theory.jsonl", rows)
    return {"numbers": len(rows)}
