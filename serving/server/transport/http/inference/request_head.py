"""The JSON of an inference request: what it asks for, and which tensors it brings."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any, NoReturn

from hangtag.serving.server.errors import InvalidRequestError, MessageTooLargeError
from hangtag.serving.server.transport.codec import TIMEOUT, require_supported
from hangtag.serving.server.transport.http.inference.answer_plan import (
    BINARY_DATA,
    BINARY_OUTPUTS,
    BINARY_SIZE,
    AnswerPlan,
)

MAX_JSON_BYTES = 4 * 1024 * 1024
"""Most JSON of a request: Python reads it without a pause in which other requests would go on."""
_CACHED_BYTES = 1024
_INT64_MAX = 2**63 - 1


@dataclass(frozen=True)
class InputHead:
    """One input. Its values are ``data``, or the next ``binary_size`` bytes after the JSON where that is not None."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: Any
    binary_size: int | None


@dataclass(frozen=True)
class RequestHead:
    """A request without its binary tensors.

    Attributes:
        id: The caller's, returned with the answer; empty where there is none.
        inputs: In the order of their binary data.
        outputs: The names that are requested; none for all of the model's.
        binary_outputs: Whether each requested output is wanted as binary data, in their order.
        binary_by_default: Likewise for outputs that the request does not name.
        timeout: In microseconds; None where there is none.
        plans: By the name of the model; each is of the version that answered last.
    """

    id: str
    inputs: tuple[InputHead, ...]
    outputs: tuple[str, ...]
    binary_outputs: tuple[bool, ...]
    binary_by_default: bool
    timeout: int | None
    plans: dict[str, AnswerPlan] = field(default_factory=dict, compare=False)

    @cached_property
    def datatypes(self) -> Mapping[str, str]:
        """Of the inputs, by name."""
        return {each.name: each.datatype for each in self.inputs}

    @cached_property
    def binary_bytes(self) -> int:
        """How many bytes of binary tensors follow the JSON."""
        return sum(each.binary_size or 0 for each in self.inputs)

    @cached_property
    def has_values(self) -> bool:
        """Whether there are values in the JSON."""
        return any(each.data is not None for each in self.inputs)

    def without_values(self) -> "RequestHead":
        """Return the head without the values that stand in the JSON: as Python's numbers they take many times what they
        take in an array."""
        if not self.has_values:
            return self
        return replace(self, inputs=tuple(replace(each, data=None) for each in self.inputs))


def parse_head(text: bytes, *, cached: bool = False) -> RequestHead:
    """Return what the JSON of a request says. Keys that the protocol does not know are ignored.

    Args:
        text: The JSON.
        cached: Keep the result for the next request with the same JSON: for those whose values are not in it.

    Raises:
        MessageTooLargeError: It is larger than MAX_JSON_BYTES.
        InvalidRequestError: It is not JSON, has a key twice, or a key's value is not what the protocol says.
    """
    return _parse_cached(text) if cached and len(text) <= _CACHED_BYTES else _parse(text)


def _parse(text: bytes) -> RequestHead:
    request = parse_json(text)
    parameters = parameters_of(request, "the request")
    inputs = _objects(request, "inputs")
    if not inputs:
        raise InvalidRequestError("'inputs' must be a list of at least one input")
    outputs = _objects(request, "outputs")
    by_default = _flag(parameters, BINARY_OUTPUTS, default=False)
    names, binary = [], []
    for output in outputs:
        names.append(_text(output, "name", "an output"))
        of_output = parameters_of(output, f"output {names[-1]!r}")
        require_supported(names[-1], of_output)
        binary.append(_flag(of_output, BINARY_DATA, default=by_default))
    timeout = parameters.get(TIMEOUT)
    if timeout is not None and (type(timeout) is not int or abs(timeout) > _INT64_MAX):
        raise InvalidRequestError(f"the parameter {TIMEOUT!r} must be an int64 of microseconds above 0")
    return RequestHead(
        id=_text(request, "id", "the request", default=""),
        inputs=tuple(_input(each) for each in inputs),
        outputs=tuple(names),
        binary_outputs=tuple(binary),
        binary_by_default=by_default,
        timeout=timeout,
    )


_parse_cached = lru_cache(maxsize=256)(_parse)


def parse_json(text: bytes) -> dict[str, Any]:
    """Return a JSON object.

    Raises:
        MessageTooLargeError: It is larger than MAX_JSON_BYTES.
        InvalidRequestError: It is no JSON, no object, has a key twice, NaN or infinity, or is nested too deeply.
    """
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
    result = dict(pairs)
    if len(result) < len(pairs):
        known: set[str] = set()
        for key, _ in pairs:
            if key in known:
                raise InvalidRequestError(f"the JSON has the key {key!r} twice in one object")
            known.add(key)
    return result


def _refuse_constant(name: str) -> NoReturn:
    raise InvalidRequestError(f"JSON has no {name}; send such values as binary data")


def _input(tensor: dict[str, Any]) -> InputHead:
    name = _text(tensor, "name", "an input")
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
    return InputHead(name, _text(tensor, "datatype", where), tuple(shape), tensor.get("data"), size)


def _objects(owner: dict[str, Any], key: str) -> list[dict[str, Any]]:
    value = owner.get(key) or []
    if type(value) is not list or any(type(each) is not dict for each in value):
        raise InvalidRequestError(f"{key!r} must be a list of objects")
    return value


def parameters_of(owner: dict[str, Any], where: str) -> dict[str, Any]:
    """Return the parameters of a request or of a tensor. Raises InvalidRequestError where they are no object."""
    value = owner.get("parameters") or {}
    if type(value) is not dict:
        raise InvalidRequestError(f"{where}: 'parameters' must be an object")
    return value


def _flag(parameters: dict[str, Any], name: str, *, default: bool) -> bool:
    value = parameters.get(name, default)
    if type(value) is not bool:
        raise InvalidRequestError(f"the parameter {name!r} must be true or false")
    return value


def _text(owner: dict[str, Any], key: str, where: str, default: str | None = None) -> str:
    value = owner.get(key, default)
    if type(value) is not str:
        raise InvalidRequestError(f"{where}: {key!r} must be a text")
    return value
