"""Answers POST /v1/classify/{models}: classifies an image with one or several models."""

import asyncio
import re
import time
from typing import Any
from urllib.parse import parse_qsl

import httptools
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field, File, FormParser, parse_options_header

from hangtag.protos import classifier_pb2 as pb
from hangtag.serving.server.errors import InvalidRequestError
from hangtag.serving.server.transport.http.bodies import decompressed
from hangtag.serving.server.transport.http.messages import (
    HTTP_CLASSIFY,
    HttpRequest,
    HttpResponse,
    Route,
    cost_headers,
    error_response,
    json_response,
    origin_of,
    to_dict,
)
from hangtag.serving.server.wire.event_loop import LoopCalls
from hangtag.serving.server.wire.image_query import MAX_COMPARED, compare_queries
from hangtag.serving.server.wire.plans import TIMEOUT, earlier_deadline
from hangtag.serving.server.wire.status import call_status, status

_MAX_FIELDS = 32
_MAX_FIELD_BYTES = 16 * 1024
"""Size limit of a form's text field: room for the most models that can be compared, with long names and versions."""
_BOUNDARY = re.compile(rb"[0-9A-Za-z'()+_,\-./:=? ]{1,70}")
"""A boundary of a form, as RFC 2046 defines it."""
_UINT32_MAX = 2**32 - 1
_NUMBERS = {"top_k": _UINT32_MAX, "height": _UINT32_MAX, "width": _UINT32_MAX, TIMEOUT: 2**63 - 1}
"""The parameters that are numbers, and their largest values."""


class ClassifyEndpoint:
    """Answers for every model that accepts one UINT8 picture and has labels for the output ``probabilities``."""

    def __init__(self, calls: LoopCalls) -> None:
        self._calls = calls

    def routes(self) -> list[Route]:
        """Return the routes. The route without a model compares all classifiers that are served."""
        return [Route(path, self.classify, methods=["POST"]) for path in ("/v1/classify", "/v1/classify/{models}")]

    async def classify(self, request: HttpRequest) -> HttpResponse:
        origin, intake, started = origin_of(HTTP_CLASSIFY, request), self._calls.intake, time.perf_counter_ns()
        fields: list[tuple[str, str]] = []
        try:
            image = await decompressed(request)
            content_type = request.header("content-type")
            if content_type.lower().startswith("multipart/form-data"):
                image, fields = await asyncio.to_thread(_parse_form, content_type, image)  # others continue meanwhile
            query_string = httptools.parse_url(request.target).query or b""
            fields += parse_qsl(query_string.decode("latin-1"), keep_blank_values=True)
            numbers = _numbers(fields)
            # NAME or NAME@VERSION, separated by commas. A request may have thousands of names, so all names after the
            # first MAX_COMPARED names stay in one string.
            listed = [request.path_params.get("models", ""), *(value for name, value in fields if name == "model")]
            named = [text.strip().partition("@") for each in listed for text in each.split(",", MAX_COMPARED)]
            choices = [pb.ModelChoice(name=name, version=version) for name, at, version in named if name or at]
            if (timeout := numbers.get(TIMEOUT)) is not None:
                origin = origin._replace(deadline=earlier_deadline(timeout, None))
            message = pb.CompareRequest(models=choices, top_k=numbers.get("top_k", 0))
            if "height" in numbers:  # raw 8-bit pixels, row by row, in the model's size
                message.raw.CopyFrom(pb.RawImage(height=numbers["height"], width=numbers["width"], pixels=image))
            else:
                message.encoded = image
            queries = compare_queries(message, intake.engine)
        except Exception as error:
            intake.record_failure(origin, error, started)
            raise
        calls = await self._calls.outcomes(origin, queries)
        if len(choices) != 1:
            outcomes: list[dict[str, Any]] = [{"model_name": query.model_name} for query in queries]
            for outcome, query, call in zip(outcomes, queries, calls, strict=True):
                try:
                    outcome["answer"] = to_dict(call.response())
                except Exception as error:
                    reason = call_status(error, HTTP_CLASSIFY, query)[1]
                    outcome |= {"error": reason, "status": status(error).http}
            return json_response({"outcomes": outcomes})
        try:
            answer = calls[0].response()
        except Exception as error:
            return error_response(error, HTTP_CLASSIFY, queries[0])
        timings, preprocess_ns = calls[0].timings, answer.timings.preprocess_ns
        headers = cost_headers(answer.model_name, answer.model_version, timings, preprocess_ns)
        return json_response(to_dict(answer), headers=headers)


def _parse_form(content_type: str, body: bytes) -> tuple[bytes, list[tuple[str, str]]]:
    """Return a form's file and its fields. Raises InvalidRequestError if the form is malformed, or has no file."""
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if boundary is None or not _BOUNDARY.fullmatch(boundary):
        raise InvalidRequestError("the form cannot be read: its Content-Type has no boundary as RFC 2046 describes it")
    files: list[File] = []
    fields: list[tuple[str, str]] = []

    def take_file(file: File) -> None:
        if files:
            raise FormParserError("the form has more than one file")
        files.append(file)

    def take_field(field: Field) -> None:
        value = field.value or b""
        if len(fields) == _MAX_FIELDS or len(value) > _MAX_FIELD_BYTES:
            most = f"{_MAX_FIELDS} fields, or one of more than {_MAX_FIELD_BYTES >> 10} KiB"
            raise FormParserError(f"the form has more than {most}")
        # The charset that the form declares is ignored, because some of Python's decoders take quadratic time.
        fields.append(((field.field_name or b"").decode(errors="replace"), value.decode(errors="replace")))

    # forms stay in memory, because the body's size is already limited
    in_memory = {"MAX_MEMORY_FILE_SIZE": len(body) + 1}
    parser = FormParser("multipart/form-data", take_field, take_file, boundary=boundary, config=in_memory)
    try:
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise InvalidRequestError(f"the form cannot be read: {error}") from error
    if not files:
        raise InvalidRequestError("the form has no file; send the image as a file (curl: -F image=@coat.png)")
    files[0].file_object.seek(0)
    return files[0].file_object.read(), fields


def _numbers(fields: list[tuple[str, str]]) -> dict[str, int]:
    """Return the parameters that are numbers. If a parameter is given twice, the first value counts. Raises
    InvalidRequestError if a parameter is unknown, for example misspelt, or is not a number in its range."""
    numbers: dict[str, int] = {}
    for name, text in fields:
        if name == "model":
            continue
        if name not in _NUMBERS:
            known = ", ".join(("model", *_NUMBERS))
            raise InvalidRequestError(f"unknown parameter {name[:64]!r}; known parameters: {known}")
        most = _NUMBERS[name]
        if not (text.isascii() and text.isdigit() and len(text) <= len(str(most)) and int(text) <= most):
            raise InvalidRequestError(f"the parameter {name!r} must be a whole number from 0 to {most}")
        numbers.setdefault(name, int(text))
    if ("height" in numbers) != ("width" in numbers):
        raise InvalidRequestError("raw pixels need both parameters, 'height' and 'width'")
    return numbers
