"""gRPC's health service, on request: ``syft serve --health HOST:PORT``.

As metrics it is read without a certificate, and names nobody: it says whether the node serves.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Final

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what matters of its errors is told in our own

import grpc
from grpc_health.v1 import health
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from .. import limits
from ..errors import BadConfig
from .config import Address

SERVICE: Final = "syft.Node"


class Health(health.HealthServicer):  # type: ignore[misc]
    """SERVING until ``enter_graceful_shutdown``, for the whole node (the empty name) and its one service.

    ``Check`` alone is served. ``Watch`` would keep something for each name that a caller makes up.

    Args:
        address: where to serve it; port 0 takes a free one.

    Attributes:
        address: with the port that was taken.

    Raises:
        BadConfig: nothing can listen there.
    """

    def __init__(self, address: Address) -> None:
        super().__init__()
        self.set(SERVICE, HealthCheckResponse.SERVING)
        check = grpc.unary_unary_rpc_method_handler(
            self.Check, HealthCheckRequest.FromString, HealthCheckResponse.SerializeToString
        )
        self._server = grpc.server(
            ThreadPoolExecutor(1),
            handlers=[grpc.method_handlers_generic_handler(health.SERVICE_NAME, {"Check": check})],
            options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", limits.MAX_CHECK_BYTES)],
            maximum_concurrent_rpcs=limits.ARRIVALS,
        )
        try:
            port = self._server.add_insecure_port(str(address))
        except RuntimeError as error:
            raise BadConfig(f"--health: nothing can listen at {address}", mend="Is the port taken?") from error
        self.address = address._replace(port=port)
        self._server.start()

    def close(self) -> None:
        """Answer nobody any more."""
        self._server.stop(limits.GOODBYE_SECONDS).wait()
