"""What the tests of this folder found out, for the end of their run."""

from __future__ import annotations

from collections import Counter


class Report:
    """How long it took until all was well again, and what became of operators on the way."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str]] = []
        self._expected: Counter[str] = Counter()
        self._off: Counter[str] = Counter()

    def took(self, what: str, seconds: float) -> None:
        """Note the seconds from a fault until ``what``."""
        self.rows.append((what, f"{seconds * 1000:,.0f} ms" if seconds < 1 else f"{seconds:.1f} s"))

    def found(self, what: str, text: str) -> None:
        """Note any other figure."""
        self.rows.append((what, text))

    def ran(self, what: str, found: float, expected: int) -> None:
        """``expected`` operators, each of which adds one, were sent through faults, and the sum is ``found``."""
        self._expected[what] += expected
        self._off[what] += abs(int(found) - expected)
        assert found == expected, f"{what}: {found} instead of {expected}"

    def lines(self) -> list[str]:
        """Return the table."""
        if not self.rows and not self._expected:
            return []
        width = max((len(what) for what, _ in self.rows), default=0)
        table = [f"{what:<{width}}  {text:>12}" for what, text in self.rows]
        total, off = sum(self._expected.values()), sum(self._off.values())
        return [*table, f"operators through faults: {total:,}; operators lost or run twice: {off}"]
