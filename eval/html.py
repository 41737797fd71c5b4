"""HTML through jinja2 with autoescape on: whatever a model wrote is shown as text, never as markup.

Should a slip let markup through, the policy of every page runs no script, loads nothing and sends nothing anywhere.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from eval.artifacts import Archive
from eval.layout import share_text, sheet
from eval.tables import TableFrame
from eval.values import BAD, number_of, plain

TEMPLATES = Path(__file__).parent / "templates"


@cache
def environment() -> Environment:
    """The templates of this package; an undefined name is an error, not an empty string."""
    made = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined,
                       trim_blocks=True, lstrip_blocks=True, finalize=_printable)
    style = (TEMPLATES / "style.css").read_text("utf-8")
    made.globals.update(sheet=sheet, share_text=share_text, style=Markup(style), policy=policy(style), BAD=BAD)
    made.filters.update(slug=slug, duration=duration, size=size, short=short)
    return made


def policy(style: str) -> str:
    """Content security policy of a page with this style sheet: that style, pictures beside the page, nothing else."""
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return (f"default-src 'none'; style-src 'sha256-{digest}'; img-src 'self' file:; base-uri 'none'; "
            "form-action 'none'")


def _printable(value: Any) -> Any:
    return plain(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def short(value: Any) -> str:
    """A measured value in four digits; "no number" for what is none."""
    return format(number_of(value) + 0.0, ".4g") if isinstance(value, int | float) else "no number"


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
        return f"{prefix}{key}.html" if archive.manifest(key) else ""

    return link


def table_page(archive: Archive, frame: TableFrame, report: str = "../report/") -> str:
    """The table alone, its digits linked to the report's run pages; `report` leads there from where the page lies."""
    return render("table.html", frame=frame, link=linker(archive, f"{report}runs/"), home=f"{report}index.html")
