"""The ready loop: run what is missing and can run, keep going past failures, say what happens as events."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Literal

from rlfamily.records import Status
from rlfamily.stages.executors import Executor, Finished
from rlfamily.stages.graph import Node, topological
from rlfamily.stages.store import Order, Store

RETRIES = 2
"""How often a stage whose process died is started again. A stage that raised waits for the next command."""

_POLL_SECONDS = 0.25

EventName = Literal["started", "retried", "committed", "failed", "blocked", "stopping", "tick"]


@dataclass(frozen=True)
class Event:
    """Something happened to `node`, or time passed ("tick"), or the user asked to stop ("stopping"): then node is None.

    detail  error of a failure, cause of a retry or a block, else ""
    done    stages of this invocation that have their artifact, of `total`
    """

    name: EventName
    node: Node | None
    detail: str
    done: int
    total: int


@dataclass(frozen=True)
class Outcome:
    """What became of a stage. "missing": it was not needed, or the run was stopped before its turn."""

    status: Status
    reason: str = ""


Listener = Callable[[Event], None]


class Interrupted(Exception):
    """The user stopped the run (exit code 130). `outcomes` is what `run_graph` would have returned."""

    def __init__(self, outcomes: dict[str, Outcome]) -> None:
        super().__init__("stopped by the user; the same command goes on from here")
        self.outcomes = outcomes


class Interrupt:
    """Counts requests to stop: the first lets running stages finish, the second ends them."""

    def __init__(self) -> None:
        self.requests = 0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Turn Ctrl-C into one request, SIGTERM and a lost terminal into two; outside the main thread do nothing."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        # what nohup has told us not to hear stays unheard
        heard = [number for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
                 if signal.getsignal(number) != signal.SIG_IGN]
        before = {number: signal.signal(number, self._count) for number in heard}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _count(self, number: int, frame: FrameType | None) -> None:
        self.requests += 1 if number == signal.SIGINT else 2


def needed(targets: Iterable[Node], store: Store) -> list[Node]:
    """The stages that must run for `targets` to exist, inputs first. A committed stage needs none of its inputs."""
    return [node for node in _frontier(targets, store) if not store.committed(node.key)]


def _frontier(targets: Iterable[Node], store: Store) -> list[Node]:
    visited: dict[str, Node] = {}

    def visit(node: Node) -> None:
        if node.key in visited:
            return
        if not store.committed(node.key):
            for source in node.sources:
                visit(source)
        visited[node.key] = node

    for node in targets:
        visit(node)
    return list(visited.values())


class Board:
    """Which stages wait, which run, and what became of the others. Knows no clock and starts nothing."""

    def __init__(self, nodes: list[Node]) -> None:
        self.nodes = {node.key: node for node in nodes}
        self.total = len(nodes)
        self.waiting = dict(self.nodes)
        self.running: dict[str, int] = {}
        self.outcomes: dict[str, Outcome] = {}
        self._height = _heights(nodes)

    @property
    def done(self) -> int:
        """Stages of this board that have their artifact."""
        return sum(outcome.status == "done" for outcome in self.outcomes.values())

    def ready(self) -> list[Node]:
        """Waiting stages that lack no input, those with the longest chain behind them first."""
        free = [node for node in self.waiting.values() if not self._lacking(node)]
        return sorted(free, key=lambda node: -self._height[node.key])

    def start(self, node: Node) -> None:
        """Move a stage from waiting to running."""
        del self.waiting[node.key]
        self.running[node.key] = 0

    def settle(self, key: str, outcome: Outcome) -> None:
        """A stage is over."""
        self.running.pop(key, None)
        self.waiting.pop(key, None)
        self.outcomes[key] = outcome

    def block(self) -> list[Node]:
        """Settle and return the waiting stages that can no longer run because of a failure further up."""
        blocked = []
        for node in list(self.waiting.values()):
            causes = [source for source in node.sources if self._status(source) in ("failed", "blocked")]
            if causes:
                cause = self.outcomes[causes[0].key]
                root = cause.reason if cause.status == "blocked" else f"by {causes[0].label or causes[0].key}"
                self.settle(node.key, Outcome("blocked", root))
                blocked.append(node)
        return blocked

    def _lacking(self, node: Node) -> bool:
        return any(source.key in self.nodes and self._status(source) != "done" for source in node.sources)

    def _status(self, node: Node) -> Status | None:
        outcome = self.outcomes.get(node.key)
        return outcome.status if outcome else None


def _heights(nodes: list[Node]) -> dict[str, int]:
    """Length of the longest chain of stages that waits for each node; `nodes` come inputs first."""
    height = {node.key: 0 for node in nodes}
    for node in reversed(nodes):
        for source in node.sources:
            if source.key in height:
                height[source.key] = max(height[source.key], height[node.key] + 1)
    return height


def run(board: Board, store: Store, executor: Executor, interrupt: Interrupt, keep_going: bool) -> Iterator[Event]:
    """Run the board's stages to their end and yield what happens. Ends early when interrupted twice.

    With `keep_going` false, the first failure lets running stages finish and starts no others.
    """

    def event(name: EventName, node: Node | None, detail: str) -> Event:
        return Event(name, node, detail, board.done, board.total)

    stopping = False
    while board.running or (board.ready() and not stopping):
        if interrupt.requests > 1:
            executor.close(force=True)
            return
        if interrupt.requests and not stopping:
            yield event("stopping", None, f"waiting for {len(board.running)} running stages; Ctrl-C again ends them")
        stopping = stopping or interrupt.requests > 0 or (not keep_going and _any_failed(board))
        if not stopping:
            for node in _submit(board, store, executor):
                yield event("started" if node.key in board.running else "committed", node, "")
        for finished in executor.poll(_POLL_SECONDS) if board.running else []:
            name, detail = _judge(board, store, executor, finished, stopping)
            yield event(name, board.nodes[finished.key], detail)
        for node in board.block():
            yield event("blocked", node, board.outcomes[node.key].reason)
        yield event("tick", None, "")


def _any_failed(board: Board) -> bool:
    return any(outcome.status == "failed" for outcome in board.outcomes.values())


def _submit(board: Board, store: Store, executor: Executor) -> Iterator[Node]:
    """Start ready stages while there is room; one that another driver has committed meanwhile is just settled."""
    for node in board.ready():
        if store.committed(node.key):
            board.settle(node.key, Outcome("done"))
        elif len(board.running) < executor.capacity:
            store.write_order(Order.of(node))
            executor.submit(node.key)
            board.start(node)
        else:
            return
        yield node


def _judge(
    board: Board, store: Store, executor: Executor, finished: Finished, stopping: bool
) -> tuple[EventName, str]:
    """Settle a finished stage by what the store says, or start it again when its process died."""
    key = finished.key
    if store.committed(key):
        board.settle(key, Outcome("done"))
        return "committed", ""
    failure = store.failure(key) if finished.outcome == "exited" else None
    if failure is None:
        cause = _cause(finished.code)
        if board.running[key] < RETRIES and not stopping:
            board.running[key] += 1
            executor.submit(key)
            return "retried", f"{cause}; retry {board.running[key]} of {RETRIES}"
        failure = Order.of(board.nodes[key]).failure(f"{cause}, {board.running[key] + 1} times")
        store.fail(failure)
    board.settle(key, Outcome("failed", failure.error))
    return "failed", failure.error


def _cause(code: int) -> str:
    if code >= 0:
        return f"the process ended without a result (exit code {code})"
    name = signal.Signals(-code).name if -code in signal.valid_signals() else f"signal {-code}"
    return f"the process was killed by {name}" + (" (out of memory?)" if -code == signal.SIGKILL else "")


def run_graph(
    targets: Iterable[Node], root: Path | str, executor: Executor, listener: Listener, keep_going: bool = True
) -> dict[str, Outcome]:
    """Bring every target to its artifact; return what became of each stage they need, by key.

    Starts nothing that is committed. Every stage that can succeed does (unless `keep_going` is false); a failure is
    recorded in failed/, blocks only what depends on it, and is tried again by the next call.
    Raises UserError before anything starts when the executor can never place a stage, and Interrupted after
    Ctrl-C (running stages finish first) or a second one (they are ended).
    """
    store, targets = Store(root), list(targets)
    nodes = needed(targets, store)
    for node in nodes:
        executor.check(node)
    board, interrupt = Board(nodes), Interrupt()
    if nodes:
        store.collect()
    with interrupt.listening():
        for event in run(board, store, executor, interrupt, keep_going):
            listener(event)
    found = outcomes(targets, store) | board.outcomes
    if interrupt.requests:
        raise Interrupted(found)
    return found


def outcomes(targets: Iterable[Node], store: Store) -> dict[str, Outcome]:
    """What the store says of each stage that `targets` are made of, by key: done or missing."""
    return {node.key: Outcome("done" if store.committed(node.key) else "missing") for node in topological(targets)}
