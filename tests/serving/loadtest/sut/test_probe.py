import http.server
import socket
import threading
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
import trustme

from hangtag.protos import inference_pb2 as pb
from hangtag.protos import inference_pb2_grpc
from hangtag.serving.credentials import Credentials, CredentialsError
from hangtag.serving.loadtest.errors import TargetError
from hangtag.serving.loadtest.generator.messages import CLASSIFY, INFER
from hangtag.serving.loadtest.plan.target import Target
from hangtag.serving.loadtest.sut.description import Description
from hangtag.serving.loadtest.sut.probe import Probe, open_probes
from tests.serving.loadtest.builders import description, targets
from tests.serving.loadtest.fake_server import FakeServer

FAST = Target("fast", "fast")


def describe(address: str, model: str = "fast", credentials: Credentials = Credentials()) -> Description:  # noqa: B008
    with Probe(address, credentials) as probe:
        return probe.describe(Target(model, model, address))


@contextmanager
def bare_server(credentials: grpc.ServerCredentials | None = None, servicer: FakeServer | None = None) -> Iterator[str]:
    """A server, optionally with TLS and a servicer."""
    server = grpc.server(futures.ThreadPoolExecutor(2))
    if servicer is not None:
        inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
    at = "127.0.0.1:0"
    port = server.add_secure_port(at, credentials) if credentials else server.add_insecure_port(at)
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def test_a_server_describes_itself_and_its_models(server: FakeServer) -> None:
    described = describe(server.address)
    assert (described.server_name, described.server_version) == ("fake", "0.0")
    assert described.metadata.inputs[0].name == "image"
    assert described.model_versions == ("1",)
    assert described.statistics
    assert (described.provider, described.runtime_version, described.file_bytes, described.expected_accuracy) == (
        "",
        "",
        None,
        None,
    )
    assert described.max_batch_size is None


def test_a_server_with_model_configurations_describes_more(server: FakeServer) -> None:
    parameters = {
        "execution_provider": "CPUExecutionProvider",
        "onnxruntime_version": "1.2.3",
        "file_bytes": "1234",
        "hangtag.test_accuracy": "0.91",
    }
    model_parameters = {key: pb.ModelParameter(string_value=value) for key, value in parameters.items()}
    server.config = pb.ModelConfig(max_batch_size=16, parameters=model_parameters)
    described = describe(server.address)
    assert (described.provider, described.runtime_version, described.file_bytes) == (
        "CPUExecutionProvider",
        "1.2.3",
        1234,
    )
    assert (described.max_batch_size, described.expected_accuracy) == (16, 0.91)


@pytest.mark.parametrize(
    ("instances", "parameters", "text"),
    [
        (None, {}, ""),
        (1, {}, "1 instance"),
        (2, {"intra_op_threads": "1", "alone_threads": "4"}, "2 instances of 1 thread (4 for a batch alone)"),
        (1, {"intra_op_threads": "4", "alone_threads": "4"}, "1 instance of 4 threads"),
    ],
)
def test_threads_are_described_as_far_as_they_are_known(
    server: FakeServer, instances: int | None, parameters: dict[str, str], text: str
) -> None:
    model_parameters = {key: pb.ModelParameter(string_value=value) for key, value in parameters.items()}
    groups = [] if instances is None else [pb.ModelInstanceGroup(count=instances)]
    server.config = pb.ModelConfig(instance_group=groups, parameters=model_parameters)
    assert describe(server.address).threads == text


def test_malformed_parameters_are_ignored() -> None:
    described = description(FAST, **{"file_bytes": "much", "hangtag.test_accuracy": "good"})
    assert (described.file_bytes, described.expected_accuracy) == (None, None)


def test_statistics_are_those_of_the_targets_version(server: FakeServer) -> None:
    server.versions = ["4", "2"]
    old, new = Target("old", "fast", version="2"), Target("new", "fast", version="4")
    with Probe(server.address, Credentials()) as probe:
        probe.call(old, INFER, pb.ModelInferRequest(model_name="fast", model_version="2").SerializeToString(), 5.0)
        counts = [counted.count for target in (old, new) if (counted := probe.statistics(target)) is not None]
    assert counts == [1, 0]


