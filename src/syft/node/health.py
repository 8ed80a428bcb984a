"""gRPC's health service, at the node's own port: who has a certificate may ask whether it serves."""

from __future__ import annotations

import grpc
from grpc_health.v1 import health
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from .link import SERVICE


class Health(health.HealthServicer):  # type: ignore[misc]
    """SERVING until ``enter_graceful_shutdown``, for the whole node (the empty name) and its one service.

    ``Check`` alone is served. ``Watch`` would keep something for each name that a caller makes up.
    """

    def __init__(self) -> None:
        super().__init__()
        self.set(SERVICE, HealthCheckResponse.SERVING)

    def handler(self) -> grpc.GenericRpcHandler:
        """Return what a gRPC server takes."""
        check = grpc.unary_unary_rpc_method_handler(
            self.Check, HealthCheckRequest.FromString, HealthCheckResponse.SerializeToString
        )
        return grpc.method_handlers_generic_handler(health.SERVICE_NAME, {"Check": check})
