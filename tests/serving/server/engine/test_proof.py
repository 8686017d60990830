"""--require-proof: only files that passed the gate and were not changed since are served."""

import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner

from hangtag.export.file import onnx_model
from hangtag.export.foreign import intake
from hangtag.serving.server.cli import serve
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.engine.engine import Engine
from hangtag.serving.server.engine.model_control import ModelControl
from hangtag.serving.server.errors import ControlError, ModelLoadError, StartError
from hangtag.serving.server.runtime.gate_proof import require_proof
from tests.kit import onnx_models, shipped

SHIPPED = sorted(shipped.MODELS.glob("*/*/model.onnx"))
NO_PROOF, CHANGED = "has not passed the gate", "is not what passed the gate"


def copy(tmp_path: Path) -> Path:
    file = tmp_path / "lstm/1/model.onnx"
    file.parent.mkdir(parents=True)
    return Path(shutil.copy(shipped.MODELS / "lstm/1/model.onnx", file))


def change_weights(model: onnx.ModelProto) -> None:
    tensor = next(each for each in model.graph.initializer if len(each.raw_data) > 100)
    tensor.raw_data = bytes([tensor.raw_data[0] ^ 1]) + tensor.raw_data[1:]


def add_node(model: onnx.ModelProto) -> None:
    model.graph.node.add(op_type="Identity", input=[model.graph.output[0].name], output=["more"])


def without(*keys: str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        kept = {entry.key: entry.value for entry in model.metadata_props if entry.key not in keys}
        onnx.helper.set_model_props(model, kept)

    return change


def with_gate(text: str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        without("hangtag.gate")(model)
        onnx_model.add_metadata(model, {"gate": text})

    return change


BROKEN: dict[str, tuple[Callable[[onnx.ModelProto], None], str]] = {
    "weights": (change_weights, CHANGED),
    "another node": (add_node, CHANGED),
    "no digest": (without("hangtag.graph_digest"), CHANGED),
    "no gate": (without("hangtag.gate"), NO_PROOF),
    "an empty gate": (with_gate("{}"), NO_PROOF),
    "a gate that is no JSON": (with_gate("passed"), NO_PROOF),
    "a gate nested without end": (with_gate("[" * 100_000), NO_PROOF),
}


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: str(file.parent.relative_to(shipped.MODELS)))
def test_the_shipped_models_have_their_proof(file: Path) -> None:
    require_proof(file)


def test_a_file_of_somebody_else_has_a_proof_once_it_is_published(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.onnx"
    foreign.write_bytes(onnx_models.two_inputs().SerializeToString())
    with pytest.raises(ModelLoadError, match=NO_PROOF):
        require_proof(foreign)
    require_proof(intake.accept(foreign, "sums", tmp_path / "models", None).folder / "model.onnx")


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_without_a_proof_or_changed_since_is_refused(tmp_path: Path, name: str) -> None:
    change, reason = BROKEN[name]
    file = copy(tmp_path)
    model = onnx.load(file)
    change(model)
    onnx.save(model, file)
    with pytest.raises(ModelLoadError, match=reason):
        require_proof(file)


def test_metadata_may_be_added_since(tmp_path: Path) -> None:
    file = copy(tmp_path)
    model = onnx.load(file)
    onnx_model.add_metadata(model, {"note": "reviewed"})
    onnx.save(model, file)
    require_proof(file)


@pytest.mark.parametrize("content", [b"", b"\x0f", b"\x72\xff", b"\xff" * 20, b"\x0d\x00", b"\x72\x03\x0a\x09x"])
def test_what_is_no_onnx_file_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(content)
    with pytest.raises(ModelLoadError):
        require_proof(file)


def test_a_file_that_is_cut_anywhere_is_refused(tmp_path: Path) -> None:
    whole = copy(tmp_path).read_bytes()
    file = tmp_path / "model.onnx"
    for length in range(0, len(whole), len(whole) // 50):
        file.write_bytes(whole[:length])
        with pytest.raises(ModelLoadError):
            require_proof(file)


def test_a_server_does_not_start_with_a_model_without_proof(tmp_path: Path) -> None:
    onnx_models.publish(tmp_path, "gather", onnx_models.gather())
    ended = CliRunner().invoke(serve, ["--models", str(tmp_path), "--port", "0", "--require-proof"])
    assert ended.exit_code == 1
    assert NO_PROOF in ended.output


def test_polling_and_loading_by_call_take_proven_models_alone(tmp_path: Path) -> None:
    copy(tmp_path)
    (tmp_path / "lstm/serving.toml").write_text("max_batch_size = 8")
    for mode in ("poll", "explicit"):
        engine = Engine(ServerConfig(models=tmp_path, model_control=mode, poll_seconds=3600, require_proof=True))
        control = ModelControl(engine)
        control.start()
        try:
            if mode == "explicit":
                control.load("lstm")
            assert engine.names() == ["lstm"]
            shutil.rmtree(tmp_path / "gather", ignore_errors=True)
            onnx_models.publish(tmp_path, "gather", onnx_models.gather())
            if mode == "poll":
                control.poll()
            else:
                with pytest.raises(ControlError, match=NO_PROOF):
                    control.load("gather")
            assert engine.names() == ["lstm"]
            reasons = [one.reason for one in control.state().versions if one.name == "gather"]
            assert NO_PROOF in reasons[0]
        finally:
            control.stop()
            control.close()
            engine.close()


def test_a_models_own_settings_cannot_do_without(tmp_path: Path) -> None:
    onnx_models.publish(tmp_path, "gather", onnx_models.gather())
    (tmp_path / "gather/serving.toml").write_text("require_proof = false")
    engine = Engine(ServerConfig(models=tmp_path, require_proof=True))
    with pytest.raises(StartError, match="unknown setting 'require_proof'"):
        ModelControl(engine).start()
    engine.close()
