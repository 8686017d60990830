"""The server behind a target: is it there, what is it, and what does its model take. Any OIP server."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import grpc

from hangtag.protos import inference_pb2 as pb
from hangtag.protos import inference_pb2_grpc
from hangtag.serving.credentials import Credentials, CredentialsError
from hangtag.serving.loadtest.errors import TargetError
from hangtag.serving.loadtest.generator.channels import CHANNEL_OPTIONS
from hangtag.serving.loadtest.plan.target import Target
from hangtag.serving.loadtest.statistics.server_timings import ServerTimings
from hangtag.serving.loadtest.sut import server_statistics

# Enough for a server across an ocean; a refused connection fails at once.
PROBE_TIMEOUT = 5.0
Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Description:
    """A target as its server describes it. What the server does not say is empty."""

    target: Target
    server_name: str
    server_version: str
    metadata: pb.ModelMetadataResponse
    max_batch_size: int | None = None
    parameters: dict[str, str] = field(default_factory=dict)  # The model's, from its configuration.
    instances: int | None = None  # How many batches it computes at once.
    statistics: bool = False  # Whether the server keeps statistics of its own time.
    answering_version: str = ""  # The version that answered the first call.

    @property
    def model_versions(self) -> tuple[str, ...]:
        """The versions of the model that are loaded."""
        return tuple(self.metadata.versions)

    @property
    def version(self) -> str:
        """The version that answered, or those there are."""
        return self.answering_version or ", ".join(self.model_versions)

    @property
    def provider(self) -> str:
        """The execution provider that computes it."""
        return self.parameters.get("execution_provider", "")

    @property
    def runtime_version(self) -> str:
        """ONNX Runtime's version on the server."""
        return self.parameters.get("onnxruntime_version", "")

    @property
    def threads(self) -> str:
        """How many batches it computes at once, and with how many threads each, for a reader."""
        if self.instances is None:
            return ""
        told = f"{self.instances} instance{'s' * (self.instances != 1)}"
        each, alone = (self.parameters.get(f"{name}_threads", "") for name in ("intra_op", "alone"))
        if each:
            told += f" of {each} thread{'s' * (each != '1')}"
        return told + (f" ({alone} for a batch alone)" if alone not in ("", each) else "")

    @property
    def file_bytes(self) -> int | None:
        """The size of the model's file, which is what its weights take in memory."""
        said = self.parameters.get("file_bytes", "")
        return int(said) if said.isdigit() else None

    @property
    def expected_accuracy(self) -> float | None:
        """The accuracy on the test set that the model's file tells of."""
        try:
            return float(self.parameters["hangtag.test_accuracy"])
        except (KeyError, ValueError):
            return None


