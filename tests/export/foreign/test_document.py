"""Files that are no ONNX models, or refer to data outside their folder, are refused in one line."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data

from hangtag.export.errors import ExportError
from hangtag.export.foreign import document, intake
from hangtag.serving.server.runtime.session import Runtime
from tests.kit import onnx_models

pytestmark = pytest.mark.slow

WHOLE = onnx_models.classifier().SerializeToString()


def read(folder: Path, content: bytes) -> onnx.ModelProto:
    file = folder / "theirs.onnx"
    file.write_bytes(content)
    return document.read(file)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is no ONNX model: it has no graph, no opset or no output"),
        (b"just text, not a model", "is no ONNX file, or a part of one"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "is no ONNX file, or a part of one"),
        (WHOLE[: len(WHOLE) // 2], "is no ONNX file, or a part of one"),
        (WHOLE[:-1], "is no ONNX file, or a part of one"),
        (onnx.ModelProto(ir_version=10).SerializeToString(), "is no ONNX model: it has no graph"),
    ],
)
def test_what_is_no_model_is_refused(content: bytes, why: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=why):
        read(tmp_path, content)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    for missing in (tmp_path / "none.onnx", tmp_path):
        with pytest.raises(ExportError, match=f"there is no file {missing}"):
            document.read(missing)


def test_a_file_that_is_too_large_is_refused_before_it_is_read(tmp_path: Path) -> None:
    file = tmp_path / "huge.onnx"
    with file.open("wb") as sparse:
        sparse.truncate(3 * 1024**3)
    with pytest.raises(ExportError, match=r"holds 3,221\.2 MB with its external data; at most 2,147\.5 MB are taken"):
        document.read(file)


def test_operators_that_the_runtime_lacks_are_named(tmp_path: Path) -> None:
    model = onnx_models.unbatched()
    model.graph.node[0].domain = "com.example"
    with pytest.raises(ExportError, match=r"operators that ONNX Runtime does not have: com\.example\.Add\. Export"):
        read(tmp_path, model.SerializeToString())


def test_an_opset_of_the_future_is_refused(tmp_path: Path) -> None:
    model = onnx_models.unbatched()
    model.opset_import[0].version = 999
    with pytest.raises(ExportError, match=r"has opset 999; the installed onnx knows 1 to \d+\. Update it\."):
        read(tmp_path, model.SerializeToString())


def external(location: str, **place: int) -> onnx.ModelProto:
    """A model whose weights [4] lie in another file."""
    weights = numpy_helper.from_array(np.arange(4, dtype=np.float32), "weights")
    set_external_data(weights, location, place.get("offset"), place.get("length"))
    weights.ClearField("raw_data")
    model = onnx_models.model(
        [helper.make_node("Add", ["x", "weights"], ["y"])],
        {"x": (TensorProto.FLOAT, ["batch", 4])},
        {"y": (TensorProto.FLOAT, ["batch", 4])},
    )
    model.graph.initializer.append(weights)
    return model


def test_external_data_in_the_models_folder_are_taken_into_the_file(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(bytes(8) + np.arange(4, dtype=np.float32).tobytes())
    file = tmp_path / "theirs.onnx"
    file.write_bytes(external("weights.bin", offset=8, length=16).SerializeToString())
    accepted = intake.accept(file, "theirs", tmp_path / "models", None)
    assert [path.name for path in accepted.folder.iterdir()] == ["model.onnx"]
    answer = Runtime(accepted.folder / "model.onnx", provider="cpu").run({"x": np.zeros((1, 4), np.float32)})
    np.testing.assert_array_equal(answer["y"], [[0, 1, 2, 3]])


@pytest.mark.parametrize(
    ("location", "place", "why"),
    [
        ("../secret", {}, "only files in the model's own folder are read"),
        ("a/../../secret", {}, "only files in the model's own folder are read"),
        ("/etc/passwd", {}, "only files in the model's own folder are read"),
        ("", {}, "only files in the model's own folder are read"),
        ("link", {}, "a link that leaves the model's own folder"),
        ("folder-link/secret", {}, "a link that leaves the model's own folder"),
        ("nothing.bin", {}, "are missing: there is no file"),
        ("here.bin", {"offset": 8, "length": 16}, r"end at byte 24 of \S+here\.bin, which has 16"),
        ("here.bin", {"offset": -8, "length": 16}, "cannot be located: .* must be non-negative"),
    ],
)
def test_external_data_elsewhere_are_refused(location: str, place: dict[str, int], why: str, tmp_path: Path) -> None:
    folder = tmp_path / "download"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(bytes(16))
    (folder / "here.bin").write_bytes(bytes(16))
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "folder-link").symlink_to(tmp_path)
    with pytest.raises(ExportError, match=why):
        read(folder, external(location, **place).SerializeToString())


def test_external_data_of_an_attribute_are_found_too(tmp_path: Path) -> None:
    weights = external("../secret").graph.initializer[0]
    model = onnx_models.model(
        [helper.make_node("Constant", [], ["c"], value=weights), helper.make_node("Add", ["x", "c"], ["y"])],
        {"x": (TensorProto.FLOAT, ["batch", 4])},
        {"y": (TensorProto.FLOAT, ["batch", 4])},
    )
    with pytest.raises(ExportError, match="only files in the model's own folder are read"):
        read(tmp_path, model.SerializeToString())


def in_a_function(then: onnx.NodeProto) -> onnx.ModelProto:
    """A model with a function of its own, in whose body an If has this node, without inputs, as its branch."""
    otherwise = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.zeros(4, np.float32)))
    chosen = helper.make_tensor_value_info("c", TensorProto.FLOAT, [4])
    branches = [helper.make_graph([node], "branch", [], [chosen]) for node in (then, otherwise)]
    body = [
        helper.make_node("Constant", [], ["yes"], value=numpy_helper.from_array(np.array(True))),
        helper.make_node("If", ["yes"], ["chosen"], then_branch=branches[0], else_branch=branches[1]),
        helper.make_node("Add", ["x", "chosen"], ["y"]),
    ]
    model = onnx_models.model(
        [helper.make_node("Theirs", ["x"], ["y"], domain="theirs")],
        {"x": (TensorProto.FLOAT, ["batch", 4])},
        {"y": (TensorProto.FLOAT, ["batch", 4])},
    )
    model.opset_import.append(helper.make_opsetid("theirs", 1))
    model.functions.append(helper.make_function("theirs", "Theirs", ["x"], ["y"], body, [model.opset_import[0]]))
    return model


def test_nothing_hides_in_a_branch_inside_a_function(tmp_path: Path) -> None:
    outside = helper.make_node("Constant", [], ["c"], value=external("../secret").graph.initializer[0])
    with pytest.raises(ExportError, match="only files in the model's own folder are read"):
        read(tmp_path, in_a_function(outside).SerializeToString())
    unknown = helper.make_node("Secret", [], ["c"], domain="com.example")
    with pytest.raises(ExportError, match=r"does not have: com\.example\.Secret\."):
        read(tmp_path, in_a_function(unknown).SerializeToString())


def test_external_data_of_a_branch_inside_a_function_are_taken_in(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(np.arange(4, dtype=np.float32).tobytes())
    inside = helper.make_node("Constant", [], ["c"], value=external("weights.bin").graph.initializer[0])
    file = tmp_path / "theirs.onnx"
    file.write_bytes(in_a_function(inside).SerializeToString())
    accepted = intake.accept(file, "theirs", tmp_path / "models", None)
    answer = Runtime(accepted.folder / "model.onnx", provider="cpu").run({"x": np.zeros((1, 4), np.float32)})
    np.testing.assert_array_equal(answer["y"], [[0, 1, 2, 3]])
