"""Defines the calls of both clients: what each call sends, and how the client reads the answer."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from google.protobuf.message import Message

from hangtag.protos import classifier_pb2, methods
from hangtag.protos import inference_pb2 as pb
from hangtag.serving.client import classification, outputs
from hangtag.serving.client.classification import Classification, Image, model_choice
from hangtag.serving.client.outputs import Array, Outputs
from hangtag.serving.connection.errors import ClientError, reading, sending
from hangtag.serving.connection.method import Method
from hangtag.serving.health_check import HealthCalls

Answer = TypeVar("Answer")

CLASSIFY = Method(methods.CLASSIFY, classifier_pb2.ClassifyResponse)
CLASSIFY_STREAM = Method(methods.CLASSIFY_STREAM, classifier_pb2.ClassifyStreamResponse)
COMPARE = Method(methods.COMPARE, classifier_pb2.CompareResponse)
INFER = Method(methods.MODEL_INFER, pb.ModelInferResponse)
INFER_STREAM = Method(methods.MODEL_STREAM_INFER, pb.ModelStreamInferResponse)
CONFIG = Method(methods.MODEL_CONFIG, pb.ModelConfigResponse)
STATISTICS = Method(methods.MODEL_STATISTICS, pb.ModelStatisticsResponse)
INDEX = Method(methods.REPOSITORY_INDEX, pb.RepositoryIndexResponse)
LOAD = Method(methods.MODEL_LOAD, pb.RepositoryModelLoadResponse)
UNLOAD = Method(methods.MODEL_UNLOAD, pb.RepositoryModelUnloadResponse)


class Calls(HealthCalls):
    """The calls that return one answer. ``AsyncClient`` extends this class, and ``Client`` runs it in a thread."""

    async def classify(self, image: Image, model: str, *, version: str = "", top_k: int = 0) -> Classification:
        """Classify one image. See ``Client.classify``."""
        request = classification.classify_request(image, model, version, top_k)
        return await self._answer(CLASSIFY, request, classification.from_response)

    async def compare(
        self, image: Image, models: Sequence[str] = (), *, top_k: int = 0
    ) -> dict[str, Classification | ClientError]:
        """Classify one image with several models in one call. See ``Client.compare``."""

        def read(response: classifier_pb2.CompareResponse) -> dict[str, Classification | ClientError]:
            names = models or [outcome.model_name for outcome in response.outcomes]
            return dict(zip(names, map(classification.outcome, response.outcomes), strict=True))

        return await self._answer(COMPARE, classification.compare_request(image, models, top_k), read)

    async def infer(self, model: str, inputs: Mapping[str, Array], *, version: str = "") -> Outputs:
        """Run a model on arrays. See ``Client.infer``."""
        return await self._answer(INFER, outputs.infer_request(model, inputs, version), Outputs)

    async def parameters(self, model: str, *, version: str = "") -> dict[str, str]:
        """Return the parameters of a model's configuration. See ``Client.parameters``."""

        def read(response: pb.ModelConfigResponse) -> dict[str, str]:
            return {name: parameter.string_value for name, parameter in response.config.parameters.items()}

        with sending():
            model, version = model_choice(model, version)
            request = pb.ModelConfigRequest(name=model, version=version)
        return await self._answer(CONFIG, request, read)

    async def models(self) -> list[str]:
        """Return the names of the models that accept requests. See ``Client.models``."""
        return list(dict.fromkeys(name for name, _ in await self._served()))

    async def statistics(self) -> list[pb.ModelStatistics]:
        """Return each model version's statistics since it was loaded. See ``Client.statistics``."""
        return await self._answer(STATISTICS, pb.ModelStatisticsRequest(), lambda response: list(response.model_stats))

    async def load_model(self, model: str) -> list[str]:
        """Load or reload a model, and return its versions that serve. See ``Client.load_model``."""
        with sending():
            request = pb.RepositoryModelLoadRequest(model_name=model)
        await self._answer(LOAD, request, lambda _: None)
        return [version for name, version in await self._served() if name == model]

    async def unload_model(self, model: str) -> None:
        """Unload a model. The model still answers the requests that it already has. See ``Client.unload_model``."""
        with sending():
            request = pb.RepositoryModelUnloadRequest(model_name=model)
        await self._answer(UNLOAD, request, lambda _: None)

    async def _served(self) -> list[tuple[str, str]]:
        """Return the name and the version of each model version that accepts requests."""

        def read(index: pb.RepositoryIndexResponse) -> list[tuple[str, str]]:
            return [(model.name, model.version) for model in index.models]

        return await self._answer(INDEX, pb.RepositoryIndexRequest(ready=True), read)

    async def _answer(self, method: Method[Any], request: Message, read: Callable[[Any], Answer]) -> Answer:
        """Make a call and read its response. Raises ClientError if the response does not follow the protocol."""
        response = await self._call(method, request, None)
        with reading("the server"):
            return read(response)
