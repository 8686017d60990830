"""Ask a server's health service whether the server, or one of its models, takes requests."""

from functools import cached_property

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from hangtag.serving import address as server_address
from hangtag.serving.connection import ClientError, Connection


class HealthConnection(Connection):
    """A connection that can check readiness: the base of ``Client``, and all that `hangtag health` needs."""

    @cached_property
    def _health(self) -> health_pb2_grpc.HealthStub:
        return health_pb2_grpc.HealthStub(self._channel)

    def is_ready(self, model: str = "") -> bool:
        """Return whether the server, or one model, serves; False while it loads or where the model is unknown.

        Args:
            model: a model's name; "" is the whole server.

        Raises:
            ClientError: no server answers, or it refuses the call.
            CredentialsError: the token's file cannot be read.
        """
        return bool(self._status(model) == health_pb2.HealthCheckResponse.SERVING)

    def require_ready(self, model: str = "") -> None:
        """As ``is_ready``, but raise ClientError with the reason where it returns False."""
        status = self._status(model)
        if status == health_pb2.HealthCheckResponse.SERVING:
            return
        if model and status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN and self.is_ready():
            raise ClientError(grpc.StatusCode.NOT_FOUND, f"the server at {self._address} serves no model {model!r}")
        raise ClientError(
            grpc.StatusCode.UNAVAILABLE, f"{model or 'the server'} at {self._address} is not ready; its log says why"
        )

    def wait_until_ready(self, seconds: float, model: str = "") -> None:
        """Return as soon as the server, or one model, serves. The server need not have started yet.

        Args:
            seconds: how long to wait at most.
            model: a model's name; "" is the whole server.

        Raises:
            ClientError: it was not ready in time, or the server refuses the call.
            CredentialsError: the token's file cannot be read.
        """
        request = health_pb2.HealthCheckRequest(service=model)
        metadata = self._credentials.metadata()
        status = None
        try:
            # Watch reports each change at once, so nothing polls; wait_for_ready outlasts a server that is not up yet.
            for response in self._health.Watch(request, timeout=seconds, wait_for_ready=True, metadata=metadata):
                status = response.status
                if status == health_pb2.HealthCheckResponse.SERVING:
                    return
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                raise self._explained(error) from error
        if model and status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN:
            message = f"the server at {self._address} served no model {model!r} within {seconds:g} s"
        elif status is None and (explanation := server_address.http_explanation(self._address)):
            message = explanation
        else:
            message = f"{model or 'the server'} at {self._address} was not ready within {seconds:g} s; its log says why"
        raise ClientError(grpc.StatusCode.DEADLINE_EXCEEDED, message)

    def _status(self, model: str) -> int:
        """One of HealthCheckResponse.ServingStatus."""
        try:
            response = self._call(self._health.Check, health_pb2.HealthCheckRequest(service=model))
        except ClientError as error:
            if error.code is grpc.StatusCode.NOT_FOUND:  # the model is unknown, or not loaded yet
                return int(health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)
            raise
        return int(response.status)
