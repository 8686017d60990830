"""Answers POST /v1/classify/{models}: an image in, labels with probabilities out, of one model or of several."""

import asyncio
import re
from collections.abc import AsyncIterator, Coroutine
from typing import Any

from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.routing import Route

from hangtag.protos import classifier_pb2 as pb
from hangtag.serving.server.engine.engine import Engine
from hangtag.serving.server.errors import InvalidRequestError
from hangtag.serving.server.transport import codec
from hangtag.serving.server.transport.call import Origin, failures_recorded
from hangtag.serving.server.transport.http.bodies import read_decompressed
from hangtag.serving.server.transport.http.body_budget import BodyBudget, HeldBytes
from hangtag.serving.server.transport.http.calls import describe_call
from hangtag.serving.server.transport.http.endpoints.message_json import to_dict
from hangtag.serving.server.transport.http.responses import HttpResponse, cost_headers, json_response
from hangtag.serving.server.transport.http.status import error_response
from hangtag.serving.server.transport.methods import HTTP_CLASSIFY
from hangtag.serving.server.transport.queries.comparison import MAX_COMPARED, compare_queries
from hangtag.serving.server.transport.queries.image_query import ImageQuery, classify_query
from hangtag.serving.server.transport.queries.loop_calls import LoopCall, LoopCalls
from hangtag.serving.server.transport.status import call_status, status
from hangtag.serving.server.transport.tracing import Tracing

_MAX_FIELDS = 32
_MAX_FIELD_BYTES = 16 * 1024
"""Of a form's field that is a text: room for as many of the longest names as can be compared, with their versions."""
_BOUNDARY = re.compile(rb"[0-9A-Za-z'()+_,\-./:=? ]{1,70}")
"""RFC 2046's. It becomes part of a header again, in which a quotation mark would let a parameter follow."""
_PARAMETERS = ("model", "top_k", "height", "width", codec.TIMEOUT)
_UINT32_MAX = 2**32 - 1
_INT64_MAX = 2**63 - 1


class ClassifyEndpoint:
    """Works with every model that takes one UINT8 picture and has labels for its output ``probabilities``."""

    def __init__(self, engine: Engine, calls: LoopCalls, budget: BodyBudget, tracing: Tracing | None) -> None:
        self._engine = engine
        self._calls = calls
        self._tracing = tracing
        self._budget = budget

    def routes(self) -> list[Route]:
        """Return the routes; the one without a model compares all classifiers that are served."""
        return [Route(path, self.classify, methods=["POST"]) for path in ("/v1/classify", "/v1/classify/{models}")]

    async def classify(self, request: Request) -> HttpResponse:
        with self._budget.hold() as held:
            return await self._classify(request, held)

    async def _classify(self, request: Request, held: HeldBytes) -> HttpResponse:
        origin = describe_call(HTTP_CLASSIFY, request.scope, self._tracing)
        with failures_recorded(self._engine, origin):
            body = await read_decompressed(request.receive, dict(request.headers.raw), held)
            image, fields = await _image_and_fields(request, body)
            fields += request.query_params.multi_items()
            _require_known(fields)
            choices = _choices(request.path_params.get("models", ""), fields)
            timeout = _number(fields, codec.TIMEOUT, _INT64_MAX)
            deadline = codec.earlier_deadline(timeout, None) if timeout is not None else None
            content = _content(image, fields)
        if len(choices) == 1:
            return await self._one(pb.ClassifyRequest(**content), choices[0], origin, deadline)
        comparison = pb.CompareRequest(models=choices, **content)
        queries = compare_queries(comparison, self._engine, origin)
        calls = await self._calls.outcomes(queries, origin, deadline)
        compared = [_outcome(*each) for each in zip(queries, calls, strict=True)]
        return json_response({"outcomes": compared})

    async def _one(
        self, message: pb.ClassifyRequest, choice: pb.ModelChoice, origin: Origin, deadline: float | None
    ) -> HttpResponse:
        message.model_name, message.model_version = choice.name, choice.version
        query = classify_query(message)
        try:
            answer, timings = await self._calls.answer(query, origin, deadline, in_thread=True)
        except Exception as error:
            return error_response(error, HTTP_CLASSIFY, query)
        headers = cost_headers(answer.model_name, answer.model_version, timings, answer.timings.preprocess_ns)
        return json_response(to_dict(answer), headers=headers)


