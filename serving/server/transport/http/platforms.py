"""Follows the contracts of SageMaker and Vertex AI. Each request becomes an ordinary call of the model."""

import base64
import binascii
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from hangtag.protos import classifier_pb2 as pb
from hangtag.serving.model_repository import is_model_name
from hangtag.serving.server.config.platform import SAGEMAKER, Platform
from hangtag.serving.server.engine.servable import Servable
from hangtag.serving.server.errors import InvalidRequestError, NotFoundError
from hangtag.serving.server.transport.http.infer_json import parse_json
from hangtag.serving.server.transport.http.infer_plans import HEAD_LENGTH
from hangtag.serving.server.transport.http.infer_query import HttpInferQuery
from hangtag.serving.server.transport.http.messages import (
    HTTP_CLASSIFY,
    HTTP_INFER,
    HttpRequest,
    HttpResponse,
    Route,
    decompressed,
    json_response,
    origin_of,
    to_dict,
    to_json,
)
from hangtag.serving.server.wire.event_loop import LoopCall, LoopCalls
from hangtag.serving.server.wire.image_query import classify_query

_BINARY = "application/vnd.sagemaker-triton.binary+json"
"""Triton's content type for JSON that is followed by binary tensors. Content-Type is the only header that SageMaker
passes on."""
_HEAD_LENGTH = re.compile(re.escape(_BINARY) + r"; *json-header-size=(\d+)")
_NO_MEMORY = 507
_LOADED_ALREADY = 409
_NO_ROOM = re.compile("bad_alloc|bad allocation|allocate memory")
"""How messages of ONNX Runtime and C++ say that memory is full."""
_URL = ".url-"
"""Prefix of the files that record where SageMaker's models are stored."""


class PlatformEndpoints:
    """Answers health and inference on a platform's own paths, and loads models on SageMaker's multi-model endpoints."""

    def __init__(self, platform: Platform, calls: LoopCalls) -> None:
        """Answer on the platform's paths. ``calls`` submit inference, and have the models."""
        self._platform = platform
        self._calls = calls
        self._engine = calls.intake.engine
        self._repository = calls.intake.repository

    def routes(self) -> list[Route]:
        """Return the routes."""
        infer = self.invoke if self._platform.name == SAGEMAKER else self.predict
        routes = [
            Route(self._platform.health_path, self.health),
            Route(self._platform.infer_path, infer, methods=["POST"]),
        ]
        if self._platform.loads_models:
            routes += [
                Route("/models", self.load, methods=["POST"]),
                Route("/models", self.loaded),
                Route("/models/{model}", self.unload, methods=["DELETE"]),
                Route("/models/{model}", self.described),
                Route("/models/{model}/invoke", self.invoke, methods=["POST"]),
            ]
        return routes

    async def health(self, _request: HttpRequest) -> HttpResponse:
        ready = self._engine.ready
        return json_response({"ready": ready}, 200 if ready else 503)

    async def invoke(self, request: HttpRequest) -> HttpResponse:
        """Answer a call from SageMaker. The content type says whether the body is a picture or a request of the Open
        Inference Protocol."""
        model = request.path_params.get("model") or self._model()
        content_type = request.header("content-type").lower()
        if content_type.startswith("image/"):
            answer = await self._classify([await decompressed(request)], model, 0, request)
            return json_response(answer[0])
        head = _HEAD_LENGTH.fullmatch(content_type)
        if head is not None:
            request.headers[HEAD_LENGTH] = head[1].encode()
        response = await self._infer(request, model)
        names = dict(response.headers)
        if HEAD_LENGTH in names:
            shown = f"{_BINARY};json-header-size={names[HEAD_LENGTH].decode()}".encode()
            response.headers = [(b"content-type", shown), *response.headers[1:]]
        return response

    async def predict(self, request: HttpRequest) -> HttpResponse:
        """Answer a call from Vertex AI: {"instances": [...]} gets {"predictions": [...]}, with one prediction for each
        instance.

        An instance is a picture, {"b64": "..."}, or the value of the model's input. For several inputs, an instance is
        an object with a value for each input.
        """
        content = parse_json(await decompressed(request))
        instances, parameters = content.get("instances"), content.get("parameters") or {}
        if not isinstance(instances, list) or not instances:
            raise InvalidRequestError("'instances' must be a list of at least one instance")
        if not isinstance(parameters, dict):
            raise InvalidRequestError("'parameters' must be an object")
        model = self._model()
        if all(isinstance(each, dict) and set(each) == {"b64"} for each in instances):
            top_k = parameters.get("top_k", 0)
            if type(top_k) is not int or not 0 <= top_k < 1 << 32:
                raise InvalidRequestError("the parameter 'top_k' must be a whole number")
            predictions = await self._classify([_decoded(each["b64"]) for each in instances], model, top_k, request)
        else:
            request.headers.pop(b"accept-encoding", None)
            request.headers.pop(b"content-encoding", None)
            request.body = _as_request(await self._calls.intake.model(model), instances)
            predictions = _by_instance(json.loads((await self._infer(request, model)).body), len(instances))
        return json_response({"predictions": predictions})

    async def load(self, request: HttpRequest) -> HttpResponse:
        """Publish a model that SageMaker has unpacked, and load it."""
        content = parse_json(await decompressed(request))
        name, url = content.get("model_name"), content.get("url")
        if not isinstance(name, str) or not is_model_name(name) or not isinstance(url, str):
            raise InvalidRequestError("'model_name' must be a model's name, and 'url' the folder that holds it")
        if self._url(name).exists():
            return json_response({"error": f"{name!r} is already loaded"}, _LOADED_ALREADY)
        folder = self._engine.config.models / name
        await self._repository.in_thread(lambda _control: _publish(folder, Path(url)))
        try:
            await self._repository.load(name)
        except Exception as error:
            _remove(folder)
            if not _NO_ROOM.search(str(error)):
                raise
            return json_response({"error": str(error)}, _NO_MEMORY)  # SageMaker then unloads another model
        self._url(name).write_text(url)
        return json_response(self._shown(name))

    async def loaded(self, _request: HttpRequest) -> HttpResponse:
        names = sorted(file.name.removeprefix(_URL) for file in self._engine.config.models.glob(f"{_URL}*"))
        return json_response({"models": [self._shown(name) for name in names]})

    async def described(self, request: HttpRequest) -> HttpResponse:
        return json_response(self._shown(self._loaded(request)))

    async def unload(self, request: HttpRequest) -> HttpResponse:
        name = self._loaded(request)
        await self._repository.unload(name)
        self._url(name).unlink()
        _remove(self._engine.config.models / name)
        return json_response({})

    def _url(self, name: str) -> Path:
        """Return the file that records where a loaded model is stored. The record is a file because every worker needs
        it."""
        return self._engine.config.models / f"{_URL}{name}"

    def _loaded(self, request: HttpRequest) -> str:
        name: str = request.path_params["model"]
        if not is_model_name(name) or not self._url(name).exists():
            raise NotFoundError(f"{name!r} is not loaded")
        return name

    def _shown(self, name: str) -> dict[str, str]:
        return {"modelName": name, "modelUrl": self._url(name).read_text()}

    def _model(self) -> str:
        """Return the model that answers. Raises InvalidRequestError if several models serve and none was chosen."""
        if chosen := self._engine.config.platform_model:
            return chosen
        names = sorted({model.name for model in self._engine.models})
        if len(names) != 1:
            raise InvalidRequestError(
                f"{len(names)} models serve here ({', '.join(names)}): start the server with --platform-model NAME"
            )
        return names[0]

    async def _infer(self, asked: HttpRequest, model: str) -> HttpResponse:
        call = LoopCall(self._calls, origin_of(HTTP_INFER, asked), None, HttpInferQuery(model, "", asked))
        response, _ = await self._calls.answer(call, in_thread=True)
        assert isinstance(response, HttpResponse)
        return response

    async def _classify(
        self, pictures: list[bytes], model: str, top_k: int, asked: HttpRequest
    ) -> list[dict[str, Any]]:
        origin = origin_of(HTTP_CLASSIFY, asked)
        messages = [pb.ClassifyRequest(model_name=model, encoded=picture, top_k=top_k) for picture in pictures]
        calls = [LoopCall(self._calls, origin, None, classify_query(message)) for message in messages]
        await self._calls.outcomes(calls)
        return [to_dict(call.response()) for call in calls]