class Probe:
    """One server, asked about itself and its models. A context manager. Methods raise TargetError, in one sentence."""

    def __init__(self, address: str, credentials: Credentials) -> None:
        """Nothing is asked yet. Raises TargetError when the credentials' files cannot be read."""
        self._address = address
        self._credentials = credentials
        try:
            self.metadata: Metadata = credentials.metadata()
            self._channel = credentials.channel(address, CHANNEL_OPTIONS)
        except CredentialsError as error:
            raise TargetError(f"{error}.") from error
        self._stub = inference_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    def __enter__(self) -> "Probe":
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    @functools.cached_property
    def server(self) -> pb.ServerMetadataResponse:
        """The server's name and version."""
        try:
            answer: pb.ServerMetadataResponse = self._stub.ServerMetadata(
                pb.ServerMetadataRequest(), timeout=PROBE_TIMEOUT, metadata=self.metadata
            )
        except grpc.RpcError as error:
            raise TargetError(self._why_no_server(error)) from error
        return answer

    def describe(self, target: Target) -> Description:
        """All that the server says of the target's model."""
        server = self.server
        described = self._model(target.model)
        config = self._config(target.model)
        return Description(
            target=target,
            server_name=server.name,
            server_version=server.version,
            metadata=described,
            max_batch_size=config.max_batch_size if config else None,
            parameters={key: value.string_value for key, value in config.parameters.items()} if config else {},
            instances=(sum(group.count for group in config.instance_group) or None) if config else None,
            statistics=self.counters(target.model) is not None,
        )

    def counters(self, model: str) -> ServerTimings | None:
        """What the server counts of this model, as it stands."""
        return server_statistics.read(self._stub, model, self.metadata)

    def call(self, target: Target, method: str, request: bytes, timeout: float) -> bytes:
        """One call as the load will make it: what fails here would fail every time."""
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(method)
        try:
            answer: bytes = call(request, timeout=timeout, metadata=self.metadata)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.UNIMPLEMENTED and "Classif" in method:
                raise TargetError(f"{self._address} has no Classify: leave out --method classify.") from error
            raise TargetError(
                f"{target.name} does not answer what would be sent ({_status(error)}): nothing was measured."
            ) from error
        return answer

    def _model(self, name: str) -> pb.ModelMetadataResponse:
        try:
            described: pb.ModelMetadataResponse = self._stub.ModelMetadata(
                pb.ModelMetadataRequest(name=name), timeout=PROBE_TIMEOUT, metadata=self.metadata
            )
            request = pb.ModelReadyRequest(name=name)
            ready = self._stub.ModelReady(request, timeout=PROBE_TIMEOUT, metadata=self.metadata).ready
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.NOT_FOUND:
                raise TargetError(f"{self._address} has no model {name!r}{self._known()}.") from error
            raise TargetError(f"{self._address} could not describe model {name!r}: {_status(error)}.") from error
        if not ready:
            raise TargetError(f"model {name!r} is not ready on {self._address}: wait for it, or see the server's log.")
        return described

    def _config(self, name: str) -> pb.ModelConfig | None:
        try:
            request = pb.ModelConfigRequest(name=name)
            answer: pb.ModelConfigResponse = self._stub.ModelConfig(
                request, timeout=PROBE_TIMEOUT, metadata=self.metadata
            )
        except grpc.RpcError:
            return None  # An extension, which not every server has.
        return answer.config

    def _known(self) -> str:
        """The models that there are, as the end of a sentence; empty where the server cannot list them."""
        try:
            index = self._stub.RepositoryIndex(
                pb.RepositoryIndexRequest(), timeout=PROBE_TIMEOUT, metadata=self.metadata
            )
        except grpc.RpcError:
            return ""
        names = sorted({model.name for model in index.models})
        return f"; it has {', '.join(names)}" if names else "; it has none"

    def _why_no_server(self, error: grpc.RpcError) -> str:
        code, details, address = error.code(), str(error.details()), self._address
        tls = self._credentials.tls_ca is not None
        if code == grpc.StatusCode.UNAVAILABLE and tls and "WRONG_VERSION_NUMBER" in details:
            return f"the server at {address} does not use TLS: leave out --tls-ca."
        if code == grpc.StatusCode.UNAVAILABLE and tls and "CERTIFICATE_VERIFY_FAILED" in details:
            return (
                f"the certificate of the server at {address} was not signed by {self._credentials.tls_ca} (--tls-ca)."
            )
        if code == grpc.StatusCode.UNAVAILABLE and not tls and _hung_up(details):
            return (
                f"the server at {address} hangs up before it answers, as one with TLS does: "
                "give --tls-ca if it has a certificate."
            )
        if code == grpc.StatusCode.UNAVAILABLE and "Failed parsing HTTP/2" in details:
            return f"what answers at {address} does not speak gRPC, as a port for HTTP or metrics: give the gRPC port."
        if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
            return f"no server answers at {address} ({details}): start one with 'hangtag serve' or give --server."
        if code == grpc.StatusCode.UNIMPLEMENTED:
            return (
                f"the server at {address} does not speak the Open Inference Protocol (inference.GRPCInferenceService)."
            )
        if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
            return f"the server at {address} wants to know who asks ({details}): give --token-file."
        return f"the server at {address} could not describe itself: {_status(error)}."


@contextmanager
def opened(targets: tuple[Target, ...], credentials: Credentials) -> Iterator[dict[str, Probe]]:
    """A probe for each target, by name; targets on one server share one."""
    probes = {address: Probe(address, credentials) for address in dict.fromkeys(target.address for target in targets)}
    try:
        yield {target.name: probes[target.address] for target in targets}
    finally:
        for probe in probes.values():
            probe.__exit__()


def _hung_up(details: str) -> bool:
    return any(said in details for said in ("Socket closed", "Connection reset", "recvmsg:Connection", "Broken pipe"))


def _status(error: grpc.RpcError) -> str:
    return f"{error.code().name} ({error.details()})"