class _FormParser(MultiPartParser):
    """Keeps files in memory, which the limit on the body bounds, and never on a disk. Texts are UTF-8.

    The caller's charset is not passed on: some of Python's decoders, such as punycode's, take time that grows with the
    square of the text, and Python keeps each name that is no charset for ever.
    """

    def __init__(self, boundary: str, body: bytes) -> None:
        async def stream() -> AsyncIterator[bytes]:
            yield body

        super().__init__(
            Headers({"content-type": f'multipart/form-data; boundary="{boundary}"'}),
            stream(),  # type: ignore[arg-type]
            max_files=1,
            max_fields=_MAX_FIELDS,
            max_part_size=_MAX_FIELD_BYTES,
        )
        self.spool_max_size = len(body) + 1


async def _image_and_fields(request: Request, body: bytes) -> tuple[bytes, list[tuple[str, str]]]:
    """Return the image of a request and the fields of its form; a body that is no form is the image.

    Raises:
        InvalidRequestError: The form is malformed, or has no file.
    """
    content_type = request.headers.get("content-type", "")
    if not content_type.lower().startswith("multipart/form-data"):
        return body, []
    return await asyncio.to_thread(_parse_form, content_type, body)  # so that other requests go on meanwhile


def _parse_form(content_type: str, body: bytes) -> tuple[bytes, list[tuple[str, str]]]:
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if boundary is None or not _BOUNDARY.fullmatch(boundary):
        raise InvalidRequestError("the form cannot be read: its Content-Type has no boundary as RFC 2046 describes it")
    try:
        form = _result(_FormParser(boundary.decode("latin-1"), body).parse())
    except (MultiPartException, KeyError, ValueError) as error:
        raise InvalidRequestError(f"the form cannot be read: {getattr(error, 'message', error)}") from error
    image: bytes | None = None
    fields = []
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            with value.file as file:
                image = file.read()
        else:
            fields.append((name, value))
    if image is None:
        raise InvalidRequestError("the form has no file; send the image as one (curl: -F image=@coat.png)")
    return image, fields


def _result(parsing: Coroutine[Any, Any, FormData]) -> FormData:
    """Return what the parser's coroutine returns. It never waits, because the body and the files are in memory."""
    try:
        parsing.send(None)
    except StopIteration as end:
        form: FormData = end.value
        return form
    raise AssertionError("the parser of forms waited")


def _choices(path: str, fields: list[tuple[str, str]]) -> list[pb.ModelChoice]:
    """Return the models of the path and of the parameter ``model``: NAME or NAME@VERSION, several with commas.

    Raises:
        InvalidRequestError: There are more than can be compared.
    """
    listed = [path, *(value for name, value in fields if name == "model")]
    # Names beyond the most that can be compared are not separated from each other: there may be thousands.
    named = [text.strip() for each in listed for text in each.split(",", MAX_COMPARED)]
    parted = [text.partition("@") for text in named if text]
    if len(parted) > MAX_COMPARED:
        raise InvalidRequestError(f"more than {MAX_COMPARED} models, the most that can be compared on one image")
    return [pb.ModelChoice(name=name, version=version) for name, _, version in parted]


def _require_known(fields: list[tuple[str, str]]) -> None:
    """Raises InvalidRequestError for a parameter that does not exist, such as a misspelt one."""
    for name, _ in fields:
        if name not in _PARAMETERS:
            raise InvalidRequestError(f"unknown parameter {name[:64]!r}; there are {', '.join(_PARAMETERS)}")


def _content(image: bytes, fields: list[tuple[str, str]]) -> dict[str, Any]:
    """Return the image and top_k in the fields that ClassifyRequest and CompareRequest have both.

    With ``height`` and ``width`` the image is raw: 8-bit pixels, row by row, in the model's size.
    """
    content: dict[str, Any] = {"top_k": _number(fields, "top_k", _UINT32_MAX) or 0}
    height, width = (_number(fields, name, _UINT32_MAX) for name in ("height", "width"))
    if (height is None) != (width is None):
        raise InvalidRequestError("raw pixels need both parameters, 'height' and 'width'")
    if height is None:
        return content | {"encoded": image}
    return content | {"raw": pb.RawImage(height=height, width=width, pixels=image)}


def _number(fields: list[tuple[str, str]], name: str, most: int) -> int | None:
    text = next((value for key, value in fields if key == name), None)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(most)) and int(text) <= most):
        raise InvalidRequestError(f"the parameter {name!r} must be a whole number from 0 to {most}")
    return int(text)


def _outcome(query: ImageQuery, call: LoopCall) -> dict[str, Any]:
    try:
        return {"model_name": query.model_name, "answer": to_dict(call.response())}
    except Exception as error:
        message = call_status(error, HTTP_CLASSIFY, query)[1]
        return {"model_name": query.model_name, "error": message, "status": status(error).http}
