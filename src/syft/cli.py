"""The ``syft`` command."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Annotated

from . import limits
from .errors import NodeError

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

certs_app = typer.Typer(no_args_is_help=True, help="Make a certificate authority and the certificates it issues.")
app.add_typer(certs_app, name="certs")

AuthorityFolder = Annotated[Path, typer.Argument(metavar="DIR", help="The authority's folder; its key is in there.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Of a worker or a person: small letters, digits, . _ -")]
Days = Annotated[int, typer.Option(min=1, max=limits.AUTHORITY_DAYS, help="How long the certificate holds.")]


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(installed_version("syft-pointers"))


@app.command()
def demo(
    rounds: Annotated[int, typer.Option(min=1, max=1000, help="How often the owners' models are averaged.")] = 20,
    owners: Annotated[int, typer.Option(min=4, max=20, help="Among how many the training images are split.")] = 5,
    alpha: Annotated[
        float, typer.Option(help="Dirichlet's, 0.01 to 1e6: the smaller, the less alike the owners' images.")
    ] = 2.0,
    epochs: Annotated[int, typer.Option(min=1, max=20, help="Of each owner in each round.")] = 1,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="The same seed gives the same result.")] = 0,
    out: Annotated[Path, typer.Option(help="Where the plot goes, a .png; a .pdf is put beside it.")] = Path(
        "federation.out.png"
    ),
) -> None:
    """Train on real digits that several owners hold; only averages of their updates are ever fetched."""
    if not 0.01 <= alpha <= 1e6:  # also false of nan, which a range of typer's calls too large
        raise typer.BadParameter(f"{alpha} is no number from 0.01 to 1e6", param_hint="--alpha")
    _check_can_write(out)
    try:
        from .demo.run import run
        from .demo.training import Settings
    except ModuleNotFoundError as error:
        raise SystemExit(f"The demo needs {error.name}: pip install 'syft-pointers[demo]'") from error
    settings = Settings(rounds=rounds, owners=owners, alpha=alpha, seed=seed, epochs=epochs)
    if not run(settings, out, Console(highlight=False)):
        raise typer.Exit(_INTERRUPTED)


@certs_app.command("init")
def certs_init(
    folder: AuthorityFolder,
    force: Annotated[bool, typer.Option("--force", help="Replace the authority; what it issued is void then.")] = False,
) -> None:
    """Make a private certificate authority."""
    with _needs_nodes():
        from .node import certs

        certs.init(folder, force=force)
    typer.echo(f"{folder / certs.AUTHORITY} may be given to anyone, {folder / certs.AUTHORITY_KEY} to no one.")


@certs_app.command("issue")
def certs_issue(
    folder: AuthorityFolder,
    name: Name,
    host: Annotated[
        list[str] | None, typer.Option(help="An address at which this worker answers; may be repeated.")
    ] = None,
    days: Days = limits.CERTIFICATE_DAYS,
    force: Annotated[bool, typer.Option("--force", help="Replace the bundle that is there, key and all.")] = False,
) -> None:
    """Make the bundle DIR/NAME: certificate, key and the authority's certificate."""
    with _needs_nodes():
        from .node import certs

        bundle = certs.issue(folder, name, host or (), days=days, force=force)
    typer.echo(f"{bundle} is all that {name} needs; its key is readable by you only.")


@certs_app.command("renew")
def certs_renew(folder: AuthorityFolder, name: Name, days: Days = limits.CERTIFICATE_DAYS) -> None:
    """Give the bundle DIR/NAME a new certificate for the same key and hosts."""
    with _needs_nodes():
        from .node import certs

        bundle = certs.renew(folder, name, days=days)
    typer.echo(f"{bundle / certs.CERTIFICATE} is renewed.")


@contextmanager
def _needs_nodes() -> Iterator[None]:
    """End the command with one clear line where a package is missing or something is not set up."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise SystemExit(f"Nodes need {error.name}: pip install 'syft-pointers[nodes]'") from error
    except NodeError as error:
        raise SystemExit(f"syft: {error}") from error


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
