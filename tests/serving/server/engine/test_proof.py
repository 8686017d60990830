"""With --require-proof, the server loads only files that passed the export gate and have not changed since."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import onnx
import pytest

from hangtag.serving.server.errors import ModelLoadError
from tests.kit import onnx_file, shipped
from tests.kit.kinds import message_of
from tests.kit.repository import Repository, Running

PROVEN = shipped.MODELS / "lstm/1/model.onnx"
NO_PROOF = "has not passed the gate, or its graph or weights have changed since"


@pytest.fixture
def explicit(repository: Repository) -> Running:
    return repository.start("explicit", require_proof=True)


@pytest.fixture
def file(repository: Repository) -> Path:
    """A model file with a validation record, which a test may change."""
    file = repository.folder / "lstm/1/model.onnx"
    file.parent.mkdir(parents=True)
    return Path(shutil.copy(PROVEN, file))


def refused(running: Running, name: str = "lstm") -> str:
    return message_of(grpc.StatusCode.FAILED_PRECONDITION, running.client.load_model, name)


Change = Callable[[onnx.ModelProto], object]


def change_weights(model: onnx.ModelProto) -> None:
    tensor = next(each for each in model.graph.initializer if len(each.raw_data) > 100)
    tensor.raw_data = bytes([tensor.raw_data[0] ^ 1]) + tensor.raw_data[1:]


def add_node(model: onnx.ModelProto) -> None:
    model.graph.node.add(op_type="Identity", input=[model.graph.output[0].name], output=["more"])


def metadata(**entries: str | None) -> Change:
    """Set these entries of the model's metadata. The value None removes an entry."""
    return lambda model: onnx_file.with_metadata(model, **entries)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param(change_weights, NO_PROOF, id="weights"),
        pytest.param(add_node, NO_PROOF, id="another node"),
        pytest.param(metadata(graph_digest=None), NO_PROOF, id="no digest"),
        pytest.param(metadata(gate=None), NO_PROOF, id="no gate"),
        pytest.param(metadata(gate="{}"), NO_PROOF, id="an empty gate"),
        pytest.param(metadata(gate="passed"), NO_PROOF, id="a gate that is no JSON"),
        pytest.param(metadata(gate="[" * 100_000), NO_PROOF, id="a gate nested without end"),
        pytest.param(metadata(note="reviewed"), "", id="metadata may be added"),
    ],
)
def test_a_file_without_a_proof_or_changed_since_is_refused(
    explicit: Running, file: Path, change: Change, reason: str
) -> None:
    model = onnx.load(file)
    change(model)
    onnx.save(model, file)
    if reason:
        assert reason in refused(explicit)
    else:
        explicit.client.load_model("lstm")
        assert explicit.served() == {"lstm": [1]}


def cut() -> Iterator[bytes]:
    whole = PROVEN.read_bytes()
    for length in range(0, len(whole), len(whole) // 50):
        yield whole[:length]
    yield from (b"\x0f", b"\x72\xff", b"\xff" * 20, b"\x0d\x00", b"\x72\x03\x0a\x09x")


def test_what_is_no_whole_file_is_refused(explicit: Running, file: Path) -> None:
    for content in cut():
        file.write_bytes(content)
        assert "lstm/1/model.onnx" in refused(explicit)
    assert explicit.served() == {}


def test_the_shipped_models_have_their_proof(repository: Repository) -> None:
    versions: dict[str, list[int]] = {}
    for file in shipped.MODELS.glob("*/*/model.onnx"):
        versions.setdefault(file.parents[1].name, []).append(int(file.parent.name))
    running = repository.start("none", models=shipped.MODELS, require_proof=True, num_versions=0)
    assert running.served() == {name: sorted(numbers) for name, numbers in versions.items()} | {
        "fast-and-accurate": [1]
    }


def test_a_start_needs_a_proof_of_every_model_and_polling_serves_those_that_have_one(
    file: Path, repository: Repository
) -> None:
    with pytest.raises(ModelLoadError, match=NO_PROOF):
        repository.start("none", require_proof=True)
    running = repository.start("poll", require_proof=True)
    assert running.served() == {"lstm": [1]}
    assert NO_PROOF in running.reason("one")