def test_statistics_are_read_where_the_server_keeps_them(server: FakeServer) -> None:
    with Probe(server.address, Credentials()) as probe:
        probe.call(FAST, INFER, pb.ModelInferRequest(model_name="fast").SerializeToString(), 5.0)
        counted = probe.statistics(FAST)
        assert counted is not None
        assert counted.count == 1
        assert counted.mean("queue") == pytest.approx(0.002)
        server.keeps_statistics = False
        assert probe.statistics(FAST) is None


def test_an_unknown_model_is_refused_with_the_available_ones(server: FakeServer) -> None:
    with pytest.raises(TargetError, match="has no model 'lstn'; it has fast, slow"):
        describe(server.address, "lstn")


def test_an_unknown_model_is_refused_by_a_server_that_cannot_list_its_models(server: FakeServer) -> None:
    server.lists_models = False
    with pytest.raises(TargetError, match=r"has no model 'lstn'\."):
        describe(server.address, "lstn")


def test_a_model_that_is_not_ready_is_refused(server: FakeServer) -> None:
    with pytest.raises(TargetError, match="model 'loading' is not ready"):
        describe(server.address, "loading")


def test_an_address_without_a_server_is_reported_at_once() -> None:
    with socket.socket() as unused:  # Bound but not listening: connections are refused.
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(TargetError, match=f"no server answers at {address}"):
            describe(address)


def test_a_port_for_http_is_recognised() -> None:
    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    threading.Thread(target=web.serve_forever).start()
    try:
        with pytest.raises(TargetError, match="speaks HTTP, not gRPC: give --server the gRPC port"):
            describe(f"127.0.0.1:{web.server_port}")
    finally:
        web.shutdown()
        web.server_close()


def test_a_grpc_server_of_another_kind_is_recognised() -> None:
    with bare_server() as address, pytest.raises(TargetError, match="does not speak the Open Inference Protocol"):
        describe(address)


def test_a_refused_call_is_reported_before_any_load(server: FakeServer) -> None:
    server.behaviour = lambda number, context: context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no such shape")
    with Probe(server.address, Credentials()) as probe:
        with pytest.raises(TargetError, match=r"fast does not answer .* \(INVALID_ARGUMENT \(no such shape\)\)"):
            probe.call(FAST, INFER, b"", 5.0)
        with pytest.raises(TargetError, match="has no Classify: leave out --method classify"):
            probe.call(FAST, CLASSIFY, b"", 5.0)


def test_targets_on_one_server_share_a_probe(server: FakeServer) -> None:
    with open_probes(targets("fast", "slow", address=server.address), Credentials()) as probes:
        assert probes["fast"] is probes["slow"]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def trusted(authority: trustme.CA, tmp_path: Path) -> Credentials:
    """The credentials of a client that trusts the authority."""
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    return Credentials(tls_ca=tmp_path / "authority.pem")


@pytest.fixture
def encrypted(authority: trustme.CA, server: FakeServer) -> Iterator[str]:
    """The address of a server with a certificate that the authority signed."""
    issued = authority.issue_cert("127.0.0.1")
    pair = (issued.private_key_pem.bytes(), issued.cert_chain_pems[0].bytes())
    with bare_server(grpc.ssl_server_credentials([pair]), server) as address:
        yield address


def test_a_server_with_tls_is_reached_with_its_authority(encrypted: str, trusted: Credentials) -> None:
    assert describe(encrypted, credentials=trusted).server_name == "fake"


def test_a_call_without_tls_to_a_server_with_tls_is_reported(encrypted: str) -> None:
    with pytest.raises(TargetError, match="wants TLS: give --tls-ca"):
        describe(encrypted)


def test_a_call_with_tls_to_a_server_without_tls_is_reported(server: FakeServer, trusted: Credentials) -> None:
    with pytest.raises(TargetError, match="does not use TLS: leave out --tls-ca"):
        describe(server.address, credentials=trusted)


def test_a_certificate_of_another_authority_is_reported(encrypted: str, tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "other.pem"))
    with pytest.raises(TargetError, match=r"was not signed by .*other\.pem \(--tls-ca\)"):
        describe(encrypted, credentials=Credentials(tls_ca=tmp_path / "other.pem"))


def test_unreadable_files_are_reported(tmp_path: Path) -> None:
    with pytest.raises(CredentialsError, match=r"missing\.pem \(--tls-ca\) cannot be read"):
        Probe("127.0.0.1:1", Credentials(tls_ca=tmp_path / "missing.pem"))
