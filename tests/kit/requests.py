"""Strategies with which hypothesis generates requests that are wrong or nearly right."""

from typing import Any

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from hangtag.protos import classifier_pb2, tensors
from hangtag.protos import inference_pb2 as pb
from tests.kit.live import request
from tests.kit.picture_files import encoded

Request = pb.ModelInferRequest

OF_ONE_INPUT = ["classifier", "text", "unbatched", "free_axis", "recurrent", "lstm"]
OF_MORE_INPUTS = ["two_inputs", "every_type", "state", "every_scalar", "added", "reshaped"]
MODELS = OF_ONE_INPUT + OF_MORE_INPUTS

_names = st.sampled_from(["image", "x", "a", "b", "text", "in_FP16", "", "\0", "nobody"]) | st.text(max_size=20)
_sizes = st.integers(-2, 30) | st.sampled_from([2**31, 2**32, 2**62, 2**63 - 1, -(2**63)])
_shapes = st.lists(_sizes, max_size=5) | st.builds(lambda size, rank: [size] * rank, _sizes, st.integers(0, 300))
_datatypes = st.sampled_from([*tensors.DTYPES, "BF16", "fp32", "", "STRING"])
_versions = st.sampled_from(["", "", "1", "12", "x", "-1", "../1", "9" * 30, "\n"])
_contents = st.builds(
    pb.InferTensorContents,
    bool_contents=st.lists(st.booleans(), max_size=2),
    int_contents=st.lists(st.integers(-(2**31), 2**31 - 1), max_size=4),
    int64_contents=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3),
    uint_contents=st.lists(st.integers(0, 2**32 - 1), max_size=4),
    uint64_contents=st.lists(st.integers(0, 2**64 - 1), max_size=2),
    fp32_contents=st.lists(st.floats(width=32), max_size=4),
    fp64_contents=st.lists(st.floats(), max_size=2),
    bytes_contents=st.lists(st.binary(max_size=3), max_size=2),
)
_model_names = st.sampled_from([*MODELS, "", "../lstm", "lstm/1", ".", "nobody"]) | st.text(max_size=30)

anything = st.builds(
    Request,
    model_name=_model_names,
    model_version=_versions,
    id=st.text(max_size=3),
    inputs=st.lists(
        st.builds(
            Request.InferInputTensor,
            name=_names,
            datatype=_datatypes,
            shape=_shapes,
            contents=st.none() | _contents,
        ),
        max_size=3,
    ),
    outputs=st.lists(st.builds(Request.InferRequestedOutputTensor, name=_names), max_size=3),
    raw_input_contents=st.lists(st.binary(max_size=64), max_size=3),
)


def good(name: str) -> Request:
    """A request that the model can answer."""
    arrays: dict[str, dict[str, Any]] = {
        "classifier": {"image": np.zeros((1, 28, 28), np.uint8)},
        "lstm": {"image": np.zeros((2, 28, 28), np.uint8)},
        "two_inputs": {"a": np.ones((2, 3), np.float32), "b": np.ones((2, 3), np.int64)},
        "text": {"text": np.array(["one", "two"], np.object_)},
        "unbatched": {"x": np.ones(4, np.float32)},
        "free_axis": {"x": np.ones((1, 5), np.float32)},
        "added": {"x": np.ones((1, 5), np.float32), "y": np.ones((1, 5), np.float32)},
        "reshaped": {"x": np.ones((2, 3), np.float32), "shape": np.array([3, 2], np.int64)},
        "recurrent": {"x": np.ones((4, 1, 3), np.float32)},
        "every_type": {
            f"in_{datatype}": np.array([["a", "b"]], np.object_) if datatype == "BYTES" else np.ones((1, 2), dtype)
            for datatype, dtype in tensors.DTYPES.items()
        },
        "every_scalar": {
            f"in_{datatype}": np.array("a", np.object_) if datatype == "BYTES" else np.ones((), dtype)
            for datatype, dtype in tensors.DTYPES.items()
        },
        "state": {
            "x": np.ones((1, 3), np.float32),
            "state": np.ones((2, 1, 3), np.float32),
            "scale": np.array(2, np.int64),
        },
    }
    return request(name, **arrays[name])


_bytes = st.binary(max_size=40)
_OF_A_TENSOR = ["shape", "size", "size that fits", "datatype", "name", "twice"]
_OF_CONTENTS = ["bytes", "shorter", "longer", "other contents", "typed contents"]
_OF_THE_REQUEST = ["outputs", "parameter", "version", "model", "id"]
_changes = st.sampled_from(_OF_A_TENSOR + _OF_CONTENTS + _OF_THE_REQUEST)


