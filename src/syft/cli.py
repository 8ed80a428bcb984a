"""The ``syft`` command."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from . import limits
from .errors import SyftError

try:
    import typer
    from rich.console import Console
except ModuleNotFoundError as error:
    raise SystemExit(f"The syft command needs {error.name}: pip install 'syft-pointers[demo]'") from error

if TYPE_CHECKING:
    import torch

    from .node.audit import Entry
    from .node.requests import Requests

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
    nodes: Annotated[bool, typer.Option("--nodes", help="Each worker is a node, in a process of its own.")] = False,
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
    console = Console(highlight=False)
    if nodes:
        with _needs_nodes():
            from .demo.nodes import Nodes

            finished = run(settings, out, console, Nodes)
    else:
        finished = run(settings, out, console)
    if not finished:
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


ConfigFile = Annotated[Path, typer.Option("--config", help="The node's config.")]
RequestId = Annotated[str, typer.Argument(metavar="ID", help="Of a request, as syft requests lists them.")]
Note = Annotated[str, typer.Option(help="For the client.")]


class Engine(StrEnum):
    """Where rooms run."""

    LOCAL = "local"
    RAY = "ray"


@app.command()
def serve(
    id: Annotated[str, typer.Option(help="The worker's name, as in its certificate.")],
    certs: Annotated[Path, typer.Option(help="The worker's bundle, as syft certs issue made it.")],
    config: ConfigFile,
    listen: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where callers connect.")] = "127.0.0.1:7101",
    metrics: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Serve Prometheus metrics there, to this machine alone.")
    ] = None,
    metrics_open: Annotated[
        bool, typer.Option("--metrics-open", help="Let others read the metrics too; they need no certificate.")
    ] = False,
    health: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Serve gRPC's health check there, to this machine alone.")
    ] = None,
    health_open: Annotated[
        bool, typer.Option("--health-open", help="Let others check the health too; they need no certificate.")
    ] = False,
    engine: Annotated[Engine, typer.Option(help="Where rooms run: here, or on a Ray cluster.")] = Engine.LOCAL,
    until_eof: Annotated[bool, typer.Option("--until-eof", help="Stop also when the standard input ends.")] = False,
) -> None:
    """Serve data to those whom the config allows, until Ctrl-C, SIGTERM or SIGHUP."""
    with _needs_nodes():
        from .node.config import unguarded_address
        from .node.serve import serve

        logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S")
        measured = None if metrics is None else unguarded_address("--metrics", metrics, open_to_others=metrics_open)
        checked = None if health is None else unguarded_address("--health", health, open_to_others=health_open)

        def tell(line: str) -> None:
            typer.echo(f"{id}: {line}")

        serve(config, id, listen, certs, tell, measured, checked, until_eof=until_eof, on_ray=engine is Engine.RAY)
    typer.echo(f"{id}: stopped")


@app.command()
def status(config: ConfigFile) -> None:
    """Show whether a node is up, and what it does."""
    with _needs_nodes():
        from .node.state import read_status

        node = read_status(_state(config))
    typer.echo(f"{node.worker} at {node.address}, process {node.pid}, since {node.since:%Y-%m-%d %H:%M:%S} UTC")
    typer.echo(f"offers: {', '.join(node.offers) or 'nothing'}")
    typer.echo(f"walls of rooms: {', '.join(node.walls)}")
    typer.echo(f"rooms: {len(node.tenants)}")


@app.command()
def rooms(config: ConfigFile) -> None:
    """List the clients' rooms at a node: since when, memory or place on the cluster, and which data has entered."""
    with _needs_nodes():
        from .node.state import memory_of, read_status

        node = read_status(_state(config))
    for tenant in node.tenants:
        entered = ", ".join(tenant.entered) or "nothing private"
        where = f"{memory_of(tenant.pid) / 2**20:.0f} MiB" if tenant.pid else tenant.place
        typer.echo(f"{tenant.room}  {tenant.since:%Y-%m-%d %H:%M:%S}  {tenant.client}  {where}  {entered}")


@app.command()
def audit(
    config: ConfigFile,
    client: Annotated[str | None, typer.Option(help="Only what this client asked.")] = None,
    data: Annotated[
        str | None, typer.Option(metavar="[OWNER/]DATA", help="Only where this data was concerned.")
    ] = None,
    denied: Annotated[bool, typer.Option("--denied", help="Only what was denied.")] = False,
) -> None:
    """Show what was asked to leave a node, and the answers."""
    with _needs_nodes():
        from .node.audit import Entry, Wanted
        from .node.state import audit_log

        wanted = Wanted(client=client, data=data, allowed=False if denied else None)
        for entry in audit_log(_state(config)).read(wanted):
            typer.echo(_line_of(entry) if isinstance(entry, Entry) else f"line {entry.number} was cut off")


