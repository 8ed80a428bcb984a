"""A bar for whoever waits while much is on its way to or from a node."""

from __future__ import annotations

from concurrent.futures import Future
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from .. import limits

T = TypeVar("T")


class Traffic:
    """Bytes over one connection: how many there are to cross, and how many have."""

    def __init__(self) -> None:
        self.to_send = self.sent = self.to_receive = self.received = 0

    @property
    def all(self) -> int:
        return self.to_send + self.to_receive

    @property
    def crossed(self) -> int:
        return self.sent + self.received


def wait(future: Future[T], traffic: Traffic, node: str) -> T:
    """Return the result of ``future``; where that takes long, show on a terminal or in a notebook what crosses."""
    before = traffic.crossed
    try:
        return future.result(limits.PROGRESS_AFTER_SECONDS)
    except TimeoutError:
        pass
    console = Console(stderr=True)
    if console.is_terminal or console.is_jupyter:
        _show(future, traffic, before, node, console)
    return future.result()


def _show(future: Future[T], traffic: Traffic, before: int, node: str, console: Console) -> None:
    """Show a bar of what crosses, of which so many bytes had crossed ``before`` the wait."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
    while not _is_done(future):
        if traffic.all - traffic.crossed < limits.PACKET_BYTES:
            continue  # it is the node that takes its time
        with bar:
            task = bar.add_task(node, total=traffic.all - before, completed=traffic.crossed - before)
            while not _is_done(future) and traffic.crossed < traffic.all:
                bar.update(task, total=traffic.all - before, completed=traffic.crossed - before)
            bar.remove_task(task)


def _is_done(future: Future[T]) -> bool:
    """Tell whether there is a result, after a moment's wait for it."""
    try:
        future.exception(limits.PROGRESS_SECONDS)
    except TimeoutError:
        return False
    return True
