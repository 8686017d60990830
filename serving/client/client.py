"""The typed client of the server: images and arrays in, labels and arrays out."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import grpc
import numpy.typing as npt

from hangtag.protos import classifier_pb2, classifier_pb2_grpc, inference_pb2, inference_pb2_grpc, tensors
from hangtag.serving.client.classification import (
    Classification,
    Image,
    classify_request,
    compare_request,
    from_response,
)
from hangtag.serving.connection import ClientError
from hangtag.serving.health import HealthConnection

_STATUS = {code.value[0]: code for code in grpc.StatusCode}
Array = npt.NDArray[Any]


class Client(HealthConnection):
    """A client of one server, over one channel. Thread-safe: threads may share it.

    Close it with ``close``, or use it in a ``with`` block. In addition to what each method lists, every call raises
    CredentialsError when ``token_file`` can no longer be read.

    Args:
        address: HOST:PORT of the server.
        timeout: each call's deadline in seconds. The deadline travels to the server, which drops a late request
            before it computes it.
        credentials: for a server with TLS or tokens.

    Raises:
        CredentialsError: a TLS file cannot be read.

    Example:
        >>> from pathlib import Path
        >>> from hangtag import Client
        >>> with Client("127.0.0.1:8001") as client:
        ...     answer = client.classify(Path("examples/garments/bag-1.png").read_bytes(), "cnn")
        >>> answer.labels[0].name
        'Bag'
    """

    def classify(self, image: Image, model: str, *, version: str = "", top_k: int = 0) -> Classification:
        """Classify one image.

        Args:
            image: the bytes of a PNG, JPEG or WebP file, or uint8 grey pixels [height, width] of the model's size.
            model: the model's name.
            version: one of its versions; "" is the one that serves.
            top_k: the largest number of labels to return; 0 is 3, or the whole set of a multi-label model.

        Returns:
            The labels with their probabilities, and the server's timings.

        Raises:
            ClientError: the model is unknown, the image cannot be read, or the call failed.
            TypeError: ``image`` is neither bytes nor uint8 [height, width].

        Example:
            >>> [label.name for label in client.classify(image, "cnn", top_k=1).labels]
            ['Bag']
        """
        return from_response(self._call(self._classifier.Classify, classify_request(image, model, version, top_k)))

    def classify_stream(
        self,
        images: Iterable[Image],
        model: str,
        *,
        version: str = "",
        top_k: int = 0,
        timeout: float | None = None,
    ) -> Iterator[Classification | ClientError]:
        """Classify images over one stream, and yield one outcome for each image, in their order.

        The server takes the next image when it has room for it, and computes images together if it can. An exception
        that ``images`` raises is raised here, after the outcomes of the images before it.

        Args:
            images: as for ``classify``; a generator may produce them one by one.
            model: the model's name.
            version: one of its versions; "" is the one that serves.
            top_k: the largest number of labels for each image; 0 is 3, or the whole set of a multi-label model.
            timeout: deadline of the whole stream in seconds; None is no deadline.

        Yields:
            A classification, or the ClientError of an image that failed; the stream goes on after it.

        Raises:
            ClientError: the stream ended before its last answer.
            TypeError: an image is neither bytes nor uint8 [height, width].

        Example:
            >>> [outcome.labels[0].name for outcome in client.classify_stream([image, image], "cnn")]
            ['Bag', 'Bag']
        """
        requests = (classify_request(image, model, version, top_k) for image in images)
        for response in self._stream(self._classifier.ClassifyStream, requests, timeout):
            yield _outcome(response)

    def compare(
        self, image: Image, models: Sequence[str] = (), *, top_k: int = 0
    ) -> dict[str, Classification | ClientError]:
        """Classify one image with several models in one call.

        Args:
            image: as for ``classify``.
            models: the models' names; without any, all models of the server that classify images.
            top_k: the largest number of labels of each model; 0 is 3, or the whole set of a multi-label model.

        Returns:
            For each model's name, in order, its classification, or the ClientError that says why there is none.

        Raises:
            ClientError: the call as a whole failed, or a model is named twice.
            TypeError: ``image`` is neither bytes nor uint8 [height, width].

        Example:
            >>> {model: outcome.labels[0].name for model, outcome in client.compare(image, ["lstm", "cnn"]).items()}
            {'lstm': 'Bag', 'cnn': 'Bag'}
        """
        response = self._call(self._classifier.Compare, compare_request(image, models, top_k))
        return {outcome.model_name: _outcome(outcome) for outcome in response.outcomes}

    def infer(self, model: str, inputs: Mapping[str, Array], *, version: str = "") -> dict[str, Array]:
        """Run a model on arrays. Works with every server of the Open Inference Protocol.

        Args:
            model: the model's name.
            inputs: an array for each input, with the shape that the model's signature gives, batch axis included. The
                array's dtype sets the datatype on the wire, so it must be the input's own.
            version: one of its versions; "" is the one that serves.

        Returns:
            An array for each output of the model.

        Raises:
            ClientError: the model is unknown, an input does not fit its signature, or the call failed.
            ValueError: the protocol has no datatype for an array's dtype.

        Example:
            >>> client.infer("cnn", {"image": np.zeros((2, 28, 28), np.uint8)})["logits"].shape
            (2, 10)
        """
        return _arrays(self._call(self._inference.ModelInfer, _infer_request(model, version, inputs)))

    def infer_stream(
        self, model: str, requests: Iterable[Mapping[str, Array]], *, version: str = "", timeout: float | None = None
    ) -> Iterator[dict[str, Array] | ClientError]:
        """Run a model on one set of arrays after another over one stream, and yield one outcome for each, in order.

        An exception that ``requests`` raises is raised here, after the outcomes of the requests before it.

        Args:
            model: the model's name.
            requests: the ``inputs`` of ``infer``, for each request.
            version: one of its versions; "" is the one that serves.
            timeout: deadline of the whole stream in seconds; None is no deadline.

        Yields:
            An array for each output, or the ClientError of a request that failed; the stream goes on after it.

        Raises:
            ClientError: the stream ended before its last answer.
            ValueError: the protocol has no datatype for an array's dtype.

        Example:
            >>> images = np.zeros((3, 1, 28, 28), np.uint8)
            >>> [answer["logits"].shape for answer in client.infer_stream("cnn", [{"image": one} for one in images])]
            [(1, 10), (1, 10), (1, 10)]
        """
        messages = (_infer_request(model, version, inputs) for inputs in requests)
        for response in self._stream(self._inference.ModelStreamInfer, messages, timeout):
            if response.error_message:
                status = response.infer_response.parameters["status"].string_param
                yield ClientError(grpc.StatusCode[status], response.error_message)
            else:
                yield _arrays(response.infer_response)

    def parameters(self, model: str, *, version: str = "") -> dict[str, str]:
        """Return the parameters of a model's configuration: its file's metadata, and the provider that runs it.

        Args:
            model: the model's name.
            version: one of its versions; "" is the one that serves.

        Raises:
            ClientError: the model is unknown, or the call failed.

        Example:
            >>> client.parameters("cnn")["hangtag.task"]
            'single_label'
        """
        request = inference_pb2.ModelConfigRequest(name=model, version=version)
        config = self._call(self._inference.ModelConfig, request).config
        return {name: parameter.string_value for name, parameter in config.parameters.items()}

    def models(self) -> list[str]:
        """Return the names of the models that take requests.

        Raises:
            ClientError: the call failed.

        Example:
            >>> client.models()
            ['cnn', 'lstm', 'lstm2']
        """
        index = self._call(self._inference.RepositoryIndex, inference_pb2.RepositoryIndexRequest(ready=True))
        return [model.name for model in index.models]

    def statistics(self) -> list[inference_pb2.ModelStatistics]:
        """Return each model version's statistics since it was loaded, as the protocol's own messages.

        Raises:
            ClientError: the call failed.

        Example:
            >>> {one.name: one.inference_count > 0 for one in client.statistics()}
            {'cnn': True, 'lstm': True, 'lstm2': False}
        """
        response = self._call(self._inference.ModelStatistics, inference_pb2.ModelStatisticsRequest())
        return list(response.model_stats)

    def load_model(self, model: str) -> list[str]:
        """Load a model, or load it again; returns the versions that serve then. Returns once they do.

        Raises:
            ClientError: the server does not run with --model-control explicit, or has no such model; a file is broken,
                and what served before still serves; or ``timeout`` passed, in which case the load goes on.

        Example:
            >>> client.load_model("cnn")
            ['2']
        """
        self._call(self._inference.RepositoryModelLoad, inference_pb2.RepositoryModelLoadRequest(model_name=model))
        index = self._call(self._inference.RepositoryIndex, inference_pb2.RepositoryIndexRequest(ready=True))
        return [entry.version for entry in index.models if entry.name == model]

    def unload_model(self, model: str) -> None:
        """Take a model out of service; it answers the requests that it has.

        Raises:
            ClientError: the server does not run with --model-control explicit, or serves no such model.

        Example:
            >>> client.unload_model("lstm2")
        """
        self._call(self._inference.RepositoryModelUnload, inference_pb2.RepositoryModelUnloadRequest(model_name=model))

    @cached_property
    def _inference(self) -> inference_pb2_grpc.GRPCInferenceServiceStub:
        return inference_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    @cached_property
    def _classifier(self) -> classifier_pb2_grpc.ClassifierStub:
        return classifier_pb2_grpc.ClassifierStub(self._channel)


def _outcome(
    response: classifier_pb2.ClassifyStreamResponse | classifier_pb2.ModelOutcome,
) -> Classification | ClientError:
    if response.HasField("failure"):
        return ClientError(_STATUS[response.failure.code], response.failure.message)
    return from_response(response.answer)


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
