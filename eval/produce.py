"""Writing one experiment: results/tables/<name>.{csv,md,tex,html} and results/figures/<name>.{png,svg,csv}."""

from __future__ import annotations

from pathlib import Path

from eval.artifacts import Archive
from eval.html import table_page
from eval.plots import write
from eval.tables import COLUMNS, Book, TableFrame, records, to_csv
from eval.text import to_latex, to_markdown
from rlfamily.experiment import EXPERIMENTS
from rlfamily.records import write_atomic


def build(name: str, results_root: Path | str, experiments: Path = EXPERIMENTS) -> TableFrame:
    """Make one experiment's table and figure from what is under `results_root`, write them, return the table.

    Raises UserError (one line) when the experiment has no index there.
    """
    return produce(Book(Archive(Path(results_root), experiments)), name)


def produce(book: Book, name: str) -> TableFrame:
    """As `build`, sharing the book's entries with the other tables made from it."""
    frame = book.frame(name)
    layout = book.archive.layout
    for suffix, text in (
        ("csv", to_csv(records(frame), COLUMNS)), ("md", to_markdown(frame)), ("tex", to_latex(frame)),
        ("html", table_page(book.archive, frame)),
    ):
        write_atomic(layout.tables / f"{name}.{suffix}", text)
    write(book.archive, frame, layout.figures)
    return frame