def _decoded(text: object) -> bytes:
    try:
        return base64.b64decode(text if isinstance(text, str) else "!", validate=True)
    except binascii.Error as error:
        raise InvalidRequestError("'b64' must be the text of a picture file in base64") from error


def _as_request(model: Servable, instances: list[Any]) -> bytes:
    """Return the Open Inference Protocol's request for these instances: a batch with one sample for each instance."""
    specs = model.signature.inputs
    inputs: list[dict[str, Any]] = []
    for spec in specs:
        if len(specs) == 1:
            values = instances
        else:
            try:
                values = [each[spec.name] for each in instances]
            except (TypeError, KeyError) as error:
                names = ", ".join(repr(each.name) for each in specs)
                raise InvalidRequestError(f"each instance must be an object with a value for {names}") from error
        shape: list[int] = []
        value: Any = values
        while isinstance(value, list):
            shape.append(len(value))
            value = value[0] if value else None
        inputs.append({"name": spec.name, "datatype": spec.datatype, "shape": shape, "data": values})
    return to_json({"inputs": inputs})


def _by_instance(answer: dict[str, Any], count: int) -> list[Any]:
    """Return each instance's part of an answer: the value of the only output, or the values of all outputs by name."""
    outputs = {}
    for output in answer["outputs"]:
        array = np.empty(len(output["data"]), object)
        array[:] = output["data"]
        parts = array.reshape(output["shape"]).tolist()
        if not isinstance(parts, list) or len(parts) != count:
            raise InvalidRequestError(
                f"the output {output['name']!r} has no part for each instance: its shape is {output['shape']}"
            )
        outputs[output["name"]] = parts
    if len(outputs) == 1:
        return next(iter(outputs.values()))
    return [{name: parts[place] for name, parts in outputs.items()} for place in range(count)]


def _publish(folder: Path, url: Path) -> None:
    """Publish an unpacked model: link its folder of versions into the repository, or copy its single file.

    Raises:
        InvalidRequestError: There is no model.
    """
    if any(file.parent.name.isdigit() for file in url.glob("*/model.onnx")):
        folder.symlink_to(url)
        return
    files = list(url.glob("*.onnx"))
    if len(files) != 1:
        raise InvalidRequestError(f"{url} has neither <version>/model.onnx nor exactly one file *.onnx")
    shutil.copytree(url, folder / "1")  # the folder may also have files of weights
    (folder / "1" / files[0].name).rename(folder / "1" / "model.onnx")


def _remove(folder: Path) -> None:
    if folder.is_symlink():
        folder.unlink()
    else:
        shutil.rmtree(folder, ignore_errors=True)
