"""Reads from a server, before the load, what it and its models are. Works with any Open Inference Protocol server."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from hangtag.protos import classifier_pb2
from hangtag.protos import inference_pb2 as pb
from hangtag.serving import address as server_address
from hangtag.serving.connection.connect import connect
from hangtag.serving.connection.errors import ClientError
from hangtag.serving.connection.method import Method
from hangtag.serving.connection.options import ConnectionOptions
from hangtag.serving.credentials import Credentials
from hangtag.serving.loadtest.errors import TargetError
from hangtag.serving.loadtest.generator.channels.http_text import MESSAGES
from hangtag.serving.loadtest.generator.messages import CLASSIFY, INFER
from hangtag.serving.loadtest.plan.target import Target
from hangtag.serving.loadtest.statistics.server_timings import ServerTimings
from hangtag.serving.loadtest.sut import server_statistics
from hangtag.serving.loadtest.sut.description import Description

# Seconds: enough for a server across an ocean; a refused connection fails at once.
PROBE_TIMEOUT = 5.0
_SERVICE = "/inference.GRPCInferenceService/"
_SERVER = Method(_SERVICE + "ServerMetadata", pb.ServerMetadataResponse)
_MODEL = Method(_SERVICE + "ModelMetadata", pb.ModelMetadataResponse)
_CONFIG = Method(_SERVICE + "ModelConfig", pb.ModelConfigResponse)
_INDEX = Method(_SERVICE + "RepositoryIndex", pb.RepositoryIndexResponse)
_READY = Method(_SERVICE + "ModelReady", pb.ModelReadyResponse)
_LOAD: dict[str, Method[Any]] = {
    INFER: Method(INFER, pb.ModelInferResponse),
    CLASSIFY: Method(CLASSIFY, classifier_pb2.ClassifyResponse),
}


class Probe:
    """A connection to one server, used as a context manager. Its methods raise TargetError.

    Example:
        with Probe("127.0.0.1:8001", Credentials()) as probe:
            print(probe.describe(Target("cnn", "cnn")).provider)
    """

    def __init__(self, address: str, credentials: Credentials) -> None:
        """Create the connection; nothing is sent yet. Raises what ``connect`` raises."""
        self._address = address
        credentials.metadata()  # a token that cannot be read is reported before the first call
        # No retries: a load test reports what the server answers.
        self._connection = connect(address, PROBE_TIMEOUT, credentials, ConnectionOptions(retries=0))

    def __enter__(self) -> "Probe":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    @functools.cached_property
    def server(self) -> pb.ServerMetadataResponse:
        """The server's name and version. Raises TargetError where it does not answer."""
        try:
            return self._connection.call(_SERVER, pb.ServerMetadataRequest())
        except ClientError as error:
            raise TargetError(self._explanation(error)) from error

    def describe(self, target: Target) -> Description:
        """Everything that the server says about the target's model."""
        server = self.server
        metadata = self._model(target)
        config = self._config(target)
        return Description(
            target=target,
            server_name=server.name,
            server_version=server.version,
            metadata=metadata,
            max_batch_size=config.max_batch_size if config else None,
            parameters={key: value.string_value for key, value in config.parameters.items()} if config else {},
            instances=(sum(group.count for group in config.instance_group) or None) if config else None,
            statistics=self.statistics(target) is not None,
        )

    def statistics(self, target: Target) -> ServerTimings | None:
        """The server's counters of the target's model; None where it keeps none or does not answer."""
        return server_statistics.read(self._connection, target.model, target.version)

    def call(self, target: Target, method: str, request: bytes, timeout: float) -> bytes:
        """Make one call as the load will make it: a request that fails here would fail every time.

        Args:
            target: The target, for the error message.
            method: The full gRPC method name.
            request: The serialised message.
            timeout: The deadline in seconds.

        Raises:
            TargetError: The call failed.
        """
        try:
            response = self._connection.call(_LOAD[method], MESSAGES[method].FromString(request), timeout)
        except ClientError as error:
            if error.code is grpc.StatusCode.UNIMPLEMENTED and method == CLASSIFY:
                raise TargetError(f"{self._address} has no Classify: leave out --method classify.") from error
            raise TargetError(
                f"{target.name} does not answer what would be sent ({_status(error)}): nothing was measured."
            ) from error
        data: bytes = response.SerializeToString()
        return data

    def _explanation(self, error: ClientError) -> str:
        """One sentence for the user about a failed call of ServerMetadata."""
        server = f"the server at {self._address}"
        if error.code is grpc.StatusCode.UNIMPLEMENTED and not server_address.is_http(self._address):
            return f"{server} does not speak the Open Inference Protocol (inference.GRPCInferenceService)."
        if error.code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
            return f"{server} refused the call without valid credentials ({error}): give --token-file."
        return f"{error}."

    def _model(self, target: Target) -> pb.ModelMetadataResponse:
        name = target.model
        try:
            metadata = self._metadata(name, target.version)
            ready = self._connection.call(_READY, pb.ModelReadyRequest(name=name, version=target.version)).ready
        except ClientError as error:
            if error.code is grpc.StatusCode.NOT_FOUND:
                if target.version and (versions := self._served_versions(name)):
                    raise TargetError(
                        f"{self._address} does not serve version {target.version} of {name!r}, only {versions}: "
                        "'hangtag serve --num-versions' serves more."
                    ) from error
                raise TargetError(f"{self._address} has no model {name!r}{self._available_models()}.") from error
            status = _status(error)
            raise TargetError(f"{self._address} could not describe model {name!r}: {status}.") from error
        if not ready:
            raise TargetError(f"model {name!r} is not ready on {self._address}: wait for it, or see the server's log.")
        return metadata

    def _metadata(self, name: str, version: str = "") -> pb.ModelMetadataResponse:
        return self._connection.call(_MODEL, pb.ModelMetadataRequest(name=name, version=version))

    def _served_versions(self, name: str) -> str:
        """The versions of a model that the server serves; empty where it has no such model."""
        try:
            return ", ".join(self._metadata(name).versions)
        except ClientError:
            return ""

    def _config(self, target: Target) -> pb.ModelConfig | None:
        request = pb.ModelConfigRequest(name=target.model, version=target.version)
        try:
            return self._connection.call(_CONFIG, request).config
        except ClientError:
            return None  # ModelConfig is an extension that not every server has.

    def _available_models(self) -> str:
        """The server's models, as the end of a sentence; empty where the server cannot list them."""
        try:
            index = self._connection.call(_INDEX, pb.RepositoryIndexRequest())
        except ClientError:
            return ""
        names = sorted({model.name for model in index.models})
        return f"; it has {', '.join(names)}" if names else "; it has none"


def _status(error: ClientError) -> str:
    return f"{error.code.name} ({error})"


@contextmanager
def open_probes(targets: tuple[Target, ...], credentials: Credentials) -> Iterator[dict[str, Probe]]:
    """A probe for each target, by name. Targets on one server share a probe. Raises CredentialsError."""
    probes = {address: Probe(address, credentials) for address in dict.fromkeys(target.address for target in targets)}
    try:
        yield {target.name: probes[target.address] for target in targets}
    finally:
        for probe in probes.values():
            probe.__exit__()
