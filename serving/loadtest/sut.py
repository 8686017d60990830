"""Reads the description and the counters of the system under test (SUT, LoadGen's term): a server and its models."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from hangtag.printable import counted
from hangtag.protos import classifier_pb2, methods
from hangtag.protos import inference_pb2 as pb
from hangtag.serving import address as server_address
from hangtag.serving.connection.client_options import ConnectionOptions
from hangtag.serving.connection.connect import Connection, connect
from hangtag.serving.connection.errors import ClientError
from hangtag.serving.connection.method import Method, Response
from hangtag.serving.credentials import Credentials
from hangtag.serving.loadtest import LoadTestError
from hangtag.serving.loadtest.generator.channels import CLASSIFY, INFER
from hangtag.serving.loadtest.plan.scenario import Target
from hangtag.serving.loadtest.record import stored, unstored
from hangtag.serving.loadtest.statistics.durations import PARTS, ServerTimings
from hangtag.serving.loadtest.statistics.intervals import Accuracy

Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class Server:
    """A server's description of itself."""

    address: str = stored()
    name: str = stored()
    version: str = stored()


@dataclass(frozen=True)
class Description:
    """A target, as its server describes it. A field is empty or null if the server does not report it."""

    target: Target = unstored()
    metadata: Any = unstored()  # A pb.ModelMetadataResponse of the model.
    parameters: dict[str, str] = unstored()  # The parameters of the model's configuration.
    name: str = stored("The target's name in reports.")
    model: str = stored("The model's name on the server.")
    method: str = stored("infer or classify")
    server: Server = stored()
    model_versions: tuple[str, ...] = stored("The loaded versions.")
    max_batch_size: int | None = stored()
    execution_provider: str = stored("ONNX Runtime's execution provider.")
    onnxruntime_version: str = stored("ONNX Runtime's version on the server.")
    threads: str = stored("The number of the model's instances and of their threads, as a phrase.")
    file_bytes: int | None = stored("The size of the model's file, and roughly the memory that the weights take.")
    answering_version: str = stored("The loaded version that answered.", default="")
    samples: str = stored("The source of the samples.", default="")
    accuracy: Accuracy | None = stored(default=None)


def number_in(parameters: Mapping[str, str], name: str, kind: type[Number]) -> Number | None:
    """Return a parameter of a model's configuration as a number; None if the parameter is missing or not a number."""
    try:
        return kind(parameters[name])
    except (KeyError, ValueError):
        return None


def _threads(config: pb.ModelConfig, parameters: Mapping[str, str]) -> str:
    instances = sum(group.count for group in config.instance_group)
    threads, alone = (parameters.get(f"{name}_threads", "") for name in ("intra_op", "alone"))
    text = counted(instances, "instance", "instances") + f" of {threads} thread{'s' * (threads != '1')}" * bool(threads)
    return (text + f" ({alone} for a batch alone)" * (alone not in ("", threads))) * bool(instances)


# The deadline in seconds, which is enough for a server on another continent. A refused connection fails at once.
PROBE_TIMEOUT = 5.0
_SERVER = Method(methods.SERVER_METADATA, pb.ServerMetadataResponse)
_MODEL = Method(methods.MODEL_METADATA, pb.ModelMetadataResponse)
_CONFIG = Method(methods.MODEL_CONFIG, pb.ModelConfigResponse)
_INDEX = Method(methods.REPOSITORY_INDEX, pb.RepositoryIndexResponse)
_READY = Method(methods.MODEL_READY, pb.ModelReadyResponse)
_STATISTICS = Method(methods.MODEL_STATISTICS, pb.ModelStatisticsResponse)
_LOAD = {INFER: pb.ModelInferResponse, CLASSIFY: classifier_pb2.ClassifyResponse}


