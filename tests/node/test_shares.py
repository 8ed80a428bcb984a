"""What several parties share, of whom one may want all of it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from syft import limits
from syft.errors import LimitExceeded
from syft.node.shares import Shares

pytestmark = pytest.mark.in_process


@pytest.fixture
def shares(monkeypatch):
    monkeypatch.setattr(limits, "GIVE_WAY_SECONDS", 0.01)
    monkeypatch.setattr(limits, "ARRIVING_SECONDS", 0.1)
    return Shares(10, "bob", "bytes")


class Holder:
    """Has parts, and lets go of each that is taken away."""

    def __init__(self, shares, name):
        self.shares, self.name, self.lost = shares, name, []

    def take(self, amount, *, lets_go=True):
        stack = ExitStack()

        def give_up():
            self.lost.append(amount)
            if lets_go:
                stack.close()

        return stack.enter_context(self.shares.part(self.name, amount, give_up))


#: What mallory has, what carol then asks for, and what mallory loses: what she took last, until carol would have more.
@pytest.mark.parametrize(
    ("has", "asks", "lost"),
    [([2, 2, 2], 4, []), ([5, 5], 4, [5]), ([4, 3, 2, 1], 3, [1, 2]), ([1] * 10, 5, [1] * 5), ([9], 1, [])],
)
def test_who_has_most_gives_way(shares, has, asks, lost):
    mallory, carol = Holder(shares, "mallory"), Holder(shares, "carol")
    for amount in has:
        mallory.take(amount)
    carol.take(asks)
    assert mallory.lost == lost


@pytest.mark.parametrize(("has", "asks"), [([4, 3, 3], 8), ([5, 5], 5), ([], 11)])
def test_who_asks_for_more_than_others_would_keep_is_refused(shares, has, asks):
    others = [Holder(shares, name) for name in ("alice", "carol", "dave")]
    for other, amount in zip(others, has, strict=False):
        other.take(amount)
    with pytest.raises(LimitExceeded, match=f"{asks} bytes are more than this node has left for you of 10"):
        Holder(shares, "mallory").take(asks)


def test_what_is_kept_is_not_taken_away_and_is_waited_for(shares, monkeypatch):
    monkeypatch.setattr(limits, "ARRIVING_SECONDS", 20)
    mallory, carol = Holder(shares, "mallory"), Holder(shares, "carol")
    with ThreadPoolExecutor(1) as other, ExitStack() as kept:
        kept.enter_context(shares.part("mallory", 6, lambda: mallory.lost.append(6))).keep()
        mallory.take(4, lets_go=False)
        waits = other.submit(carol.take, 5)
        with pytest.raises(TimeoutError):
            waits.result(0.1)
        assert mallory.lost == [4]  # once, though it does not let go of it
        kept.close()
        waits.result(20)
