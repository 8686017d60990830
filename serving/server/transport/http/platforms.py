"""Follows the contracts of SageMaker and Vertex AI. Each request becomes an ordinary call of the model."""

import base64
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hangtag.protos import classifier_pb2 as pb
from hangtag.serving.model_repository import is_model_name, numbered_versions
from hangtag.serving.server.config.server_config import SAGEMAKER
from hangtag.serving.server.engine.servable import Control, Servable
from hangtag.serving.server.errors import InvalidRequestError, NotFoundError
from hangtag.serving.server.queue.call import Tensors
from hangtag.serving.server.transport.http.bodies import decompressed
from hangtag.serving.server.transport.http.endpoints import Endpoints
from hangtag.serving.server.transport.http.infer_json import array_of, json_values, parameters_of, parse_json
from hangtag.serving.server.transport.http.inference import HEAD_LENGTH, HttpInferQuery
from hangtag.serving.server.transport.http.messages import (
    BINARY,
    HTTP_CLASSIFY,
    HTTP_INFER,
    HttpRequest,
    HttpResponse,
    Route,
    json_response,
    route,
    to_dict,
)
from hangtag.serving.server.wire.image_query import classify_query
from hangtag.serving.server.wire.intake import Origin
from hangtag.serving.server.wire.plans import admit
from hangtag.serving.server.wire.transport_call import Query, TransportCall
from hangtag.serving.signature import TensorSpec

_BINARY = "application/vnd.sagemaker-triton.binary+json"
"""Triton's content type for JSON and binary tensors. SageMaker passes on only the header Content-Type."""
_SENT_LENGTH = re.compile(rb"\r\n%b: (\d+)\r\n" % HEAD_LENGTH)
_HEAD_LENGTH = re.compile(re.escape(_BINARY) + r"; *json-header-size=(\d+)")
_URL_FILE = ".url"
"""A file in a copied model's folder, from which all workers read the path of the folder that was copied."""
_NO_ROOM = re.compile("bad_alloc|bad allocation|allocate memory|No space left")
"""How messages of ONNX Runtime, C++ and Linux say that memory or a disk is full."""