@app.command()
def requests(
    config: ConfigFile,
    id: Annotated[str | None, typer.Argument(metavar="[ID]", help="Show one in full, with its value.")] = None,
    all: Annotated[bool, typer.Option("--all", help="Also those that have been answered.")] = False,
) -> None:
    """List what clients ask to get, and wait for your answer to."""
    with _needs_nodes():
        queue = _requests(config)
        if id is not None:
            typer.echo(_request_in_full(queue, id))
            return
        for standing in queue.all() if all else queue.open():
            asked = standing.request
            what = f"{asked.dtype} {list(asked.shape)} from {asked.data}"
            time = f"{asked.time:%Y-%m-%d %H:%M:%S}"
            typer.echo(f"{asked.id}  {time}  {standing.state}  {asked.client}  {what}  {asked.reason!r}")


@app.command()
def approve(id: RequestId, config: ConfigFile, note: Note = "") -> None:
    """Let a client get the value that it asked for, as it was then."""
    with _needs_nodes():
        request = _requests(config).approve(id, note).request
    typer.echo(f"{request.client} may get object {request.object}, as it was when asked for.")


@app.command()
def deny(id: RequestId, config: ConfigFile, note: Note = "") -> None:
    """Refuse a request, for good; also one that was approved."""
    with _needs_nodes():
        request = _requests(config).deny(id, note).request
    typer.echo(f"{request.client} may not get object {request.object}.")


def _state(config: Path) -> Path:
    """Return where the papers of a node are. Raises BadConfig."""
    from .node.config import state_of

    return state_of(config)


def _requests(config: Path) -> Requests:
    from .node.requests import Requests

    return Requests(_state(config), "this node")


def _request_in_full(queue: Requests, id: str) -> str:
    """Write down a request and, while it is kept, its value; texts in it are a client's. Raises Misuse, AuditFailed."""
    standing = queue.find(id)
    asked = standing.request
    note = f", {standing.note!r}" if standing.note else ""
    lines = {
        "request": f"{asked.id}, {standing.state}{note}",
        "asked": f"{asked.time:%Y-%m-%d %H:%M:%S} UTC by {asked.client}, in room {asked.room}",
        "reason": repr(asked.reason),
        "from": asked.data,
        "object": f"{asked.object}, {asked.dtype} {list(asked.shape)}",
    }
    if standing.is_kept:
        lines["value"] = _values_of(queue.tensor(id))
    return "\n".join(f"{name:9}{text}" for name, text in lines.items())


def _values_of(value: torch.Tensor) -> str:
    """Write down a dense tensor; of one of more than ``limits.MAX_SHOWN`` elements the corners, and what it spans."""
    import torch

    # In full, as all that is there leaves: 9 digits tell one float32 from the next, and 17 one float64.
    torch.set_printoptions(threshold=limits.MAX_SHOWN, precision=17 if value.dtype.itemsize > 4 else 9)
    if value.numel() <= limits.MAX_SHOWN:
        return str(value)
    numbers = (torch.view_as_real(value.to(torch.complex128)) if value.is_complex() else value).double()
    finite = numbers[numbers.isfinite()]
    spans = f"{finite.min():g} to {finite.max():g}, mean {finite.mean():g}" if finite.numel() else "no finite number"
    return f"{spans}, not finite {numbers.numel() - finite.numel()} of {numbers.numel()}\n{value}"


def _line_of(entry: Entry) -> str:
    """Write an audit entry on a line; texts in it may be a client's."""
    answer = "allowed" if entry.allowed else "denied "
    what = entry.what if entry.object is None else f"{entry.what} {entry.object}"
    where = f" to {entry.to}" if entry.to and entry.to != entry.client else ""
    line = f"{entry.time:%Y-%m-%d %H:%M:%S}  {answer}  {entry.client}  {what}{where}: {entry.reason}"
    return "".join(c if c.isprintable() else "?" for c in line)


@contextmanager
def _needs_nodes() -> Iterator[None]:
    """End the command with one clear line where a package is missing or something is not set up."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise SystemExit(f"Nodes need {error.name}: pip install 'syft-pointers[nodes]'") from error
    except SyftError as error:
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
