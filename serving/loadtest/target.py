"""The server under load: is it there, what is it, and what do its models take. Any Open Inference Protocol server."""

from dataclasses import dataclass

import grpc

from protos import inference_pb2 as pb
from protos import inference_pb2_grpc
from serving.credentials import Credentials, CredentialsError
from serving.loadtest.errors import TargetError

# Enough for a server across an ocean; a refused connection fails at once.
PROBE_TIMEOUT = 5.0


@dataclass(frozen=True)
class Target:
    """A server that answered, and the metadata of the models that were asked for, by name."""

    address: str
    name: str
    version: str
    models: dict[str, pb.ModelMetadataResponse]


Metadata = tuple[tuple[str, str], ...]


def probe(address: str, models: tuple[str, ...], credentials: Credentials = Credentials()) -> Target:  # noqa: B008
    """Ask the server at `address` (HOST:PORT) about itself and these models.

    Raises TargetError, in one sentence, when nothing answers, when it is not an inference server, and when a model is
    unknown or not ready.
    """
    try:
        opened, metadata = credentials.channel(address, [("grpc.use_local_subchannel_pool", 1)]), credentials.metadata()
    except CredentialsError as error:
        raise TargetError(f"{error}.") from error
    with opened as channel:
        stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        try:
            server = stub.ServerMetadata(pb.ServerMetadataRequest(), timeout=PROBE_TIMEOUT, metadata=metadata)
        except grpc.RpcError as error:
            raise TargetError(_why_no_server(address, error)) from error
        described = {name: _model(stub, address, name, metadata) for name in models}
        return Target(address, server.name, server.version, described)


def _model(
    stub: inference_pb2_grpc.GRPCInferenceServiceStub, address: str, name: str, metadata: Metadata
) -> pb.ModelMetadataResponse:
    try:
        described: pb.ModelMetadataResponse = stub.ModelMetadata(
            pb.ModelMetadataRequest(name=name), timeout=PROBE_TIMEOUT, metadata=metadata
        )
        ready = stub.ModelReady(pb.ModelReadyRequest(name=name), timeout=PROBE_TIMEOUT, metadata=metadata).ready
    except grpc.RpcError as error:
        if error.code() == grpc.StatusCode.NOT_FOUND:
            raise TargetError(f"{address} has no model {name!r}{_known(stub, metadata)}.") from error
        raise TargetError(f"{address} could not describe model {name!r}: {_status(error)}.") from error
    if not ready:
        raise TargetError(f"model {name!r} is not ready on {address}: wait for it, or see the server's log.")
    return described


def _known(stub: inference_pb2_grpc.GRPCInferenceServiceStub, metadata: Metadata) -> str:
    """The models that there are, as the end of a sentence; empty where the server cannot list them."""
    try:
        index = stub.RepositoryIndex(pb.RepositoryIndexRequest(), timeout=PROBE_TIMEOUT, metadata=metadata)
    except grpc.RpcError:
        return ""
    names = sorted({model.name for model in index.models})
    return f"; it has {', '.join(names)}" if names else "; it has none"


def _why_no_server(address: str, error: grpc.RpcError) -> str:
    code = error.code()
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        return f"no server answers at {address} ({error.details()}): start one with 'hangtag serve' or give --server."
    if code == grpc.StatusCode.UNIMPLEMENTED:
        return f"the server at {address} does not speak the Open Inference Protocol (inference.GRPCInferenceService)."
    return f"the server at {address} could not describe itself: {_status(error)}."


def _status(error: grpc.RpcError) -> str:
    return f"{error.code().name} ({error.details()})"
