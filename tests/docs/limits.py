"""The table of all bounds in ``docs/limits.md``, made from ``syft.limits``.

``python -m tests.docs.limits`` writes it; the tests only compare.
"""

from __future__ import annotations

import ast
import inspect
import math
from collections.abc import Iterator

from syft import limits
from syft.node.config import Limits, Ray

from .documents import ROOT

DOCUMENT = ROOT / "docs/limits.md"

_TEXT = """\
# Every bound

All numbers that bound anything are in [one file](../src/syft/limits.py), of which this is the table. What has a
name in the last column can be set by a node's owner, in `[limits]` of [the config](bob.toml), or in `[ray]` of it
where that is said.

| name | value | what is bounded | in the config |
|---|---|---|---|
"""
_UNITS = ((30, "GiB"), (20, "MiB"), (10, "KiB"), (0, "bytes"))
_LONG = 32  # bits


def text() -> str:
    """Return what the document has to be."""
    rows = (f"| `{name}` | {_shown(name)} | {what} | {_setting(name)} |\n" for name, what in bounds())
    return _TEXT + "".join(rows)


def bounds() -> Iterator[tuple[str, str]]:
    """Yield each bound's name, and the comment on its line or, if there is none, above it."""
    source = inspect.getsource(limits)
    lines = source.splitlines()
    for node in ast.parse(source).body:
        if isinstance(node, ast.AnnAssign):
            comment = lines[node.lineno - 1][node.end_col_offset :].partition("#")[2]
            above = lines[node.lineno - 2]
            yield ast.unparse(node.target), (comment or above.removeprefix("#")).strip()


def _shown(name: str) -> str:
    value = getattr(limits, name)
    if isinstance(value, str):
        return f"`{value}`"
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    if name.endswith(("_BYTES", "_MEMORY")):
        return next(f"{value >> power} {unit}" for power, unit in _UNITS if not value % (1 << power))
    exponent = round(math.log2(value))
    if exponent > _LONG:
        return f"2^{exponent}" if value == 1 << exponent else f"2^{exponent} - {(1 << exponent) - value}"
    return f"{value:,}"


def _setting(name: str) -> str:
    setting = name.lower()
    if setting in Limits.__struct_fields__:
        return f"`{setting}`"
    setting = setting.removeprefix("cluster_")
    return f"`[ray] {setting}`" if setting in Ray.__struct_fields__ else ""


if __name__ == "__main__":
    DOCUMENT.write_text(text(), encoding="utf-8")
