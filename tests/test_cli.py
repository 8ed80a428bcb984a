"""The ``syft`` command: what it takes, what it refuses, what it gives."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from syft.cli import app
from syft.demo import run as demo_run
from syft.demo.nodes import Nodes
from syft.demo.training import Settings

pytestmark = pytest.mark.in_process


def syft(*args: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, args, env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})
    return result.exit_code, result.output


def test_version() -> None:
    assert syft("version") == (0, version("syft-pointers") + "\n")


def test_help_names_the_commands() -> None:
    code, text = syft("--help")
    assert code == 0
    assert "demo" in text and "version" in text


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--rounds", "0"], "--rounds"),
        (["--owners", "3"], "--owners"),
        (["--alpha", "0"], "--alpha"),
        (["--alpha", "nan"], "nan is no number"),
        (["--seed", "-1"], "--seed"),
        (["--epochs", "many"], "--epochs"),
        (["--out", "plot.jpg"], ".png"),
    ],
)
def test_options_out_of_bounds_are_refused(args: list[str], told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_run, "run", lambda *given: pytest.fail("it ran"))
    code, text = syft("demo", *args)
    assert code == 2
    assert told in text and "Traceback" not in text


def test_options_arrive(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given = []

    def note(settings: Settings, out: Path, console: Console, *venue: object) -> bool:
        given.append((settings, out, *venue))
        return True

    monkeypatch.setattr(demo_run, "run", note)
    out = tmp_path / "a.png"
    args = ["--rounds", "3", "--owners", "7", "--alpha", "0.5", "--seed", "9", "--epochs", "2", "--out"]
    assert syft("demo", *args, str(out))[0] == 0
    assert given == [(Settings(rounds=3, owners=7, alpha=0.5, seed=9, epochs=2), out)]
    assert syft("demo", "--nodes", "--out", str(out))[0] == 0
    assert given[1:] == [(Settings(), out, Nodes)]


def test_interrupt_is_exit_code_130(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_run, "run", lambda *given: False)
    assert syft("demo")[0] == 130


def test_a_plot_that_cannot_be_written_is_refused_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_run, "run", lambda *given: pytest.fail("it ran"))
    (tmp_path / "file").touch()
    (tmp_path / "folder.png").mkdir()
    assert "cannot be made" in syft("demo", "--out", str(tmp_path / "file" / "a.png"))[1]
    assert "cannot be written" in syft("demo", "--out", str(tmp_path / "folder.png"))[1]


def test_without_its_extra_the_command_says_what_to_install() -> None:
    program = "import sys; sys.modules['typer'] = None; import syft.cli"
    result = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=120)
    assert result.returncode == 1
    assert result.stderr == "The syft command needs typer: pip install 'syft-pointers[demo]'\n"


def test_demo_runs_to_its_end(tmp_path: Path) -> None:
    out = tmp_path / "plot.png"
    code, text = syft("demo", "--rounds", "1", "--owners", "4", "--out", str(out))
    assert code == 0
    assert "  1/1" in text and "Fetched from owners: 0." in text and "all images in one place" in text
    assert out.stat().st_size > 10_000
