"""The JSON of inference: reads a request's outputs, tensors and values, and writes an answer."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, NoReturn, TypeVar

import numpy as np
import numpy.typing as npt

from hangtag.protos import tensors
from hangtag.serving.server.engine.servable import Servable
from hangtag.serving.server.errors import InvalidRequestError, MessageTooLargeError
from hangtag.serving.server.queue.call import Tensors
from hangtag.serving.server.transport.http.messages import to_json
from hangtag.serving.server.wire.codec import as_text, require_supported
from hangtag.serving.server.wire.plans import BY_VALUE, TIMEOUT, Arrays
from hangtag.serving.signature import TensorSpec

MAX_JSON_BYTES = 4 * 1024 * 1024
"""The maximum size of a request's JSON in bytes. While Python reads JSON, no other request makes progress."""
_INT64_MAX = 2**63 - 1
Array = npt.NDArray[Any]
Kind = TypeVar("Kind")
_KINDS: dict[type, str] = {str: "a text", bool: "true or false", dict: "an object", list: "a list of objects"}
_VALUES: dict[str, tuple[set[type], str]] = {
    "b": ({bool}, "true or false"),
    "O": ({str}, "texts"),
    "f": ({int, float}, "numbers"),
    "i": ({int}, "whole numbers"),
    "u": ({int}, "whole numbers"),
}
"""The Python types of a tensor's values, by the kind of the tensor's dtype."""
BINARY_SIZE, BINARY_DATA, BINARY_OUTPUTS = "binary_data_size", "binary_data", "binary_data_output"
"""Parameters of the binary tensor extension."""


class JsonRequest(NamedTuple):
    """The content of a request for inference. The first four fields are arguments of `plans.admit`, in order."""

    inputs: Arrays
    datatypes: Mapping[str, str]
    outputs: Sequence[str]
    timeout: int | None
    binary: Sequence[bool]
    """For each requested output, whether it is sent as binary data. If none is requested, one value holds for all."""
    id: str
    head: bytes | None
    """The request's JSON if later requests that differ only in binary data may share its `Plan`, else None."""


def decode_request(body: bytes, size: int) -> JsonRequest:
    """Decode a request: ``size`` bytes of JSON, then the inputs' binary data, in the order of the inputs. Keys that are
    not in the protocol are ignored. Raises the errors of `parse_json`."""
    request = parse_json(text := body[:size])
    parameters = parameters_of(request, "the request")
    tensors_of = _objects(request, "inputs")
    if not tensors_of:
        raise InvalidRequestError("'inputs' must be a list of at least one input")
    heads = [_head(tensor) for tensor in tensors_of]
    by_default = _member(parameters, BINARY_OUTPUTS, bool, "the request", default=False)
    names, binary = [], []
    for output in _objects(request, "outputs"):
        names.append(_member(output, "name", str, "an output"))
        where = f"output {names[-1]!r}"
        of_output = parameters_of(output, where)
        require_supported(names[-1], of_output)
        binary.append(_member(of_output, BINARY_DATA, bool, where, by_default))
    timeout = parameters.get(TIMEOUT)
    if timeout is not None and (type(timeout) is not int or abs(timeout) > _INT64_MAX):
        raise InvalidRequestError(f"the parameter {TIMEOUT!r} must be an int64 of microseconds above 0")
    identity = _member(request, "id", str, "the request", "")
    binary_bytes = sum(length or 0 for *_, length in heads)
    if size + binary_bytes != len(body):
        raise InvalidRequestError(
            f"the body has {len(body) - size} bytes after its JSON of {size} bytes (the header "
            f"Inference-Header-Content-Length), and the inputs' parameters {BINARY_SIZE!r} add up to {binary_bytes}"
        )
    inputs: Arrays = {}
    offset = size
    for (name, datatype, shape, length), tensor in zip(heads, tensors_of, strict=True):
        if name in inputs:
            raise InvalidRequestError(f"input {name!r} is given twice")
        try:
            if length is None:
                # Python numbers take many times the array's memory
                inputs[name] = array_of(datatype, shape, tensor.pop("data"))
            else:
                array = tensors.from_raw(datatype, shape, body[offset : offset + length])
                inputs[name] = as_text(array) if datatype == "BYTES" else array
                offset += length
        except ValueError as error:
            raise InvalidRequestError(f"input {name!r}: {error}") from error
    datatypes = {name: datatype for name, datatype, *_ in heads}
    binary = binary or [by_default]
    has_fixed_meaning = len(inputs) == 1 and binary_bytes > 0 and BY_VALUE.issuperset(datatypes.values())
    is_plain = not identity and timeout is None and all(binary)
    head = text if has_fixed_meaning and is_plain else None
    return JsonRequest(inputs, datatypes, names, timeout, binary, identity, head)


