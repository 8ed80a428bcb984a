"""The demo: learning, the promise that single updates stay unseen, same seed same result, display, plot."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl
import pytest
import torch
from matplotlib.figure import Figure
from rich.console import Console

import syft as sy
from syft.demo import run as demo_run
from syft.demo.data import Digits, load_digits
from syft.demo.display import Display
from syft.demo.plot import _STYLE, _draw, save_plot
from syft.demo.training import Experiment, Federation, Party, Round, Settings, make_model
from syft.demo.venue import OneProcess
from syft.errors import GetNotPermitted, SendNotPermitted, WorkerNotFound

# The demo brings its own transport, through bytes.
pytestmark = pytest.mark.in_process


@pytest.fixture(scope="module")
def digits() -> Digits:
    train, _ = load_digits(torch.Generator().manual_seed(0))
    return train.at(torch.arange(160))


@pytest.fixture
def federation(digits: Digits) -> Iterator[Federation]:
    shares = [digits.at(torch.arange(start, end)) for start, end in ((0, 20), (20, 80), (80, 120), (120, 160))]
    federation = Federation(OneProcess(shares), Settings(owners=4))
    yield federation
    federation.shut()


@pytest.fixture(scope="module")
def rounds() -> list[Round]:
    with Experiment(Settings(rounds=3, owners=4, alpha=10.0, seed=1)) as experiment:
        return list(experiment.rounds())


def parameters_of(model: torch.nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in model.parameters()]


# ---- data ----


def test_test_images_are_held_out() -> None:
    train, test = load_digits(torch.Generator().manual_seed(3))
    assert (len(train), len(test)) == (4000, 1000)
    assert train.images.shape == (4000, 1, 28, 28)
    assert sum(train.counts()) == 4000 and all(n + m == 500 for n, m in zip(train.counts(), test.counts(), strict=True))
    seen = {image.numpy().tobytes() for image in train.images}
    # A few images are twice in the data set itself.
    assert sum(image.numpy().tobytes() in seen for image in test.images) <= 3


def test_each_image_has_one_owner() -> None:
    train, _ = load_digits(torch.Generator().manual_seed(2))
    with Experiment(Settings(owners=6, seed=2)) as experiment:
        shared_out = sorted(image.numpy().tobytes() for share in experiment.shares for image in share.images)
    assert shared_out == sorted(image.numpy().tobytes() for image in train.images)


def test_small_alpha_makes_owners_unlike() -> None:
    def largest_part(alpha: float) -> float:
        with Experiment(Settings(alpha=alpha)) as experiment:
            return max(max(share.counts()) / len(share) for share in experiment.shares)

    assert largest_part(0.1) > 0.5
    assert largest_part(1e6) < 0.15


# ---- the federation ----


def test_round_is_the_weighted_average_of_local_training(federation: Federation, digits: Digits) -> None:
    start = make_model(0)
    average, loss = federation.round(start, lambda what: None)

    expected = [torch.zeros_like(p) for p in start.parameters()]
    expected_loss = 0.0
    for begin, end in ((0, 20), (20, 80), (80, 120), (120, 160)):
        model, weight = make_model(0), (end - begin) / 160
        party = Party(digits.at(torch.arange(begin, end)), Settings(owners=4))
        expected_loss += weight * party.train(model).item()
        expected = [e + weight * p for e, p in zip(expected, parameters_of(model), strict=True)]
    torch.testing.assert_close(parameters_of(average), expected, rtol=1e-5, atol=1e-6)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    torch.testing.assert_close(parameters_of(start), parameters_of(make_model(0)), rtol=0, atol=0)


def test_only_averages_are_fetched(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    moved: set[int] = set()

    def move_and_note(thing: torch.nn.Module | torch.Tensor, *args: object, **options: object) -> object:
        before = list(thing.parameters()) if isinstance(thing, torch.nn.Module) else [thing]
        moved.update(pointer.id_at_location for pointer in before)
        there = sy.move(thing, *args, **options)
        after = list(there.parameters()) if isinstance(there, torch.nn.Module) else [there]
        moved.update(pointer.id_at_location for pointer in after)
        return there

    monkeypatch.setattr("syft.demo.training.move", move_and_note)
    model = make_model(0)
    for _ in range(2):
        model, _ = federation.round(model, lambda what: None)

    tensors = len(list(model.parameters()))
    assert len(moved) >= 2 * 4 * (tensors + 1)
    fetched = federation.venue.traffic.fetched
    assert {worker for worker, _ in fetched} == {"aggregator"}
    assert len(fetched) == 2 * (tensors + 1)  # the average and its loss, each round
    assert moved.isdisjoint(id for _, id in fetched)


def test_single_updates_are_refused(federation: Federation) -> None:
    federation.round(make_model(0), lambda what: None)
    places = list(itertools.chain.from_iterable((f"owner-{i}", "aggregator") for i in range(1, 5)))
    assert [worker for worker, _ in federation.venue.traffic.refused] == places
    assert all(f"(at {place})" in text for place, text in zip(places, federation.refusals, strict=True))


def test_images_and_losses_are_refused_too(federation: Federation) -> None:
    owner = sy.get_worker("owner-1")
    (images,), (labels,) = owner.search("#images"), owner.search("#labels")
    model = sy.send(make_model(0), owner)
    loss = Party(Digits(images, labels), Settings()).train(model)
    for private in (images, labels, loss, images.sum()):
        with pytest.raises(GetNotPermitted):
            private.get()
    with pytest.raises(GetNotPermitted):
        loss.item()
    with pytest.raises(SendNotPermitted):
        loss.move(sy.get_worker("aggregator"))


def test_refusal_that_does_not_come_is_an_error() -> None:
    bob = sy.VirtualWorker(id="bob")
    with pytest.raises(AssertionError, match="single update"):
        OneProcess([]).refusal(sy.send(make_model(0), bob))


def test_round_leaves_nothing_behind(federation: Federation) -> None:
    before = [sy.get_worker(f"owner-{i}").objects_count() for i in range(1, 5)]
    federation.round(make_model(0), lambda what: None)
    assert [sy.get_worker(f"owner-{i}").objects_count() for i in range(1, 5)] == before == [2] * 4
    assert sy.get_worker("aggregator").objects_count() == 0


def test_bytes_are_those_of_the_messages(federation: Federation) -> None:
    before = federation.venue.traffic.bytes
    average, _ = federation.round(make_model(0), lambda what: None)
    model = sum(p.numel() * 4 for p in average.parameters())
    tensors = 4 * model + 4 * model + model  # to the owners, on to the aggregator, the average home
    assert tensors < federation.venue.traffic.bytes - before < 1.2 * tensors


# ---- the experiment ----


def test_federation_learns_more_than_any_owner_alone(rounds: list[Round]) -> None:
    last = rounds[-1]
    assert [r.number for r in rounds] == [1, 2, 3]
    assert rounds[0].loss > rounds[1].loss > last.loss
    assert last.federated > max(last.alone) + 0.05
    assert last.federated > 0.85
    assert last.pooled > 0.9


def test_same_seed_same_result(rounds: list[Round]) -> None:
    def result(r: Round) -> Round:
        return r._replace(seconds=0.0)

    with Experiment(Settings(rounds=1, owners=4, alpha=10.0, seed=1)) as experiment:
        again = list(experiment.rounds())
    assert [result(r) for r in again] == [result(rounds[0])]
    with pytest.raises(WorkerNotFound):
        sy.get_worker("aggregator")


def test_other_seed_other_start() -> None:
    assert not torch.equal(parameters_of(make_model(0))[0], parameters_of(make_model(1))[0])


# ---- display and plot ----

SOME_ROUNDS = [
    Round(1, 1.5, 0.61, 0.93, (0.4, 0.5, 0.6), 6_000_000, 2.5),
    Round(2, 0.6, 0.86, 0.95, (0.5, 0.6, 0.7), 6_000_000, 2.5),
]


def test_lines_in_a_file_have_no_control_characters(digits: Digits) -> None:
    text = io.StringIO()
    display = Display(Console(file=text, width=100), Settings(rounds=2), ticks=2)
    with display:
        display.shares([digits])
        display.tick("owner-1 trains")
        for r in SOME_ROUNDS:
            display.round(r)
    shown = text.getvalue()
    assert "\x1b" not in shown and "\r" not in shown and "owner-1 trains" not in shown
    assert [line.split()[:4] for line in shown.splitlines()[-2:]] == [
        ["1/2", "1.500", "61.0", "%"],
        ["2/2", "0.600", "86.0", "%"],
    ]
    assert all(len(line) <= 80 for line in shown.splitlines())


def test_bar_moves_on_a_terminal() -> None:
    text = io.StringIO()
    display = Display(Console(file=text, width=100, force_terminal=True), Settings(rounds=2), ticks=2)
    with display:
        display.tick("owner-1 trains")
        display.tick("owner-2 trains")
    assert "owner-2 trains" in text.getvalue() and "50 %" in text.getvalue()


@pytest.mark.parametrize("count", [1, 2])
def test_plot_is_a_picture_and_a_document(tmp_path: Path, count: int) -> None:
    png, pdf = save_plot(tmp_path / "plots" / "run.png", SOME_ROUNDS[:count])
    assert png.read_bytes().startswith(b"\x89PNG")
    assert pdf.read_bytes().startswith(b"%PDF")
    assert b"/FontFile2" in pdf.read_bytes()  # text is text, in TrueType


LOW_ROUND = Round(1, 1.0, 0.078, 0.929, (0.08, 0.101, 0.116), 1, 1.0)


@pytest.mark.parametrize(
    "rounds", [[LOW_ROUND], SOME_ROUNDS, [LOW_ROUND._replace(number=n, pooled=0.09, alone=(0.09,)) for n in (1, 2)]]
)
def test_labels_are_apart_and_beside_the_axes_and_each_tick_is_a_round(rounds: list[Round]) -> None:
    figure = Figure(figsize=(3.5, 2.3), layout="constrained")
    with mpl.rc_context(_STYLE):
        axes = figure.subplots()
        _draw(axes, rounds)
        figure.draw_without_rendering()
    bottom, top = axes.bbox.y0, axes.bbox.y1
    boxes = sorted((text.get_window_extent() for text in axes.texts), key=lambda box: box.y0)
    assert len(boxes) == 3
    assert boxes[0].y0 >= bottom - 1 and boxes[-1].y1 <= top + 0.06 * (top - bottom)
    assert all(lower.y1 <= upper.y0 for lower, upper in itertools.pairwise(boxes))
    shown = [tick for tick in axes.get_xticks() if axes.get_xlim()[0] <= tick <= axes.get_xlim()[1]]
    assert shown == [r.number for r in rounds]
    low, high = axes.get_ylim()
    assert all(low <= 100 * value <= high for r in rounds for value in (r.federated, r.pooled, *r.alone))


def test_interrupted_run_shows_and_plots_what_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop_in_round_two(self: Experiment, tick: object) -> Iterator[Round]:
        self.federation.refusals += ["no", "no"]
        yield SOME_ROUNDS[0]
        raise KeyboardInterrupt

    monkeypatch.setattr(Experiment, "rounds", stop_in_round_two)
    text = io.StringIO()
    finished = demo_run.run(Settings(), tmp_path / "run.png", Console(file=text, width=100))
    assert not finished
    assert "Stopped after 1 of 20 rounds." in text.getvalue()
    assert (tmp_path / "run.png").exists()
    with pytest.raises(WorkerNotFound):
        sy.get_worker("owner-1")
