"""Print our figures as ratios to local torch, beside the physical floor and the peers'.

    python -m bench            all rows but the longest
    python -m bench operator   the rows whose name holds the word

Every row is measured against its own reference in the same run: the two are timed in turns, on one
thread, and the medians divided. Times differ from machine to machine; the ratios carry over.
"""

from __future__ import annotations

import sys

import torch
from rich.console import Console
from rich.table import Table

from .rows import ROWS


def main() -> None:
    torch.set_num_threads(1)
    wanted = sys.argv[1:]
    columns = ("what", "ours", "asked", "floor", "peers (torch RPC in this run, others once, on a like machine)")
    table = Table(*columns, title="syft")
    for row in ROWS:
        if any(word in row.name for word in wanted) or not (wanted or row.by_name):
            ours, floor, peers = row.measure()
            held = "[green]" if row.holds(ours) else "[red]"
            peers = "; ".join(filter(None, (peers, row.peers)))
            table.add_row(row.name, f"{held}{ours:.3g} {row.unit}", row.asked, floor, peers)
    Console(width=None if sys.stdout.isatty() else 150).print(table)


main()
