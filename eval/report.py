"""results/report/: a static page of every table and figure, and a page for every artifact behind a digit.

The folder stands alone: figures and tables are copied into it, every address in it is relative, and it opens by double
click without a network.
"""

from __future__ import annotations

import re
import shutil
from collections import Counter
from pathlib import Path

from eval import verdicts
from eval.artifact_pages import Lineage, artifact_page
from eval.artifacts import Archive
from eval.claims import ClaimResult
from eval.html import linker, render, table_page
from eval.produce import produce
from eval.samples import sample_pages
from eval.tables import Book, TableFrame
from rlfamily.errors import UserError
from rlfamily.experiment import EXPERIMENTS
from rlfamily.records import write_atomic

FIGURE_SUFFIXES = ("svg", "png", "csv")
TABLE_SUFFIXES = ("csv", "md", "tex", "html")
WORDS = (verdicts.SUPPORTED, verdicts.CONTRADICTED, verdicts.INCONCLUSIVE, verdicts.NOT_CHECKABLE, verdicts.NOT_RUN)


def build_report(results_root: Path | str, experiments: Path = EXPERIMENTS) -> Path:
    """Rebuild every table and figure that has an index, and the report; return the path of its index.html.

    Raises UserError (one line) when nothing has been run yet.
    """
    return publish(results_root, experiments)[0]


def publish(
    results_root: Path | str, experiments: Path = EXPERIMENTS
) -> tuple[Path, dict[str, TableFrame], dict[str, str]]:
    """As `build_report`, returning the tables by name as well, and by name why others cannot be made."""
    archive = Archive(Path(results_root), experiments)
    if not archive.names():
        raise UserError(f"report: no results under {archive.layout.index}: run make reproduce TABLE=topr_tab2 first")
    book = Book(archive)
    made, broken = _produced(book)
    frames = sorted(made, key=place_order)
    lineage = Lineage.of(archive)
    _copy(archive, frames)
    _write_runs(archive, lineage)
    browsable = {frame.name for frame in frames if _write_samples(archive, frame)}
    report = archive.layout.report
    write_atomic(report / "index.html", render(
        "index.html", frames=frames, link=linker(archive, "runs/"), figures=_figures(report), claims=_claims(frames),
        tally=_tally(frames), words=WORDS, lineage=lineage, short=short_place, suffixes=TABLE_SUFFIXES,
        figure_suffixes=FIGURE_SUFFIXES, browsable=browsable, broken=broken))
    return report / "index.html", {frame.name: frame for frame in frames}, broken


def _produced(book: Book) -> tuple[list[TableFrame], dict[str, str]]:
    """Every table that can be made, and of the others the reason: one damaged table takes no other with it."""
    made, broken = [], {}
    for name in book.archive.names():
        try:
            made.append(produce(book, name))
        except UserError as error:
            broken[name] = str(error)
    return made, broken


def place_order(frame: TableFrame) -> tuple[str, bool, str, int, str]:
    """Papers apart; in a paper tables before figures, by their numbers; what the paper does not print comes last."""
    match = re.match(r"(Table|Figure)\s+(\d+)", frame.experiment.place)
    kind, number = (match[1], int(match[2])) if match else ("Z", 0)
    return frame.experiment.paper, not match, {"Table": "a", "Figure": "b"}.get(kind, "c"), number, frame.name


def short_place(frame: TableFrame) -> str:
    """A label for the navigation: the paper's own place, or the experiment's name."""
    match = re.match(r"(Table|Figure|Section)\s+\d+", frame.experiment.place)
    return match[0] if match else frame.name


def _claims(frames: list[TableFrame]) -> list[tuple[ClaimResult, list[str]]]:
    """Every claim once, with the tables shown here that it concerns."""
    shown = [frame.name for frame in frames]
    by_id = {result.claim.id: result for frame in frames for result in frame.claims}
    return [(result, [name for name in shown if name in result.claim.tables]) for _, result in sorted(
        by_id.items(), key=lambda item: [int(part) if part.isdigit() else part
                                         for part in re.split(r"(\d+)", item[0])])]


def _tally(frames: list[TableFrame]) -> dict[str, Counter[str]]:
    claims = [result for result, _ in _claims(frames)]
    holes = Counter({"printed": sum(entry.metric.shown and entry.hole != verdicts.NOT_APPLICABLE
                                    for frame in frames for entry in frame.entries)})
    holes["holes"] = sum(len(frame.holes) for frame in frames)
    return {
        "numbers": holes,
        "published": Counter(result.published.word for result in claims),
        "reproduced": Counter(result.reproduced.word for result in claims),
    }


def _copy(archive: Archive, frames: list[TableFrame]) -> None:
    layout = archive.layout
    for folder, source, suffixes in (("figures", layout.figures, FIGURE_SUFFIXES),
                                     ("tables", layout.tables, TABLE_SUFFIXES)):
        target = layout.report / folder
        target.mkdir(parents=True, exist_ok=True)
        for frame in frames:
            for suffix in suffixes:
                path = source / f"{frame.name}.{suffix}"
                if suffix == "html":  # its links lead elsewhere from there
                    write_atomic(target / path.name, table_page(archive, frame, "../"))
                elif path.is_file():
                    shutil.copyfile(path, target / path.name)
                else:
                    (target / path.name).unlink(missing_ok=True)


def _figures(report: Path) -> set[str]:
    return {path.stem for path in (report / "figures").glob("*.svg")}


def _write_runs(archive: Archive, lineage: Lineage) -> None:
    pages = {f"{key}.html": artifact_page(archive, lineage, key) for key in lineage.pages}
    _write_pages(archive.layout.report / "runs", pages | {"index.html": render("runs.html", lineage=lineage)})


def _write_samples(archive: Archive, frame: TableFrame) -> bool:
    """Write the pages of an experiment of kind samples; False when there are none."""
    pages = sample_pages(archive, frame) if frame.experiment.kind == "samples" else {}
    _write_pages(archive.layout.report / "samples" / frame.name, pages)
    return bool(pages)


def _write_pages(folder: Path, pages: dict[str, str]) -> None:
    for stale in set(folder.glob("*.html")) - {folder / name for name in pages}:
        stale.unlink()
    for name, text in pages.items():
        path = folder / name
        # Writing takes longer than reading: it waits for the disk.
        if not path.is_file() or path.read_text("utf-8", errors="replace") != text:
            write_atomic(path, text)
