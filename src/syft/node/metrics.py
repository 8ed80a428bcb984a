"""Prometheus metrics of a node, on request: ``syft serve --metrics HOST:PORT``.

They are read without a certificate, and kept by others for years, so nobody's name is in them: who
works here, and on which data, is for the owner's commands alone (``syft rooms``, ``syft audit``). The
labels are the kinds of release, of which there are a few.
"""

from __future__ import annotations

import logging
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, ProcessCollector, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from .. import limits
from ..errors import BadConfig
from .config import Address
from .gate import Gate
from .state import NodeState, memory_of

_log = logging.getLogger(__name__)


class Collector:
    """Looks at a node when it is asked to; nothing of this is done in between."""

    def __init__(self, gate: Gate, state: NodeState) -> None:
        self._gate, self._state = gate, state

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics. Raises AuditFailed: the requests cannot be read."""
        counts, audit = self._gate.counts, self._state.audit
        sessions, tenancies = self._gate.present()
        rooms = [tenancy.room for tenancy in tenancies]
        gauges: dict[str, tuple[str, float]] = {
            "rooms": ("Rooms of clients.", len(rooms)),
            "clients": ("Clients, by certificate, that have rooms.", len({each.client for each in tenancies})),
            "sessions": ("Sessions: of clients, and of nodes that run chains for them.", sessions),
            "requests_open": ("Requests that wait for the owner's answer.", len(self._state.requests.open())),
            "rooms_memory_bytes": (
                "Memory of all rooms on this machine; those on a cluster are not seen from here.",
                sum(memory_of(room.pid) for room in rooms if not room.died),
            ),
        }
        counters: dict[str, tuple[str, float]] = {
            "messages": ("Messages accepted.", counts.messages),
            "received_bytes": ("Bytes of batches and deliveries taken.", counts.bytes_in),
            "sent_bytes": ("Bytes of answers and deliveries given.", counts.bytes_out),
            "rooms_died": (
                "Rooms that ended before their clients left.",
                counts.rooms_died + sum(room.died for room in rooms),
            ),
            "rooms_cpu_seconds": (
                "Processor time of all rooms on this machine.",
                counts.cpu_seconds + sum(room.cpu_seconds() for room in rooms),
            ),
            "audit_failures": ("Lines that the audit log could not take.", audit.failures),
        }
        for name, (text, value) in gauges.items():
            yield GaugeMetricFamily(f"syft_{name}", text, value)
        for name, (text, value) in counters.items():
            yield CounterMetricFamily(f"syft_{name}", text, value)
        releases = CounterMetricFamily("syft_releases", "What was asked to leave.", labels=("kind", "answer"))
        for (what, allowed), number in audit.counted().items():
            releases.add_metric((what, "allowed" if allowed else "denied"), number)
        yield releases


def serve_metrics(address: Address, gate: Gate, state: NodeState) -> str:
    """Serve the metrics of a node at ``address``, on a thread, until the process ends; return the URL.

    Raises BadConfig: nothing can listen there.
    """
    registry = CollectorRegistry()
    registry.register(Collector(gate, state))
    ProcessCollector(registry=registry)
    try:
        server = _Server(address, _Handler)
    except OSError as error:
        raise BadConfig(f"--metrics: nothing can listen at {address}: {error.strerror}") from error
    server.set_app(make_wsgi_app(registry))
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return f"http://{address._replace(port=server.server_port)}/metrics"


class _Server(WSGIServer):
    """One reader after another, each for a moment: readers take no threads from the gate."""

    def __init__(self, address: Address, handler: type[WSGIRequestHandler]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        super().__init__(address, handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        _log.warning("metrics: %s", sys.exception() or "")


class _Handler(WSGIRequestHandler):
    timeout = limits.METRICS_SECONDS

    def log_message(self, format: str, *args: Any) -> None:
        """Readers come every few seconds."""
