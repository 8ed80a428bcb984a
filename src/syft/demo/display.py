"""What the demo shows: who has what, a line for each round with a bar below that says what goes on, a table.

On a terminal the bar moves; in a file or a pipe there are only the lines.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from .data import DIGITS, TEST_IMAGES, Digits
from .training import Federation, Round, Settings

_BAR_WIDTH = 12


class Display:
    """Shows an experiment on ``console``; a context manager, for its bar to go away in the end."""

    def __init__(self, console: Console, settings: Settings, ticks: int) -> None:
        self._console, self._settings = console, settings
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("[dim]left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("", total=ticks)
        self._began = False

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def tick(self, what: str) -> None:
        """Say what goes on now; what went on before is done."""
        self._progress.update(self._task, description=f"{what:<24}", advance=1 if self._began else 0)
        self._began = True

    def shares(self, shares: Sequence[Digits]) -> None:
        """Show how many images of each digit each owner has."""
        table = Table(title="Who has which digits", title_justify="left", box=None, padding=(0, 1))
        table.add_column("owner")
        for digit in range(DIGITS):
            table.add_column(str(digit), justify="right", min_width=3)
        table.add_column("images", justify="right")
        for i, share in enumerate(shares, 1):
            counts = share.counts()
            cells = [Text(str(n) if n else "-", style=_shade(n, len(share))) for n in counts]
            table.add_row(f"owner-{i}", *cells, str(len(share)))
        self._console.print(table, "", sep="\n")

    def refusals(self, asking: str, texts: Sequence[str]) -> None:
        """Show what workers said to a stranger who asked for single updates."""
        self._console.print(f"[bold]{asking}", soft_wrap=True)
        for text in texts:
            self._console.print(f"  {text.splitlines()[0]}", soft_wrap=True)
        self._console.print()

    def round(self, r: Round) -> None:
        """Add the line of a round."""
        if r.number == 1:
            self._console.print(
                f"[bold]{'round':>7}  {'loss':>6}  {'federated':<20}  {'pooled':>7}"
                f"  {'one alone':>9}{'     moved' if r.bytes else ''}  {'time':>6}"
            )
        self._console.print(
            f"{r.number:>3}/{self._settings.rounds:<3}  {r.loss:>6.3f}  [bold]{_percent(r.federated)}[/]"
            f" [blue]{_bar(r.federated)}[/]  {_percent(r.pooled)}  {_percent(_mean(r.alone)):>9}"
            f"{f'  {_megabytes(r.bytes):>8}' if r.bytes else ''}  {r.seconds:>4.1f} s",
            highlight=False,
        )

    def summary(self, rounds: Sequence[Round], federation: Federation, seconds: float) -> None:
        """Show the table in which the federation is compared."""
        last = rounds[-1]
        table = Table(title=f"After round {last.number}, on {TEST_IMAGES:,} test images", title_justify="left")
        table.add_column("training")
        table.add_column("accuracy", justify="right")
        table.add_column("what leaves an owner")
        table.add_row("all images in one place", _estimate(last.pooled), "its images")
        table.add_row("federation", _estimate(last.federated), "a model, to the aggregator", style="bold blue")
        table.add_row("the best owner alone", _estimate(max(last.alone)), "nothing")
        table.add_row("one owner alone, mean", _estimate(_mean(last.alone)), "nothing")
        self._console.print("", table, sep="\n")
        moved = sum(r.bytes for r in rounds)
        lines = [
            *federation.venue.evidence(),
            *([f"Moved: {_megabytes(moved)}, every message counted as it is on the wire."] if moved else []),
            f"Time in all: {seconds:.0f} s.",
        ]
        self._console.print(*lines, sep="\n", highlight=False, soft_wrap=True)

    def saved(self, paths: Sequence[Path]) -> None:
        """Say where the plot is."""
        self._console.print(f"Plot: {', '.join(map(str, paths))}", highlight=False, soft_wrap=True)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _percent(fraction: float) -> str:
    return f"{100 * fraction:>5.1f} %"


def _estimate(accuracy: float) -> str:
    """Give an accuracy with the standard error that so few test images leave."""
    return f"{_percent(accuracy)[:-2]} ± {100 * math.sqrt(accuracy * (1 - accuracy) / TEST_IMAGES):.1f} %"


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"


def _bar(fraction: float) -> str:
    return f"{'━' * round(fraction * _BAR_WIDTH):<{_BAR_WIDTH}}"


def _shade(count: int, total: int) -> str:
    """Brighter where an owner has more of one digit than of others."""
    return "dim" if count < 0.05 * total else "bold blue" if count > 0.2 * total else ""
