"""What a person sees while stages run: a live table on a terminal, plain lines anywhere else.

Both are listeners of the scheduler's events, and both read progress.json of running stages, as anyone else may.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from pathlib import Path
from statistics import mean
from types import TracebackType
from typing import Protocol, Self, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rlfamily.records import Progress
from rlfamily.stages.forecast import History
from rlfamily.stages.graph import Node
from rlfamily.stages.scheduler import Event, needed
from rlfamily.stages.store import Store

HEARTBEAT_SECONDS = 10.0
_REFRESH_PER_SECOND = 4
_BAR_WIDTH = 24


def clock(seconds: float | None) -> str:
    """Seconds for people: "8 s", "3 min 05 s", "2 h 07 min"; "?" for None."""
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


class Outlook:
    """Which stages are left and how long they may take. Fed with events, asked by the views.

    capacity  stages that run at once
    """

    def __init__(self, targets: Iterable[Node], root: Path | str, capacity: int) -> None:
        self._store = Store(root)
        self._capacity = capacity
        self._history = History(self._store)
        self._pending = {node.key: node for node in needed(targets, self._store)}
        self.running: dict[str, Node] = {}
        self.total = len(self._pending)
        self.done = 0
        self.failed = 0

    def update(self, event: Event) -> None:
        """Take note of an event."""
        self.done = event.done
        if event.node is None:
            return
        key = event.node.key
        if event.name == "started":
            self.running[key] = self._pending[key]
        elif event.name in ("committed", "failed", "blocked"):
            self._pending.pop(key, None)
            self.running.pop(key, None)
            self.failed += event.name == "failed"
            if event.name == "committed":
                self._history.add(event.node, self.took(event.node))

    def took(self, node: Node) -> float:
        """Seconds that a committed stage took."""
        return self._store.layout.manifest(node.key).seconds

    def progress(self, node: Node) -> Progress | None:
        """Where a running stage is, or None when it has not said so yet."""
        try:
            return Progress.model_validate_json((self._store.layout.work(node.key) / "progress.json").read_bytes())
        except (OSError, ValueError):
            return None

    def left(self, node: Node) -> float | None:
        """Seconds left for one stage: by its own speed when it runs, else by its like; None when nothing is known."""
        progress = self.progress(node) if node.key in self.running else None
        if progress is not None and progress.step > 0:
            return progress.seconds * max(progress.total - progress.step, 0) / progress.step
        return self._history.seconds(node)

    def remaining(self) -> float | None:
        """Seconds left for everything that is known: a stage without history counts like the mean of its kind.

        Kinds of which nothing is known yet count nothing (see `time_left`); None when that is all of them.
        """
        lefts = [(node.kind, self.left(node)) for node in list(self._pending.values())]
        known: dict[str, list[float]] = {}
        for kind, left in lefts:
            if left is not None:
                known.setdefault(kind, []).append(left)
        if not known:
            return None if lefts else 0.0
        total = sum(mean(known[kind]) for kind, _ in lefts if kind in known)
        lanes = max(1, min(self._capacity, len(lefts)))
        return max(max(map(max, known.values())), total / lanes)

    def time_left(self) -> str:
        """For people: "2 min 05 s left", "over 2 min 05 s left" while some kind of stage is unknown, "? left"."""
        seconds, kinds = self.remaining(), {node.kind for node in list(self._pending.values())}
        known = {node.kind for node in list(self._pending.values()) if self.left(node) is not None}
        return f"{'over ' if seconds is not None and kinds - known else ''}{clock(seconds)} left"


class View(Protocol):
    """A listener that is entered before the first event and left after the last."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def __call__(self, event: Event) -> None:
        """Show an event."""
        ...


def view(targets: Iterable[Node], root: Path | str, capacity: int, stream: TextIO = sys.stdout) -> View:
    """The right view for `stream`: live on a terminal, lines elsewhere."""
    outlook = Outlook(targets, root, capacity)
    return LiveView(outlook, Console(file=stream)) if stream.isatty() else LineView(outlook, stream)


def describe(event: Event, outlook: Outlook) -> str:
    """One line for an event, "" for a tick."""
    if event.node is None:
        return event.detail
    name = event.node.label or event.node.key
    if event.name == "committed":
        return f"done     {name} ({clock(outlook.took(event.node))})"
    return f"{event.name:8} {name}" + (f": {event.detail}" if event.detail else "")


class LineView:
    """One line per event, and one every ten seconds in between, for logs and notebooks."""

    def __init__(self, outlook: Outlook, stream: TextIO) -> None:
        self._outlook = outlook
        self._stream = stream
        self._spoke = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.flush()

    def __call__(self, event: Event) -> None:
        """Print the event, or a heartbeat when nothing was printed for a while."""
        self._outlook.update(event)
        line = describe(event, self._outlook)
        if not line and time.monotonic() - self._spoke >= HEARTBEAT_SECONDS:
            line = self._heartbeat()
        if line:
            left = self._outlook.time_left()
            print(f"[{event.done}/{event.total}, {left}] {line}", file=self._stream, flush=True)
            self._spoke = time.monotonic()

    def _heartbeat(self) -> str:
        return "running  " + "; ".join(_position(node, self._outlook) for node in self._outlook.running.values())


def _position(node: Node, outlook: Outlook) -> str:
    progress = outlook.progress(node)
    where = f" {progress.step}/{progress.total}" + (f" {progress.note}" if progress.note else "") if progress else ""
    return f"{node.label or node.key}{where}"


class LiveView:
    """A table of running stages with their bars, the overall bar under it, and events as lines above."""

    def __init__(self, outlook: Outlook, console: Console) -> None:
        self._outlook = outlook
        self._live = Live(
            console=console,
            get_renderable=self.render,
            refresh_per_second=_REFRESH_PER_SECOND,
            redirect_stderr=False,
        )

    def __enter__(self) -> Self:
        if self._outlook.total:
            self._live.start(refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def __call__(self, event: Event) -> None:
        """Take note of the event; failures, retries and blocks stay on screen as lines."""
        self._outlook.update(event)
        if event.name in ("failed", "retried", "blocked", "stopping"):
            self._live.console.print(Text(describe(event, self._outlook)))

    def render(self) -> RenderableType:
        """The table as it stands now."""
        table = Table.grid(padding=(0, 2))
        for node in list(self._outlook.running.values()):
            table.add_row(*_row(node, self._outlook))
        table.add_row(*_overall(self._outlook))
        return Group(table)


def _row(node: Node, outlook: Outlook) -> list[RenderableType]:
    progress = outlook.progress(node)
    step, total, note = (progress.step, progress.total, progress.note) if progress else (0, 0, "")
    return [
        Text(node.label or node.key, overflow="ellipsis"),
        ProgressBar(total=total or 1, completed=step, width=_BAR_WIDTH),
        Text(f"{step}/{total} {note}" if progress else "starting"),
        Text(f"{clock(outlook.left(node))} left"),
    ]


def _overall(outlook: Outlook) -> list[RenderableType]:
    failures = f", {outlook.failed} failed" if outlook.failed else ""
    return [
        Text("all stages", style="bold"),
        ProgressBar(total=outlook.total or 1, completed=outlook.done, width=_BAR_WIDTH),
        Text(f"{outlook.done}/{outlook.total}{failures}"),
        Text(outlook.time_left()),
    ]
