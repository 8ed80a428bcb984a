"""The ``syft`` command."""

from __future__ import annotations

import os
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Annotated

try:
    import typer
    from rich.console import Console
except ModuleNotFoundError as error:
    raise SystemExit(f"The syft command needs {error.name}: pip install 'syft-pointers[demo]'") from error

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Run PyTorch on data you cannot see.",
    pretty_exceptions_enable=False,
)

_INTERRUPTED = 130


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(installed_version("syft-pointers"))


@app.command()
def demo(
    rounds: Annotated[int, typer.Option(min=1, max=1000, help="How often the owners' models are averaged.")] = 20,
    owners: Annotated[int, typer.Option(min=4, max=20, help="Among how many the training images are split.")] = 5,
    alpha: Annotated[
        float, typer.Option(min=0.01, max=1e6, help="Dirichlet's: the smaller, the less alike the owners' images.")
    ] = 2.0,
    epochs: Annotated[int, typer.Option(min=1, max=20, help="Of each owner in each round.")] = 1,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="The same seed gives the same result.")] = 0,
    out: Annotated[Path, typer.Option(help="Where the plot goes, a .png; a .pdf is put beside it.")] = Path(
        "federation.out.png"
    ),
) -> None:
    """Train on real digits that several owners hold; only averages of their updates are ever fetched."""
    _check_can_write(out)
    try:
        from .demo.run import run
        from .demo.training import Settings
    except ModuleNotFoundError as error:
        raise SystemExit(f"The demo needs {error.name}: pip install 'syft-pointers[demo]'") from error
    settings = Settings(rounds=rounds, owners=owners, alpha=alpha, seed=seed, epochs=epochs)
    if not run(settings, out, Console(highlight=False)):
        raise typer.Exit(_INTERRUPTED)


def _check_can_write(out: Path) -> None:
    """Raise BadParameter now rather than after minutes of training."""
    if out.suffix != ".png":
        raise typer.BadParameter(f"{out} does not end in .png", param_hint="--out")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise typer.BadParameter(f"{out.parent} cannot be made: {error.strerror}", param_hint="--out") from error
    if out.is_dir() or not os.access(out if out.exists() else out.parent, os.W_OK):
        raise typer.BadParameter(f"{out} cannot be written", param_hint="--out")


if __name__ == "__main__":
    app()