@dataclass(frozen=True)
class Probe:
    """Calls the server of a target. The methods raise LoadTestError."""

    target: Target
    connection: Connection

    def describe(self) -> Description:
        target, server, metadata = self.target, self._server(), self._metadata()
        response = self._optional(_CONFIG, pb.ModelConfigRequest(name=target.model, version=target.version))
        config = response.config if response else pb.ModelConfig()
        parameters = {key: value.string_value for key, value in config.parameters.items()}
        return Description(
            target=target,
            metadata=metadata,
            parameters=parameters,
            name=target.name,
            model=target.model,
            method=target.method,
            server=Server(target.address, server.name, server.version),
            model_versions=tuple(metadata.versions),
            max_batch_size=config.max_batch_size if response else None,
            execution_provider=parameters.get("execution_provider", ""),
            onnxruntime_version=parameters.get("onnxruntime_version", ""),
            threads=_threads(config, parameters),
            file_bytes=number_in(parameters, "file_bytes", int),
        )

    def statistics(self) -> ServerTimings | None:
        """Return the server's counters since the target's model was loaded; None if the counters cannot be read."""
        model, version = self.target.model, self.target.version
        response = self._optional(_STATISTICS, pb.ModelStatisticsRequest(name=model, version=version))
        # The answer to a request without a version has the counters of every loaded version.
        return ServerTimings.summed(
            ServerTimings(
                each.inference_stats.success.count,
                each.execution_count,
                *(getattr(each.inference_stats, part).ns / 1e9 for part in PARTS),
            )
            for each in (response.model_stats if response else ())
            if each.name == model and version in ("", each.version)
        )

    def call(self, method: str, request: Message, timeout: float) -> Any:
        """Call INFER or CLASSIFY as the load generator does, with a deadline in seconds, and return the response."""
        try:
            return self.connection.call(Method(method, _LOAD[method]), request, timeout)
        except ClientError as error:
            if error.code is grpc.StatusCode.UNIMPLEMENTED and method == CLASSIFY:
                raise LoadTestError(f"{self.target.address} has no Classify: leave out --method classify.") from error
            raise LoadTestError(
                f"{self.target.name} does not answer the test's queries ({error.code.name}: {error}), so nothing was "
                "measured."
            ) from error

    def _server(self) -> pb.ServerMetadataResponse:
        try:
            return self.connection.call(_SERVER, pb.ServerMetadataRequest())
        except ClientError as error:
            message, server = f"{error}.", f"the server at {self.target.address}"
            if error.code is grpc.StatusCode.UNIMPLEMENTED and not server_address.is_http(self.target.address):
                message = f"{server} does not speak the Open Inference Protocol (inference.GRPCInferenceService)."
            elif error.code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
                message = f"{server} refused the call because it lacks valid credentials ({error}): give --token-file."
            raise LoadTestError(message) from error

    def _metadata(self) -> pb.ModelMetadataResponse:
        name, version, address = self.target.model, self.target.version, self.target.address
        try:
            metadata = self.connection.call(_MODEL, pb.ModelMetadataRequest(name=name, version=version))
            ready = self.connection.call(_READY, pb.ModelReadyRequest(name=name, version=version)).ready
        except ClientError as error:
            message = f"{address} could not describe model {name!r}: {error.code.name} ({error})."
            if error.code is grpc.StatusCode.NOT_FOUND:
                index = self._optional(_INDEX, pb.RepositoryIndexRequest())
                names = ", ".join(sorted({model.name for model in index.models})) if index else ""
                message = f"{address} has no model {name!r}{f'; it has {names}' if names else ''}."
                served = self._optional(_MODEL, pb.ModelMetadataRequest(name=name)) if version else None
                if served and served.versions:
                    message = (
                        f"{address} does not serve version {version} of {name!r}, only {', '.join(served.versions)}: "
                        "'hangtag serve --num-versions' serves more."
                    )
            raise LoadTestError(message) from error
        if not ready:
            raise LoadTestError(f"model {name!r} is not ready on {address}: see the server's log.")
        return metadata

    def _optional(self, method: Method[Response], request: Message) -> Response | None:
        """Make a call that not every server supports. Returns None if the call fails."""
        try:
            return self.connection.call(method, request)
        except ClientError:
            return None


@contextmanager
def open_probes(targets: tuple[Target, ...], credentials: Credentials) -> Iterator[dict[str, Probe]]:
    """Yield a mapping from each target's name to its probe. Targets on the same server share a connection. Raises the
    same exceptions as ``connect``."""
    options = ConnectionOptions(retries=0)  # A retry would hide a failed call from the report.
    with ExitStack() as stack:
        connections = {
            address: stack.enter_context(closing(connect(address, PROBE_TIMEOUT, credentials, options)))
            for address in dict.fromkeys(target.address for target in targets)
        }
        yield {target.name: Probe(target, connections[target.address]) for target in targets}
