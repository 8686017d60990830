"""Files that are not ONNX models, or that refer to data outside their folder, are refused in one line."""

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.kit import onnx_file, onnx_models
from tests.kit.command import invoke, refusal
from tests.kit.exported import import_refused, importing

pytestmark = pytest.mark.slow

WHOLE = onnx_models.classifier().SerializeToString()


def unknown_operator() -> onnx.ModelProto:
    model = onnx_models.unbatched()
    model.graph.node[0].domain = "com.example"
    return model


def future_opset() -> onnx.ModelProto:
    model = onnx_models.unbatched()
    model.opset_import[0].version = 999
    return model


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is not an ONNX model: it has no graph, no opset or no output"),
        (b"just text, not a model", "is not an ONNX file, or is cut off"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "is not an ONNX file, or is cut off"),
        (WHOLE[: len(WHOLE) // 2], "is not an ONNX file, or is cut off"),
        (WHOLE[:-1], "is not an ONNX file, or is cut off"),
        (onnx.ModelProto(ir_version=10).SerializeToString(), "is not an ONNX model: it has no graph"),
        (
            unknown_operator().SerializeToString(),
            r"com\.example.*Add",
        ),
        (future_opset().SerializeToString(), r"cannot be loaded by ONNX Runtime .* is till opset \d+\."),
    ],
    ids=["empty", "text", "picture", "half", "a byte short", "no graph", "unknown operator", "future opset"],
)
def test_what_is_no_model_for_onnx_runtime_is_refused(content: bytes, why: str, tmp_path: Path) -> None:
    assert re.search(why, import_refused(tmp_path, content))


def test_a_file_that_is_not_there_or_too_large_is_refused_before_it_is_read(tmp_path: Path) -> None:
    command = importing(tmp_path, b"")
    (tmp_path / "theirs.onnx").unlink()
    assert refusal(*command, unchanged=tmp_path).startswith(f"there is no file {tmp_path}")
    with (tmp_path / "theirs.onnx").open("wb") as sparse:
        sparse.truncate(3 * 1024**3)
    message = refusal(*command)
    assert "has 3,221.2 MB with its external data; the limit is 2,147.5 MB." in message


X = (TensorProto.FLOAT, ("batch", 4))


def external(location: str, offset: int = 0) -> onnx.ModelProto:
    """A model whose weights [4] are in another file."""
    return onnx_file.with_external_weights(location, TensorProto.FLOAT, 4, offset)


def added(node: onnx.NodeProto) -> onnx.ModelProto:
    """A model with y = x + c, FP32 [batch, 4]. The node creates the constant c."""
    return onnx_models.model([node, helper.make_node("Add", ["x", "c"], ["y"])], {"x": X}, {"y": X})


def constant(location: str) -> onnx.NodeProto:
    """A Constant node whose value is in another file."""
    return helper.make_node("Constant", [], ["c"], value=external(location).graph.initializer[0])


def in_a_function(then: onnx.NodeProto) -> onnx.ModelProto:
    """A model with a function that contains an If. ``then``, which has no inputs, is a branch of the If."""
    otherwise = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.zeros(4, np.float32)))
    chosen = helper.make_tensor_value_info("c", TensorProto.FLOAT, [4])
    branches = [helper.make_graph([node], "branch", [], [chosen]) for node in (then, otherwise)]
    body = [
        helper.make_node("Constant", [], ["yes"], value=numpy_helper.from_array(np.array(True))),
        helper.make_node("If", ["yes"], ["chosen"], then_branch=branches[0], else_branch=branches[1]),
        helper.make_node("Add", ["x", "chosen"], ["y"]),
    ]
    model = onnx_models.model([helper.make_node("Theirs", ["x"], ["y"], domain="theirs")], {"x": X}, {"y": X})
    model.opset_import.append(helper.make_opsetid("theirs", 1))
    model.functions.append(helper.make_function("theirs", "Theirs", ["x"], ["y"], body, [model.opset_import[0]]))
    return model


@pytest.mark.parametrize(
    ("model", "offset"),
    [(external("weights.bin", offset=8), 8), (in_a_function(constant("weights.bin")), 0)],
    ids=["an initializer", "a branch inside a function"],
)
def test_external_data_in_the_models_folder_are_taken_into_the_file(
    model: onnx.ModelProto, offset: int, tmp_path: Path
) -> None:
    (tmp_path / "weights.bin").write_bytes(bytes(offset) + np.arange(4, dtype=np.float32).tobytes())
    invoke(*importing(tmp_path, model))
    (file,) = (tmp_path / "models/theirs/1").iterdir()
    np.testing.assert_array_equal(onnx_file.answers(file, x=np.zeros((1, 4), np.float32))["y"], [[0, 1, 2, 3]])


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (external("../secret"), "points outside the directory"),
        (external("a/../../secret"), "points outside the directory"),
        (external("/etc/passwd"), "it is an absolute path"),
        (external(""), "should not be empty"),
        (added(constant("../secret")), "points outside the directory"),
        (in_a_function(constant("../secret")), "points outside the directory"),
        (external("link"), "it is a symbolic link"),
        (external("folder-link/secret"), "resolves outside model directory"),
        (external("nothing.bin"), "nothing.bin, but it is not regular file"),
        (external("here.bin", offset=8), r"length \(16\) exceeds available data \(8 bytes from offset 8\)"),
        (external("here.bin", offset=-8), "offset must be non-negative, got -8"),
        (
            in_a_function(helper.make_node("Secret", [], ["c"], domain="com.example")),
            r"com\.example.*Secret",
        ),
    ],
)
def test_external_data_elsewhere_and_hidden_operators_are_refused(
    model: onnx.ModelProto, why: str, tmp_path: Path
) -> None:
    folder = tmp_path / "download"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(bytes(16))
    (folder / "here.bin").write_bytes(bytes(16))
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "folder-link").symlink_to(tmp_path)
    assert re.search(why, import_refused(folder, model))
