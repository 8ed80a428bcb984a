"""One run from settings to table and plot."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from rich.console import Console

from .data import Digits
from .display import Display
from .plot import save_plot
from .training import Experiment, Round, Settings
from .venue import OneProcess, Venue


def run(
    settings: Settings, out: Path, console: Console, venue: Callable[[Sequence[Digits]], Venue] = OneProcess
) -> bool:
    """Run the experiment, show it on ``console`` and plot it to ``out``; tell whether it came to its end.

    After Ctrl-C the rounds that are done are shown and plotted.
    """
    torch.set_num_threads(1)  # faster for tensors this small, and the same sums on every machine
    began, rounds = time.perf_counter(), list[Round]()
    with ExitStack() as stack:
        try:
            with console.status("The workers start"):
                experiment = stack.enter_context(Experiment(settings, venue))
            display = Display(console, settings, experiment.ticks)
            display.shares(experiment.shares)
            with display:
                for result in experiment.rounds(display.tick):
                    rounds.append(result)
                    if result.number == 1:
                        display.refusals(experiment.federation.venue.asking, experiment.federation.refusals[:2])
                    display.round(result)
        except KeyboardInterrupt:
            console.print(f"\nStopped after {len(rounds)} of {settings.rounds} rounds.")
        if rounds:
            display.summary(rounds, experiment.federation, time.perf_counter() - began)
            display.saved(save_plot(out, rounds))
    return len(rounds) == settings.rounds