def _change(draw: st.DrawFn, sent: Request) -> None:
    """Change one thing in a request."""
    number, places = draw(st.integers(0, 20)), len(sent.raw_input_contents)
    tensor, place = sent.inputs[number % len(sent.inputs)], number % max(1, places)
    raw = sent.raw_input_contents[place] if places else b""
    match draw(_changes):
        case "shape":
            tensor.shape[:] = draw(_shapes)
        case "size" if tensor.shape:
            tensor.shape[draw(st.integers(0, len(tensor.shape) - 1))] = draw(_sizes)
        case "size that fits" if tensor.shape and raw and tensor.datatype != "BYTES":
            # Only the model itself knows whether it can compute this shape.
            axis, size = draw(st.integers(0, len(tensor.shape) - 1)), draw(st.integers(0, 7))
            sent.raw_input_contents[place] = raw[: len(raw) // max(1, tensor.shape[axis])] * size
            tensor.shape[axis] = size
        case "datatype":
            tensor.datatype = draw(_datatypes)
        case "name":
            tensor.name = draw(_names)
        case "bytes" if places:
            sent.raw_input_contents[place] = (draw(st.binary(min_size=1)) * len(raw))[: len(raw)]
        case "shorter" if places:
            sent.raw_input_contents[place] = raw[: draw(st.integers(0, 2000))]
        case "longer" if places:
            sent.raw_input_contents[place] = raw + draw(_bytes)
        case "other contents" if places:
            sent.raw_input_contents[place] = draw(_bytes)
        case "typed contents":
            tensor.contents.CopyFrom(draw(_contents))
            if draw(st.booleans()):
                del sent.raw_input_contents[:]
        case "twice":
            sent.inputs.append(tensor)
            if places and draw(st.booleans()):
                sent.raw_input_contents.append(raw)
        case "outputs":
            names = draw(st.lists(_names | st.sampled_from(["probabilities", "y", "sum"]), max_size=3))
            sent.outputs.extend(Request.InferRequestedOutputTensor(name=name) for name in names)
        case "parameter":
            sent.parameters[draw(st.text(max_size=9))].string_param = draw(st.text(max_size=9))
        case "version":
            sent.model_version = draw(_versions)
        case "model":
            sent.model_name = draw(_model_names)
        case "id":
            sent.id = draw(st.text(max_size=300))


@st.composite
def nearly_good(draw: st.DrawFn) -> Request:
    """A valid request with up to three changes."""
    sent = good(draw(st.sampled_from(MODELS)))
    for _ in range(draw(st.integers(1, 3))):
        _change(draw, sent)
    return sent


_SEEDS = [
    encoded(Image.new(mode, size), format_)
    for format_ in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
    for size in ((28, 28), (1, 90), (300, 40))
    for mode in ("L", "RGB")
]


@st.composite
def pictures(draw: st.DrawFn) -> bytes:
    """A picture file in which bytes are changed, cut off or inserted."""
    data = bytearray(draw(st.sampled_from(_SEEDS)))
    for _ in range(draw(st.integers(0, 6))):
        place = draw(st.integers(0, len(data) - 1 if data else 0))
        match draw(st.sampled_from(["set", "cut", "put in", "header"])):
            case "set" if data:
                data[place] = draw(st.integers(0, 255))
            case "cut":
                del data[place:]
            case "put in":
                data[place:place] = draw(_bytes)
            case "header" if len(data) > 26:  # the width and height in a PNG may become huge
                data[16:24] = draw(st.binary(min_size=8, max_size=8))
    return bytes(data)


classify_requests = st.builds(
    classifier_pb2.ClassifyRequest,
    model_name=st.sampled_from(["classifier", "lstm", "text", "nobody", ""]),
    model_version=_versions,
    top_k=st.sampled_from([0, 1, 3, 2**31 - 1, 2**32 - 1]),
    encoded=pictures() | _bytes,
) | st.builds(
    classifier_pb2.ClassifyRequest,
    model_name=st.sampled_from(["classifier", "lstm", "gather"]),
    top_k=st.integers(0, 20),
    raw=st.builds(
        classifier_pb2.RawImage,
        height=st.sampled_from([0, 1, 28, 2**31, 2**32 - 1]),
        width=st.sampled_from([0, 1, 28, 2**31, 2**32 - 1]),
        pixels=_bytes | st.just(bytes(784)),
    ),
)


@st.composite
def mangled(draw: st.DrawFn) -> bytes:
    """A message in which some bytes are changed, so that most results are not valid messages."""
    message = draw(st.sampled_from([*map(good, MODELS)]) | classify_requests)
    data = bytearray(message.SerializeToString())
    for _ in range(draw(st.integers(1, 5))):
        place = draw(st.integers(0, len(data)))
        data[place : place + draw(st.integers(0, 4))] = draw(st.binary(max_size=6))
    return bytes(data)
