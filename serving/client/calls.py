"""Defines the calls of both clients: what each call sends, and how the client reads the answer.

The docstrings are the documentation of both clients. Their examples call ``Client``.
"""

from collections.abc import Mapping, Sequence

from hangtag.protos import classifier_pb2, methods
from hangtag.protos import inference_pb2 as pb
from hangtag.serving.client import messages
from hangtag.serving.client.messages import Array, Classification, Image, Outputs
from hangtag.serving.connection.errors import ClientError, reading, sending
from hangtag.serving.connection.method import Method
from hangtag.serving.health_check import HealthCalls

CLASSIFY = Method(methods.CLASSIFY, classifier_pb2.ClassifyResponse)
CLASSIFY_STREAM = Method(methods.CLASSIFY_STREAM, classifier_pb2.ClassifyStreamResponse, single=CLASSIFY)
COMPARE = Method(methods.COMPARE, classifier_pb2.CompareResponse)
INFER = Method(methods.MODEL_INFER, pb.ModelInferResponse)
INFER_STREAM = Method(methods.MODEL_STREAM_INFER, pb.ModelStreamInferResponse, single=INFER)
CONFIG = Method(methods.MODEL_CONFIG, pb.ModelConfigResponse)
STATISTICS = Method(methods.MODEL_STATISTICS, pb.ModelStatisticsResponse)
INDEX = Method(methods.REPOSITORY_INDEX, pb.RepositoryIndexResponse)
LOAD = Method(methods.MODEL_LOAD, pb.RepositoryModelLoadResponse)
UNLOAD = Method(methods.MODEL_UNLOAD, pb.RepositoryModelUnloadResponse)


class Calls(HealthCalls):
    """Calls that return one answer. ``AsyncClient`` inherits them; ``Client`` runs them in the calling thread."""

    async def classify(self, image: Image, model: str, *, version: str = "", top_k: int = 0) -> Classification:
        """Classify one image.

        Args:
            image: the bytes of a PNG, JPEG or WebP file, or uint8 pixels of the model's size: grey
                [height, width], or red, green and blue [height, width, 3].
            model: the model's name, or NAME@VERSION.
            version: the model's version; "" means the version that serves.
            top_k: the largest number of labels to return. 0 means 3 labels, or, for a multi-label model, the whole
                predicted set.

        Returns:
            The labels with their probabilities, and the server's timings.

        Raises:
            ClientError: for example, the model is unknown, or the image cannot be read.
            TypeError: ``image`` is neither bytes nor an array of uint8 pixels.

        Example:
            >>> [label.name for label in client.classify(image, "cnn", top_k=1).labels]
            ['Bag']
        """
        request = messages.classify_request(image, model, version, top_k)
        return messages.classification_of(await self._call(CLASSIFY, request, None))

    async def compare(
        self, image: Image, models: Sequence[str] = (), *, top_k: int = 0
    ) -> dict[str, Classification | ClientError]:
        """Classify one image with several models in one call.

        Args:
            image: as for ``classify``.
            models: the models, each as NAME or NAME@VERSION. If empty, the server uses all its models that classify
                images.
            top_k: the largest number of labels of each model, as for ``classify``.

        Returns:
            The name of each model, as given -> the model's classification, or a ClientError if the model failed.

        Raises:
            ClientError: the call as a whole failed, or a model is named twice.
            TypeError: ``image`` is neither bytes nor an array of uint8 pixels.

        Example:
            >>> {model: outcome.labels[0].name for model, outcome in client.compare(image, ["lstm", "cnn"]).items()}
            {'lstm': 'Bag', 'cnn': 'Bag'}
        """
        response = await self._call(COMPARE, messages.compare_request(image, models, top_k), None)
        with reading("the server"):
            names = models or [outcome.model_name for outcome in response.outcomes]
            return dict(zip(names, map(messages.classify_outcome, response.outcomes), strict=True))

    async def infer(self, model: str, inputs: Mapping[str, Array], *, version: str = "") -> Outputs:
        """Run a model on arrays. Works with every server of the Open Inference Protocol.

        Args:
            model: the model's name, or NAME@VERSION.
            inputs: an array for each input, with the shape that the model's signature gives, including the batch axis.
                The dtype of the array must match the datatype of the input, because the client does not convert it.
            version: the model's version; "" means the version that serves.

        Returns:
            An array for each output of the model, by the output's name. Attributes of the mapping say which model, or
            which members of a route, answered, and how long they took.

        Raises:
            ClientError: for example, the model is unknown, or the inputs do not match its signature.
            TypeError: an input is not a numpy array.
            ValueError: the protocol has no datatype for an array's dtype.

        Example:
            >>> client.infer("cnn", {"image": np.zeros((2, 28, 28), np.uint8)})["logits"].shape
            (2, 10)
            >>> client.infer("cnn", {"image": np.zeros((2, 28, 28), np.uint8)}).answered_by
            ('cnn',)
        """
        response = await self._call(INFER, messages.infer_request(model, inputs, version), None)
        with reading("the server"):
            return Outputs(response)

    async def parameters(self, model: str, *, version: str = "") -> dict[str, str]:
        """Return the parameters of a model's configuration: its file's metadata, and its execution provider.

        The model and the version are named as for ``infer``.

        Example:
            >>> client.parameters("cnn")["hangtag.task"]
            'single_label'
        """
        with sending():
            model, version = messages.model_choice(model, version)
            request = pb.ModelConfigRequest(name=model, version=version)
        config = (await self._call(CONFIG, request, None)).config
        return {name: parameter.string_value for name, parameter in config.parameters.items()}

    async def models(self) -> list[str]:
        """Return the names of the models that accept requests. A name occurs once, even if several versions of a model
        serve.

        Example:
            >>> client.models()[:3]
            ['cnn', 'cnn-int8', 'cnn-small']
        """
        return list(dict.fromkeys(name for name, _ in await self._served()))

    async def statistics(self) -> list[pb.ModelStatistics]:
        """Return the statistics of each model version since it was loaded, as messages of the protocol.

        Example:
            >>> sorted(one.name for one in client.statistics() if one.inference_count)
            ['cnn', 'lstm']
        """
        return list((await self._call(STATISTICS, pb.ModelStatisticsRequest(), None)).model_stats)

    async def load_model(self, model: str) -> list[str]:
        """Load or reload a model, wait until it serves, and return its versions that serve.

        Raises:
            ClientError: the server does not run with --model-control explicit, does not have the model, or cannot load
                its file. The previous version then stays in service. If ``timeout`` passed, the server continues to
                load the model. If the connection broke, the server may have loaded it; the client does not repeat the
                call.

        Example:
            >>> client.load_model("lstm")
            ['2']
        """
        with sending():
            request = pb.RepositoryModelLoadRequest(model_name=model)
        await self._call(LOAD, request, None)
        return [version for name, version in await self._served() if name == model]

    async def unload_model(self, model: str) -> None:
        """Unload a model. The model still answers the requests that it already has.

        Raises:
            ClientError: the server does not run with --model-control explicit, or does not serve the model. If the
                connection broke, the server may have unloaded the model; the client does not repeat the call.

        Example:
            >>> client.unload_model("lstm2")
        """
        with sending():
            request = pb.RepositoryModelUnloadRequest(model_name=model)
        await self._call(UNLOAD, request, None)

    async def _served(self) -> list[tuple[str, str]]:
        """Return the name and the version of each model version that accepts requests."""
        index = await self._call(INDEX, pb.RepositoryIndexRequest(ready=True), None)
        return [(model.name, model.version) for model in index.models]
