"""The demo over nodes: the same result as in one process, real refusals, true logs, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

import syft as sy
from syft.demo.data import load_digits
from syft.demo.nodes import Nodes
from syft.demo.training import Experiment, Round, Settings, make_model

from .helpers import until

pytestmark = pytest.mark.in_process

SETTINGS = Settings(rounds=2, owners=2)
OWNERS = ["owner-1", "owner-2"]
IMAGES = 160


class Run(NamedTuple):
    """An experiment that is done, and its rounds."""

    experiment: Experiment
    rounds: list[Round]


@pytest.fixture(scope="module")
def one_process() -> Iterator[Run]:
    """The experiment with a few images, which it has over nodes as well."""
    train, _ = load_digits(torch.Generator().manual_seed(0))
    few = train.at(torch.arange(IMAGES)), train.at(torch.arange(IMAGES, IMAGES + 40))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as rooms have, and the command
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("syft.demo.training.load_digits", lambda generator: few)
        with Experiment(SETTINGS) as experiment:
            rounds = list(experiment.rounds())
        yield Run(experiment, rounds)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def over_nodes(one_process: Run) -> Iterator[Run]:
    with Experiment(SETTINGS, Nodes) as experiment:
        yield Run(experiment, list(experiment.rounds()))


def test_nodes_give_what_one_process_gives_to_the_last_bit(one_process: Run, over_nodes: Run) -> None:
    models = (list(run.experiment.model.parameters()) for run in (over_nodes, one_process))
    torch.testing.assert_close(*models, rtol=0, atol=0)
    one, other = ([r._replace(seconds=0, bytes=0) for r in run.rounds] for run in (over_nodes, one_process))
    assert one == other


def test_the_researcher_finds_nothing_and_gets_no_update(over_nodes: Run) -> None:
    federation = over_nodes.experiment.federation
    places = [place for owner in OWNERS for place in (owner, "aggregator")]
    for place, text in zip(2 * places, federation.refusals, strict=True):
        assert text.startswith("the search finds nothing; there is no object ") and f"(at {place})" in text


def test_logs_of_the_nodes_show_what_was_moved_and_got(over_nodes: Run) -> None:
    venue = over_nodes.experiment.federation.venue
    count = 2 * (len(list(make_model(0).parameters())) + 1)  # of two rounds; one is the loss
    _, *lines, _, _ = venue.evidence()
    assert lines == [
        *(f"  {owner}: {count} tensors moved to the aggregator, 0 left otherwise" for owner in OWNERS),
        f"  aggregator: {count} tensors got, 0 of them by the id of one that moved there",
    ]

    (images,) = venue.owners[0].search("#images")  # and had the coordinator taken more:
    images[:1].get()
    images[:2].move(venue.aggregator).get()
    _, *lines, _, _ = venue.evidence()
    assert lines[0].endswith(f": {count + 1} tensors moved to the aggregator, 1 left otherwise")
    assert lines[-1].endswith(f": {count + 1} tensors got, 1 of them by the id of one that moved there")


def test_refusal_that_does_not_come_over_nodes_is_an_error(over_nodes: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    venue = over_nodes.experiment.federation.venue
    update = sy.send(make_model(0), venue.owners[0])
    monkeypatch.setattr(venue, "_researchers", {venue.owners[0].id: venue.owners[0]})  # who sees more
    with pytest.raises(AssertionError, match="in no config"):
        venue.refusal(update)


@contextmanager
def demo_over_nodes(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Run the demo with all of its files in ``folder``."""
    with subprocess.Popen(
        [sys.executable, "-m", "syft.cli", "demo", "--nodes", "--owners", "4"],
        cwd=folder,
        env={**os.environ, "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        text=True,
    ) as demo:
        try:
            yield demo
        finally:
            demo.kill()


def processes_in(folder: Path) -> list[int]:
    """Return the processes whose command names ``folder``: nodes and their rooms."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(FileNotFoundError, ProcessLookupError):
            if str(folder).encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    with demo_over_nodes(tmp_path) as demo:
        while "owner-4" not in demo.stdout.readline():
            assert demo.poll() is None
        assert len(processes_in(tmp_path)) > 5 * 3  # of each node the gate, the fork server, and a room at least
        demo.send_signal(signal.SIGINT)
        assert "Stopped after 0 of 20 rounds." in demo.stdout.read()
        assert demo.wait(60) == 130
    assert processes_in(tmp_path) == [] == list(tmp_path.glob("syft-demo-*"))


def test_nodes_end_when_the_demo_is_killed(tmp_path: Path) -> None:
    with demo_over_nodes(tmp_path) as demo:
        until(lambda: bool(processes_in(tmp_path)), 60)
        demo.kill()
    until(lambda: not processes_in(tmp_path), 60)