class PlatformEndpoints(Endpoints):
    """Also answers health and inference on a platform's own paths, and loads models on SageMaker's multi-model
    endpoints."""

    def routes(self) -> list[Route]:
        config = self._engine.config
        health_path, infer_path, *models_paths = config.platform_paths
        infer = self.invoke if config.platform == SAGEMAKER else self.predict
        routes = [*super().routes(), route(health_path, self.ready), route(infer_path, infer, "POST")]
        for path in models_paths:
            routes += [
                route(path, self.publish, "POST"),
                route(path, self.loaded),
                route(f"{path}/{{model}}", self.withdraw, "DELETE"),
                route(f"{path}/{{model}}", self.loaded),
                route(f"{path}/{{model}}/invoke", self.invoke, "POST"),
            ]
        return routes

    async def invoke(self, request: HttpRequest) -> HttpResponse:
        """Answer a call from SageMaker, which has a picture or a request of the Open Inference Protocol."""
        model = request.path_params.get("model") or self._model()
        content_type = request.header("content-type").lower()
        if content_type.startswith("image/"):
            request.path_params = {"models": model}
            return await self.classify(request)
        if head := _HEAD_LENGTH.fullmatch(content_type):
            request.headers[HEAD_LENGTH] = head[1].encode()
        response: HttpResponse = (await self._answers(HTTP_INFER, request, [HttpInferQuery(model, "", request)]))[0]
        if length := _SENT_LENGTH.search(response.headers):
            binary = b"%b;json-header-size=%b" % (_BINARY.encode(), length[1])
            response.headers = response.headers.replace(BINARY, binary, 1)
        return response

    async def predict(self, request: HttpRequest) -> HttpResponse:
        """Answer a call from Vertex AI: {"instances": [...]} gets {"predictions": [...]}. An instance is
        {"b64": "..."} for a picture, the value of the model's input, or an object with a value for each input."""
        content = parse_json(await decompressed(request))
        instances, top_k = content.get("instances"), parameters_of(content, "the request").get("top_k", 0)
        if not isinstance(instances, list) or not instances:
            raise InvalidRequestError("'instances' must be a list of at least one instance")
        model = self._model()
        if not all(isinstance(each, dict) and set(each) == {"b64"} for each in instances):
            [predictions] = await self._answers(HTTP_INFER, request, [_InstancesQuery(model, instances)])
            return json_response({"predictions": predictions})
        try:
            pictures = [base64.b64decode(each["b64"], validate=True) for each in instances]
            messages = [pb.ClassifyRequest(model_name=model, encoded=each, top_k=top_k) for each in pictures]
        except (TypeError, ValueError) as error:
            raise InvalidRequestError("'b64' must be a picture file in base64, and 'top_k' a whole number") from error
        answers = await self._answers(HTTP_CLASSIFY, request, [classify_query(message) for message in messages])
        return json_response({"predictions": [to_dict(answer) for answer in answers]})

    async def publish(self, request: HttpRequest) -> HttpResponse:
        content = parse_json(await decompressed(request))
        name, url = content.get("model_name"), content.get("url")
        if not isinstance(name, str) or not is_model_name(name) or not isinstance(url, str):
            raise InvalidRequestError("'model_name' must be a model's name, and 'url' the folder that holds it")
        return await self._models.in_thread(lambda control: self._load(control, name, Path(url)))

    async def loaded(self, request: HttpRequest) -> HttpResponse:
        """List the loaded models, or describe the model in the path."""
        name = request.path_params.get("model")
        if name is None:
            return json_response({"models": [self._shown(each) for each in self._engine.names()]})
        if name not in self._engine.names():
            raise NotFoundError(f"{name!r} is not loaded")
        return json_response(self._shown(name))

    async def withdraw(self, request: HttpRequest) -> HttpResponse:
        name = request.path_params["model"]
        await self._models.in_thread(lambda control: self._unload(control, name))
        return json_response({})

    def _shown(self, name: str) -> dict[str, str]:
        folder = self._engine.config.models / name
        url = str(folder.readlink()) if folder.is_symlink() else (folder / _URL_FILE).read_text()
        return {"modelName": name, "modelUrl": url}

    def _load(self, control: Control, name: str, url: Path) -> HttpResponse:
        """Publish an unpacked model, by a link to its folder of versions or by a copy of its single file, and load it.
        Raises InvalidRequestError if there is no model."""
        folder, files, versions = self._engine.config.models / name, list(url.glob("*.onnx")), numbered_versions(url)
        if not versions and len(files) != 1:
            raise InvalidRequestError(f"{url} has neither <version>/model.onnx nor exactly one file *.onnx")
        try:
            if versions:
                folder.symlink_to(url)
            else:
                folder.mkdir()  # not a link, because files are added to this folder
                shutil.copytree(url, folder / "1")  # the folder may also contain separate weight files
                (folder / "1" / files[0].name).rename(folder / "1" / "model.onnx")
                (folder / _URL_FILE).write_text(str(url))
            control.load(name)
        except FileExistsError:
            return json_response({"error": f"{name!r} is already loaded"}, 409)
        except Exception as error:
            self._remove(name)
            if not _NO_ROOM.search(str(error)):
                raise
            return json_response({"error": str(error)}, 507)  # after this status SageMaker unloads another model
        return json_response(self._shown(name))

    def _unload(self, control: Control, name: str) -> None:
        control.unload(name)
        self._remove(name)

    def _remove(self, name: str) -> None:
        folder = self._engine.config.models / name
        if folder.is_symlink():
            folder.unlink()
        else:
            shutil.rmtree(folder, ignore_errors=True)

    def _model(self) -> str:
        chosen = self._engine.config.platform_model
        names = [chosen] if chosen else sorted(self._engine.callable_names())
        if len(names) != 1:
            raise InvalidRequestError(
                f"{len(names)} models are served here ({', '.join(names)}): start the server with --platform-model NAME"
            )
        return names[0]

    async def _answers(self, method: str, request: HttpRequest, queries: Sequence[Query]) -> list[Any]:
        calls = await self._calls.outcomes(Origin(method, request.metadata), queries)
        return [call.response() for call in calls]


class _InstancesQuery(Query):
    """Sends Vertex AI's instances to a model as one batch. The response is the list of predictions."""

    def __init__(self, name: str, instances: list[Any]) -> None:
        super().__init__(name, "")
        self._instances = instances

    def prepare(self, model: Servable, call: TransportCall) -> None:
        specs, count = model.signature.inputs, len(self._instances)
        instances = [each if isinstance(each, dict) else {specs[0].name: each} for each in self._instances]
        inputs = {}
        for spec in specs:
            try:
                values = [each[spec.name] for each in instances]
                inputs[spec.name] = array_of(spec.datatype, np.shape(values), values)
            except KeyError as error:
                names = ", ".join(repr(spec.name) for spec in specs)
                raise InvalidRequestError(f"each instance must be an object with a value for {names}") from error
            except ValueError as error:
                raise InvalidRequestError(f"input {spec.name!r}: {error}") from error
        outputs = admit(call, model, inputs, {spec.name: spec.datatype for spec in specs})
        call.encode = lambda result: _predictions(outputs, result.outputs, count)


def _predictions(specs: Sequence[TensorSpec], outputs: Tensors, count: int) -> list[Any]:
    """Return each instance's part of the outputs: the value of the only output, or the values of all outputs by name.
    Raises InvalidRequestError."""
    parts: dict[str, list[Any]] = {}
    for spec in specs:
        array = outputs[spec.name]
        if array.shape[:1] != (count,):
            raise InvalidRequestError(
                f"the output {spec.name!r} cannot be divided among the instances: its shape is {list(array.shape)}"
            )
        parts[spec.name] = np.array(json_values(spec, array), object).reshape(array.shape).tolist()
    if len(parts) == 1:
        return parts[specs[0].name]
    return [dict(zip(parts, values, strict=True)) for values in zip(*parts.values(), strict=True)]
