"""The plot of a run: test accuracy by round, one column of a paper wide."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .training import Round

# Colours of Okabe and Ito, which colour-blind people tell apart; the markers do the same in grey print.
_FEDERATED, _POOLED, _ALONE = "#0072B2", "#000000", "#D55E00"

_STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 8,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.1,
    "lines.markersize": 2.8,
    "pdf.fonttype": 42,  # TrueType: text stays text
}

_LINE_HEIGHT = 0.09  # of a label's line, as a part of the axes' height


def save_plot(path: Path, rounds: Sequence[Round]) -> list[Path]:
    """Write the plot to ``path``, a .png, and beside it as .pdf; return both paths."""
    paths = [path, path.with_suffix(".pdf")]
    path.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(3.5, 2.3), layout="constrained")
        _draw(figure.subplots(), rounds)
        figure.savefig(paths[0], dpi=300)
        figure.savefig(paths[1], metadata={"CreationDate": None})
    return paths


def _draw(axes: Axes, rounds: Sequence[Round]) -> None:
    x = [r.number for r in rounds]
    alone = [[100 * a for a in r.alone] for r in rounds]
    low, high = [min(a) for a in alone], [max(a) for a in alone]
    curves = [
        ("Pooled", _POOLED, "s", [100 * r.pooled for r in rounds]),
        ("Federated", _FEDERATED, "o", [100 * r.federated for r in rounds]),
        ("One owner\nalone: mean\nand range", _ALONE, "^", [sum(a) / len(a) for a in alone]),
    ]
    if len(x) > 1:
        axes.fill_between(x, low, high, color=_ALONE, alpha=0.16, linewidth=0)
    else:
        axes.vlines(x, low, high, color=_ALONE, alpha=0.16, linewidth=6)
    for _, colour, marker, y in curves:
        axes.plot(x, y, color=colour, marker=marker, clip_on=False)

    lowest = min(*low, *(a for _, _, _, y in curves for a in y))
    ends = (x[0], x[-1]) if len(x) > 1 else (0.5, 1.5)
    axes.set(xlabel="Round", ylabel="Test accuracy (%)", xlim=ends, ylim=(lowest // 10 * 10, 100))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
    axes.grid(axis="y", color="0.9", linewidth=0.5)
    axes.set_axisbelow(True)
    _label_ends(axes, [(name, colour, y[-1]) for name, colour, _, y in curves])


def _label_ends(axes: Axes, ends: list[tuple[str, str, float]]) -> None:
    """Name each curve at its end, in its colour; names that would meet are pushed apart, inside the axes."""
    bottom, top = axes.get_ylim()
    ends = sorted(ends, key=lambda end: -end[2])
    heights = [_LINE_HEIGHT * (name.count("\n") + 1) for name, _, _ in ends]
    middles = _apart([(y - bottom) / (top - bottom) for _, _, y in ends], heights)
    for (name, colour, _), middle in zip(ends, middles, strict=True):
        axes.annotate(
            name,
            (1, middle),
            xycoords="axes fraction",
            xytext=(6, 0),
            textcoords="offset points",
            color=colour,
            verticalalignment="center",
        )


def _apart(middles: Sequence[float], heights: Sequence[float]) -> list[float]:
    """Move intervals, given from the highest to the lowest, as little as it takes to be apart and within 0 to 1."""
    placed, ceiling = [], 1 + _LINE_HEIGHT / 2  # a label at the very top may stand out by half a line
    for middle, height in zip(middles, heights, strict=True):
        placed.append(min(middle, ceiling - height / 2))
        ceiling = placed[-1] - height / 2
    floor = 0.0
    for i in reversed(range(len(placed))):
        placed[i] = max(placed[i], floor + heights[i] / 2)
        floor = placed[i] + heights[i] / 2
    return placed
