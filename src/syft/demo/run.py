"""One run from settings to table and plot."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from rich.console import Console

from .display import Display
from .plot import save_plot
from .training import Experiment, Round, Settings


def run(settings: Settings, out: Path, console: Console) -> bool:
    """Run the experiment, show it on ``console`` and plot it to ``out``; tell whether it came to its end.

    After Ctrl-C the rounds that are done are shown and plotted.
    """
    torch.set_num_threads(1)  # faster for tensors this small, and the same sums on every machine
    began, rounds, stopped = time.perf_counter(), list[Round](), False
    with Experiment(settings) as experiment:
        display = Display(console, settings, experiment.ticks)
        display.shares(experiment.shares)
        try:
            with display:
                for result in experiment.rounds(display.tick):
                    rounds.append(result)
                    if result.number == 1:
                        display.refusals(experiment.federation.refusals[:2])
                    display.round(result)
        except KeyboardInterrupt:
            stopped = True
            display.stopped(len(rounds))
        if rounds:
            display.summary(rounds, experiment.federation, time.perf_counter() - began)
            display.saved(save_plot(out, rounds))
    return not stopped
