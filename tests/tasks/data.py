"""A task's data settings with another source."""

from __future__ import annotations

from typing import Any


def with_source(data: Any, source: dict[str, Any]) -> Any:
    """Checked anew."""
    return type(data).model_validate(data.model_dump() | {"source": source})
