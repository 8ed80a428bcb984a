"""Who waits long for what crosses sees how far it is; nobody else sees anything."""

from __future__ import annotations

import io
import threading
from concurrent.futures import Future

import pytest
import torch
from rich.console import Console

import syft as sy
from syft import limits
from syft.node import progress
from syft.node.progress import Traffic

pytestmark = pytest.mark.in_process

LONG = 64 << 20


@pytest.fixture
def screen(monkeypatch):
    """What a terminal shows, which looks up at once."""
    monkeypatch.setattr(limits, "PROGRESS_AFTER_SECONDS", 0.001)
    monkeypatch.setattr(limits, "PROGRESS_SECONDS", 0.001)
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=100)
    monkeypatch.setattr(progress, "Console", lambda stderr: console)
    return text


class Answer(Future):
    """An answer that is there after so many looks, with as much of the traffic crossed at each."""

    def __init__(self, traffic, looks):
        super().__init__()
        self._traffic, self._looks, self._step = traffic, looks, (traffic.all - traffic.crossed) // looks

    def exception(self, timeout=None):
        self._looks -= 1
        self._traffic.sent += self._step
        if self._looks == 0:
            self.set_result("here")
        return super().exception(timeout)


def test_a_bar_for_a_long_transfer(screen):
    traffic = Traffic()
    traffic.to_send = LONG
    assert progress.wait(Answer(traffic, 30), traffic, "bob") == "here"
    assert "bob" in screen.getvalue() and "/64.0 MiB" in screen.getvalue()


class Slow(Answer):
    """Half of the traffic has crossed before anyone looks."""

    def result(self, timeout=None):
        if timeout is not None:
            self._traffic.sent += LONG // 2
        return super().result(timeout)


def test_the_bar_is_of_the_whole_transfer(screen):
    traffic = Traffic()
    traffic.to_send = LONG
    assert progress.wait(Slow(traffic, 100), traffic, "bob") == "here"
    assert "/64.0 MiB" in screen.getvalue() and "/32.0 MiB" not in screen.getvalue()
    assert "32.6/64.0 MiB" in screen.getvalue() and "1.3/64.0 MiB" not in screen.getvalue()


def test_none_while_the_node_computes(screen):
    assert progress.wait(Answer(Traffic(), 5), Traffic(), "bob") == "here"
    assert screen.getvalue() == ""


def test_none_where_nobody_looks(screen, monkeypatch):
    monkeypatch.setattr(progress, "Console", lambda stderr: Console(file=screen))
    traffic, answer = Traffic(), Future()
    traffic.to_send = LONG
    threading.Timer(0.05, answer.set_result, ["here"]).start()
    assert progress.wait(answer, traffic, "bob") == "here"
    assert screen.getvalue() == ""


def test_an_error_is_raised_as_it_is(screen):
    answer = Future()
    answer.set_exception(KeyError("gone"))
    with pytest.raises(KeyError, match="gone"):
        progress.wait(answer, Traffic(), "bob")


def test_a_link_counts_what_crosses(bob):
    traffic = bob._channel._carrier.traffic
    x = sy.send(torch.zeros(LONG // 4), bob)
    assert traffic.to_send > LONG
    assert x[0].item() == 0 and traffic.sent == traffic.to_send
    x.get()
    assert traffic.received == traffic.to_receive > LONG
