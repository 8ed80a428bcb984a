"""A node, from its start to its end."""

from __future__ import annotations

import importlib.util
import resource
import select
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

from ..errors import BadConfig, NodeError
from .certs import Bundle
from .config import Address, Config, parse_address
from .engines import Engine
from .forkserver import ForkServer


def serve(
    file: Path,
    owner: str,
    listen: str,
    certs: str | Path,
    tell: Callable[[str], None],
    metrics: Address | None = None,
    health: Address | None = None,
    *,
    until_eof: bool = False,
    on_ray: bool = False,
) -> None:
    """Serve the worker ``owner`` at ``listen`` until SIGTERM, Ctrl-C, or SIGHUP, which means the same.

    Args:
        file: the config: its data, who may do what with it, and limits.
        listen: host and port; port 0 takes a free one.
        certs: the folder of the node's bundle, whose name must be the worker's.
        tell: called with lines of text on what is served and how, the last of which is ``ready at ADDRESS``, once
            callers may connect.
        metrics: where to serve Prometheus metrics, without certificates.
        health: where to serve gRPC's health check, likewise.
        on_ray: have the rooms on a Ray cluster, not in processes beside this one.
        until_eof: also end when the standard input does: whoever holds its other end has gone, however that was.

    Raises:
        BadCertificate: the bundle is not valid.
        BadConfig: so is the config, the bundle is another's, a data set cannot be read, or the address cannot be
            listened at.
    """
    try:
        parse_address(listen, lowest=0)
    except ValueError as error:
        raise BadConfig(f"--listen: {error}") from error
    with ExitStack() as stack:
        # Before the config and the key are in this process, of which the fork server is a fork.
        forkserver = None if on_ray else stack.enter_context(closing(ForkServer()))
        config = Config.load(file, owner)
        tell(f"data sets: {', '.join(data.name for data in config.data) or 'none'}")
        tell(f"audit log and requests are kept in {config.state}")
        engine = forkserver or stack.enter_context(closing(_cluster(config)))
        bundle = Bundle.load(certs)
        if bundle.name != owner:
            raise BadConfig(
                f"the bundle in {certs} is {bundle.name}'s, not {owner}'s", mend=f"syft certs issue DIR {owner}"
            )
        engine.ready()
        _serve(config, listen, bundle, engine, tell, metrics, health, [sys.stdin.fileno()] if until_eof else [])


def _cluster(config: Config) -> Engine:
    from .cluster import Cluster

    return Cluster(config.owner, config.ray)


def _serve(
    config: Config,
    listen: str,
    bundle: Bundle,
    engine: Engine,
    tell: Callable[[str], None],
    metrics: Address | None,
    health: Address | None,
    ends: list[int],
) -> None:
    # Only now: no room inherits the owner's data.
    from .connection import dial
    from .data import load
    from .gate import Gate
    from .listener import Listener
    from .state import NodeState
    from .tls import context
    from .walls import standing

    tell(f"walls of rooms: {', '.join(standing())}")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # each client takes several
    state = NodeState(config, load)
    tls = context(bundle, server_side=False)
    gate = Gate(bundle.name, lambda worker, address: dial(parse_address(address), tls, worker), engine, state)
    try:
        listener = Listener(parse_address(listen, lowest=0), context(bundle, server_side=True), gate.serve)
    except OSError as error:
        raise BadConfig(f"nothing can listen at {listen}", mend="Is the port taken? Choose another.") from error
    if metrics is not None:
        from .metrics import serve_metrics

        tell(f"metrics at {serve_metrics(metrics, gate, state)}")
    if health is not None:
        if importlib.util.find_spec("grpc_health") is None:
            raise BadConfig("--health needs gRPC's package for it: pip install 'syft-pointers[health]'")
        from .health import Health

        checked = Health(health)
        tell(f"health at {checked.address}")
    listener.start()
    stopped = _on_signal()
    address = f"{listen.rpartition(':')[0]}:{listener.port}"
    state.opened(address)
    tell(f"ready at {address}")
    ended, _, _ = select.select([stopped.fileno(), engine.end, *ends], [], [])
    if health is not None:
        checked.enter_graceful_shutdown()
    listener.close()
    gate.close()
    if health is not None:
        checked.close()
    state.close()
    if engine.end in ended:
        raise NodeError("the process that starts rooms has ended", where=config.owner, mend="Start the node again.")


def _on_signal() -> socket.socket:
    """Return a socket on which a byte arrives at SIGTERM, SIGINT or SIGHUP; after nohup, not at the last."""
    reader, writer = socket.socketpair()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN or number != signal.SIGHUP:
            signal.signal(number, lambda *_: writer.send(b"\0"))
    return reader