def parse_json(text: bytes) -> dict[str, Any]:
    """Parse a JSON object. Raises MessageTooLargeError for a text above MAX_JSON_BYTES, and InvalidRequestError for a
    text that is not a JSON object, is nested too deeply, repeats a key, or has NaN or infinity."""
    if len(text) > MAX_JSON_BYTES:
        raise MessageTooLargeError(
            f"the request has {len(text):,} bytes of JSON; at most {MAX_JSON_BYTES:,} are read. Send large tensors as "
            "binary data, with the parameter 'binary_data_size' and the header Inference-Header-Content-Length."
        )
    try:
        value = json.loads(text.decode(), object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise InvalidRequestError("the JSON is nested too deeply") from error
    except ValueError as error:
        raise InvalidRequestError(f"the request is not JSON in UTF-8: {error}") from error
    if not isinstance(value, dict):
        raise InvalidRequestError("the request's JSON must be an object, {...}")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # The JSON parser calls this Python function after each object, so that other threads can run.
    result = dict(pairs)
    if len(result) < len(pairs):
        key, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise InvalidRequestError(f"the JSON has the key {key!r} twice in one object")
    return result


def _refuse_constant(name: str) -> NoReturn:
    raise InvalidRequestError(f"JSON has no {name}; send such values as binary data")


def _head(tensor: dict[str, Any]) -> tuple[str, str, list[int], int | None]:
    """Return an input's name, datatype and shape, and the number of its bytes after the JSON, or None if the values are
    in the JSON."""
    name = _member(tensor, "name", str, "an input")
    where = f"input {name!r}"
    shape = tensor.get("shape")
    if type(shape) is not list or any(type(size) is not int for size in shape):
        raise InvalidRequestError(f"{where}: 'shape' must be a list of whole numbers")
    parameters = parameters_of(tensor, where)
    require_supported(name, parameters)
    size = parameters.get(BINARY_SIZE)
    if size is not None and (type(size) is not int or size < 0):
        raise InvalidRequestError(f"{where}: the parameter {BINARY_SIZE!r} must be a number of bytes")
    if (size is None) == ("data" not in tensor):
        problem = "neither 'data' nor" if size is None else "both 'data' and"
        raise InvalidRequestError(f"{where} has {problem} the parameter {BINARY_SIZE!r}; send one of them")
    return name, _member(tensor, "datatype", str, where), shape, size


def _objects(owner: dict[str, Any], key: str) -> list[dict[str, Any]]:
    value = _member(owner, key, list, "the request", [])
    if any(type(each) is not dict for each in value):
        raise InvalidRequestError(f"{key!r} must be a list of objects")
    return value


def parameters_of(owner: dict[str, Any], where: str) -> dict[str, Any]:
    return _member(owner, "parameters", dict, where, {})


def _member(owner: dict[str, Any], key: str, kind: type[Kind], where: str, default: Kind | None = None) -> Kind:
    value = default if owner.get(key) is None else owner[key]
    if type(value) is not kind:
        raise InvalidRequestError(f"{where}: {key!r} must be {_KINDS[kind]}")
    return value


def array_of(datatype: str, shape: Sequence[int], data: object) -> Array:
    """Return the array of a tensor whose values are in the JSON. BYTES become str. ``data`` has the parsed values,
    row-major: one flat list, or lists nested according to the shape. Raises ValueError."""
    if datatype == "FP16":
        raise ValueError("FP16 has no values in JSON; send it as binary data")
    if datatype not in tensors.DTYPES:
        raise ValueError(f"unknown datatype {datatype!r}; known: {', '.join(tensors.DTYPES)}")
    count = tensors.element_count(shape)
    nested = np.array(data, np.object_)
    values: list[Any] = list(nested.flat)
    if (nested.ndim != 1 and nested.shape != tuple(shape)) or list in map(type, values):
        raise ValueError(f"data must be one flat list, or lists nested as the shape {list(shape)} says")
    if len(values) != count:
        raise ValueError(f"{datatype} {list(shape)} needs {count} values in data, got {len(values)}")
    kind = tensors.DTYPES[datatype].kind
    types, described = _VALUES[kind]
    if not types.issuperset(map(type, values)):
        raise ValueError(f"data of {datatype} must be {described}")
    if kind == "O":
        "".join(values).encode()  # raises UnicodeEncodeError (a ValueError) for a lone surrogate
        texts = np.empty(count, np.object_)
        texts[:] = values
        return texts.reshape(shape)
    with np.errstate(over="ignore"):  # an overflow becomes infinity, which is refused
        array = tensors.from_numbers(datatype, shape, values, "data")
    if kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"data holds numbers outside {datatype}'s range; send infinity and NaN as binary data")
    return array


def encode_answer(
    model: Servable, specs: Sequence[TensorSpec], binary: Sequence[bool], outputs: Tensors, identity: str = ""
) -> tuple[bytes, list[bytes]]:
    """Return the JSON and the binary tensors of an answer. ``binary`` says for each of the requested outputs
    (``specs``) whether it is sent as binary data. Raises InvalidRequestError if JSON cannot represent an output."""
    contents: list[bytes] = []
    described: list[dict[str, Any]] = []
    for spec, as_binary in zip(specs, binary, strict=True):
        array = outputs[spec.name]
        output: dict[str, Any] = {"name": spec.name, "datatype": spec.datatype, "shape": array.shape}
        if as_binary:
            contents.append(tensors.to_raw(array))
            output["parameters"] = {BINARY_SIZE: len(contents[-1])}
        else:
            output["data"] = json_values(spec, array)
        described.append(output)
    answered = {"model_name": model.name, "model_version": model.version, "outputs": described}
    return to_json(({"id": identity} if identity else {}) | answered), contents


def json_values(spec: TensorSpec, array: Array) -> list[Any]:
    """Return the values of an output, row-major, as one flat list. Raises InvalidRequestError."""
    problem = ""
    if array.dtype.kind in "OSU":
        try:
            return [value.decode() if isinstance(value, bytes) else str(value) for value in array.flat]
        except UnicodeDecodeError as error:
            problem = str(error)
    elif array.dtype == np.float16:
        problem = "FP16 has no values in JSON"
    elif array.dtype.kind == "f" and not np.isfinite(array).all():
        problem = "the values hold infinity or NaN, which JSON does not have"
    if problem:
        raise InvalidRequestError(
            f"output {spec.name!r} cannot be sent as JSON: {problem}. Ask for the output as binary data: set the "
            f"output's parameter {BINARY_DATA!r} to true"
        )
    values: list[Any] = array.ravel().tolist()
    return values
