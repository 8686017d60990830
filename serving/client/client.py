"""A typed client of the server: arrays and images in, arrays and labels out.

with Client("127.0.0.1:8001") as client:
    print(client.classify(Path("boot.png").read_bytes(), model="cnn").labels[0])
    logits = client.infer("lstm", {"image": pixels})["logits"]
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import grpc
import numpy.typing as npt

from hangtag.protos import classifier_pb2, classifier_pb2_grpc, inference_pb2, inference_pb2_grpc, tensors
from hangtag.serving.client.classification import Classification, Image, classify_request, compare_request, read
from hangtag.serving.connection import DEFAULT_TIMEOUT, ClientError, Connection
from hangtag.serving.credentials import Credentials

_STATUS = {code.value[0]: code for code in grpc.StatusCode}
Array = npt.NDArray[Any]


class Client(Connection):
    """One channel to one server. Thread-safe. Every method raises ClientError."""

    def __init__(
        self,
        address: str = "127.0.0.1:8001",
        *,
        timeout: float = DEFAULT_TIMEOUT,
        credentials: Credentials = Credentials(),  # noqa: B008 - it cannot change
    ) -> None:
        """timeout: each call's deadline in seconds; it travels to the server, which does not compute what is late.

        credentials: for a server with TLS or tokens. Raises CredentialsError when its files cannot be read, as do calls
        once the token's file is gone.
        """
        super().__init__(address, timeout=timeout, credentials=credentials)
        self._inference = inference_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._classifier = classifier_pb2_grpc.ClassifierStub(self._channel)

    def classify(self, image: Image, model: str, *, version: str = "", top_k: int = 0) -> Classification:
        """Classify one image: the bytes of a PNG, JPEG or WebP file, or grey pixels [height, width] of its size.

        top_k: how many labels at most; 0 gives three rivals, or a whole set.
        """
        return read(self._call(self._classifier.Classify, classify_request(image, model, version, top_k)))

    def classify_stream(
        self,
        images: Iterable[Image],
        model: str,
        *,
        version: str = "",
        top_k: int = 0,
        timeout: float | None = None,
    ) -> Iterator[Classification | ClientError]:
        """Classify one image after another over one stream: an answer, or an error in its place, for each, in order.

        Images are taken as the server takes them, and are computed together where they can be. timeout: of the whole
        stream, in seconds. Raises ClientError when the stream ends early, and what ``images`` raises.
        """
        requests = (classify_request(image, model, version, top_k) for image in images)
        for response in self._converse(self._classifier.ClassifyStream, requests, timeout):
            yield _outcome(response)

    def compare(
        self, image: Image, models: Sequence[str] = (), *, top_k: int = 0
    ) -> dict[str, Classification | ClientError]:
        """What several models make of one image, by model, in their order: the answer, or why there is none.

        Without names every served model that classifies pictures is asked.
        """
        response = self._call(self._classifier.Compare, compare_request(image, models, top_k))
        return {outcome.model_name: _outcome(outcome) for outcome in response.outcomes}

    def infer(self, model: str, inputs: Mapping[str, Array], *, version: str = "") -> dict[str, Array]:
        """Every output of a model for these inputs, by name. An array's dtype decides the datatype that is sent."""
        return _arrays(self._call(self._inference.ModelInfer, _infer_request(model, version, inputs)))

    def infer_stream(
        self, model: str, requests: Iterable[Mapping[str, Array]], *, version: str = "", timeout: float | None = None
    ) -> Iterator[dict[str, Array] | ClientError]:
        """The same for one request after another over one stream; see classify_stream."""
        sent = (_infer_request(model, version, inputs) for inputs in requests)
        for response in self._converse(self._inference.ModelStreamInfer, sent, timeout):
            if response.error_message:
                status = response.infer_response.parameters["status"].string_param
                yield ClientError(grpc.StatusCode[status], response.error_message)
            else:
                yield _arrays(response.infer_response)

    def parameters(self, model: str, *, version: str = "") -> dict[str, str]:
        """What a model's file says about itself, and where it runs, as its configuration has it: names and texts."""
        request = inference_pb2.ModelConfigRequest(name=model, version=version)
        config = self._call(self._inference.ModelConfig, request).config
        return {name: parameter.string_value for name, parameter in config.parameters.items()}

    def models(self) -> list[str]:
        """The names of the models that take requests."""
        index = self._call(self._inference.RepositoryIndex, inference_pb2.RepositoryIndexRequest(ready=True))
        return [model.name for model in index.models]

    def statistics(self) -> list[inference_pb2.ModelStatistics]:
        """What each version of each model did since it was loaded, in the protocol's own words."""
        response = self._call(self._inference.ModelStatistics, inference_pb2.ModelStatisticsRequest())
        return list(response.model_stats)


def _outcome(
    response: classifier_pb2.ClassifyStreamResponse | classifier_pb2.ModelOutcome,
) -> Classification | ClientError:
    if response.HasField("failure"):
        return ClientError(_STATUS[response.failure.code], response.failure.message)
    return read(response.answer)


def _infer_request(model: str, version: str, inputs: Mapping[str, Array]) -> inference_pb2.ModelInferRequest:
    return inference_pb2.ModelInferRequest(
        model_name=model,
        model_version=version,
        inputs=[
            inference_pb2.ModelInferRequest.InferInputTensor(
                name=name, datatype=tensors.datatype_of(array), shape=array.shape
            )
            for name, array in inputs.items()
        ],
        raw_input_contents=[tensors.to_raw(array) for array in inputs.values()],
    )


def _arrays(response: inference_pb2.ModelInferResponse) -> dict[str, Array]:
    return {
        output.name: tensors.from_raw(output.datatype, output.shape, raw)
        for output, raw in zip(response.outputs, response.raw_output_contents, strict=True)
    }
