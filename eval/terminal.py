"""A table on the terminal, in at most 100 columns."""

from __future__ import annotations

from rich import box
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from eval.layout import Sheet, Shown, sheet, verdict_text
from eval.tables import FIRST, SECOND, TableFrame

WIDTH = 100
MOST = 4  # panels side by side
RANK = {FIRST: "bold", SECOND: "underline"}
STYLE = {"supported": "green", "matches": "green", "contradicted": "red", "differs": "red", "failed": "bold red",
         "inconclusive": "yellow", "not run": "bold yellow",
         "not applicable": "dim"}


def show(frame: TableFrame, console: Console | None = None) -> None:
    """Print a table, its notes, its claims and the names in its ledger; `console` defaults to standard output."""
    target = console or Console()
    target.width = min(WIDTH, target.width) if target.is_terminal else WIDTH
    target.print(render(frame))


def render(frame: TableFrame) -> RenderableType:
    """Everything `show` prints."""
    page = sheet(frame)
    tables = [_table(part, "" if position else frame.experiment.title)
              for position, part in enumerate(page.parts(MOST))]
    below = [Text.from_markup(f"[bold yellow]{escape(frame.banner)}[/]")] if frame.banner else []
    below += [Text(f"{mark} {note}".strip(), style="dim") for mark, note in page.notes]
    return Group(*tables, *below, *_claims(frame), *_ledger(frame))


def _table(part: Sheet, title: str) -> Table:
    (block,) = part.blocks
    table = Table(title=escape(title) or None, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False,
                  caption=None, title_style="bold")
    table.add_column(escape(block.label) or "method", overflow="fold", min_width=12)
    for group in part.groups:
        for metric in group.metrics:
            table.add_column(escape(f"{group.label}\n{metric}" if group.label else metric), justify="right",
                             overflow="fold")
    for line in block.lines:
        protocol = f"\n[dim]{escape(line.protocol)}[/]" if line.protocol else ""
        mark = f" [dim]{escape(line.mark)}[/]" if line.mark else ""
        table.add_row(escape(line.label) + mark + protocol, *map(_place, line.places))
    return table


def _place(place: Shown) -> Text:
    text = Text(justify="right")
    if place.published:
        text.append(f"{place.published} | ", style="dim")
    text.append(place.reproduced, style=STYLE[place.hole] if place.hole else RANK.get(place.rank, ""))
    if place.warnings:
        text.append(f" {', '.join(place.warnings)}", style="bold red")
    if place.mark:
        text.append(f" {place.mark}", style="dim")
    if place.aside:
        text.append(f"\n{place.aside}", style=STYLE.get(place.verdict, "dim"))
    return text


def _claims(frame: TableFrame) -> list[RenderableType]:
    if not frame.claims:
        return []
    table = Table(title="Claims", box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False, title_style="bold",
                  expand=True)
    table.add_column("claim", overflow="fold", ratio=5)
    table.add_column("published numbers", overflow="fold", ratio=2)
    table.add_column("reproduced", overflow="fold", ratio=2)
    for result in frame.claims:
        table.add_row(f"{escape(result.claim.id)}  {escape(result.claim.says)}",
                      Text(result.published.word, style=STYLE.get(result.published.word, "")),
                      Text(verdict_text(result.reproduced), style=STYLE.get(result.reproduced.word, "")))
        for name, verdict in result.also.items():
            table.add_row(f"  [dim]{escape(name)}[/]", "",
                          Text(verdict_text(verdict), style=STYLE.get(verdict.word, "")))
    return [table]


def _ledger(frame: TableFrame) -> list[RenderableType]:
    """Names only: the ledger itself stands under the table in its files and in the report."""
    if not frame.deviations:
        return []
    names = ", ".join(one.id for one in frame.deviations)
    return [Text(f"{len(frame.deviations)} places where we differ from the paper, or had to choose: {names} "
                 f"(see tables/{frame.name}.md)", style="dim")]
