"""HTML through jinja2 with autoescape on: whatever a model wrote is shown as text, never as markup."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from eval.artifacts import Archive
from eval.layout import share_text, sheet
from eval.tables import TableFrame

TEMPLATES = Path(__file__).parent / "templates"


@cache
def environment() -> Environment:
    """The templates of this package; an undefined name is an error, not an empty string."""
    made = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined,
                       trim_blocks=True, lstrip_blocks=True)
    made.globals.update(sheet=sheet, share_text=share_text)
    made.filters.update(slug=slug, duration=duration, size=size)
    return made


def render(template: str, **names: Any) -> str:
    """A template's text."""
    return environment().get_template(template).render(**names)


def slug(word: str) -> str:
    """A css class for a verdict: its letters, other characters as dashes."""
    return "".join(character if character.isalnum() else "-" for character in word.lower()).strip("-")


def duration(seconds: float) -> str:
    """Seconds for people."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def linker(archive: Archive, prefix: str) -> Callable[[str], str]:
    """Maps an artifact key to the address of its page, or to "" when it has none."""

    def link(key: str) -> str:
        layout = archive.layout
        return f"{prefix}{key}.html" if archive.manifest(key) or layout.failure(key).is_file() else ""

    return link


def table_page(archive: Archive, frame: TableFrame) -> str:
    """results/tables/<name>.html: the table alone, its digits linked to the report's run pages."""
    return render("table.html", frame=frame, link=linker(archive, "../report/runs/"), home="../report/index.html")
