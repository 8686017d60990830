"""The typed client of the server: images and arrays in, labels and arrays out."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from hangtag.protos import inference_pb2
from hangtag.serving.client import operations
from hangtag.serving.client.classification import Classification, Image, classify_request
from hangtag.serving.client.operations import Answer, Operation
from hangtag.serving.client.outputs import Array, Outputs
from hangtag.serving.connection.errors import ClientError
from hangtag.serving.health import HealthClient


class Client(HealthClient):
    """A client of one server, over one channel. Thread-safe: threads may share it.

    Close it with ``close``, or use it in a ``with`` block. In addition to what each method lists, every call raises
    CredentialsError when ``token_file`` can no longer be read, and an argument that cannot be sent raises a ClientError
    that is a TypeError and a ValueError too.

    Args:
        address: HOST:PORT of the server's gRPC port, or http://HOST:PORT (https:// with TLS) of its HTTP port. Several
            servers: ``ipv4:IP:PORT,IP:PORT`` or ``dns:///HOST:PORT``, with ``options`` that balance.
        timeout: each call's deadline in seconds. The deadline travels to the server, which drops a late request
            before it computes it.
        credentials: for a server with TLS or tokens.
        options: retries, balancing, pings and the largest answer; by default a call that the server did not take is
            tried again three times.

    Raises:
        AddressError: the address has no port, or is another kind of URL; or it is a URL, and HTTP_PROXY, HTTPS_PROXY or
            ALL_PROXY names no proxy.
        CredentialsError: a TLS file cannot be read.
        MissingExtraError: the address is a URL, and the extra ``http`` is not installed.
        OptionsError: ``timeout`` is infinite or no number.

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
            image: the bytes of a PNG, JPEG or WebP file, or uint8 pixels of the model's size: grey
                [height, width], or red, green and blue [height, width, 3].
            model: the model's name, or NAME@VERSION.
            version: one of its versions; "" is the one that serves.
            top_k: the largest number of labels to return; 0 is 3, or the whole set of a multi-label model.

        Returns:
            The labels with their probabilities, and the server's timings.

        Raises:
            ClientError: the model is unknown, the image cannot be read, or the call failed.
            TypeError: ``image`` is neither bytes nor such pixels.

        Example:
            >>> [label.name for label in client.classify(image, "cnn", top_k=1).labels]
            ['Bag']
        """
        return self._run(operations.classify(image, model, version, top_k))

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
            model: the model's name, or NAME@VERSION.
            version: one of its versions; "" is the one that serves.
            top_k: the largest number of labels for each image; 0 is 3, or the whole set of a multi-label model.
            timeout: deadline of the whole stream in seconds; None is no deadline.

        Yields:
            A classification, or the ClientError of an image that failed; the stream goes on after it.

        Raises:
            ClientError: the stream ended before its last answer.
            TypeError: an image is neither bytes nor such pixels.

        Example:
            >>> [outcome.labels[0].name for outcome in client.classify_stream([image, image], "cnn")]
            ['Bag', 'Bag']
        """
        requests = (classify_request(image, model, version, top_k) for image in images)
        for response in self._connection.stream(operations.CLASSIFY_STREAM, requests, timeout):
            yield operations.classify_outcome(response)

    def compare(
        self, image: Image, models: Sequence[str] = (), *, top_k: int = 0
    ) -> dict[str, Classification | ClientError]:
        """Classify one image with several models in one call.

        Args:
            image: as for ``classify``.
            models: the models' names, or NAME@VERSION; without any, all models of the server that classify images.
            top_k: the largest number of labels of each model; 0 is 3, or the whole set of a multi-label model.

        Returns:
            For each model, as it was named, its classification, or the ClientError that says why there is none.

        Raises:
            ClientError: the call as a whole failed, or a model is named twice.
            TypeError: ``image`` is neither bytes nor such pixels.

        Example:
            >>> {model: outcome.labels[0].name for model, outcome in client.compare(image, ["lstm", "cnn"]).items()}
            {'lstm': 'Bag', 'cnn': 'Bag'}
        """
        return self._run(operations.compare(image, models, top_k))

    def infer(self, model: str, inputs: Mapping[str, Array], *, version: str = "") -> Outputs:
        """Run a model on arrays. Works with every server of the Open Inference Protocol.

        Args:
            model: the model's name, or NAME@VERSION.
            inputs: an array for each input, with the shape that the model's signature gives, batch axis included. The
                array's dtype sets the datatype on the wire, so it must be the input's own.
            version: one of its versions; "" is the one that serves.

        Returns:
            An array for each output of the model, by its name. Attributes of the mapping say which model answered, of a
            route which members, and what that took.

        Raises:
            ClientError: the model is unknown, an input does not fit its signature, or the call failed.
            TypeError: an input is no numpy array.
            ValueError: the protocol has no datatype for an array's dtype.

        Example:
            >>> client.infer("cnn", {"image": np.zeros((2, 28, 28), np.uint8)})["logits"].shape
            (2, 10)
            >>> client.infer("cnn", {"image": np.zeros((2, 28, 28), np.uint8)}).answered_by
            ('cnn',)
        """
        return self._run(operations.infer(model, inputs, version))

    def infer_stream(
        self, model: str, requests: Iterable[Mapping[str, Array]], *, version: str = "", timeout: float | None = None
    ) -> Iterator[Outputs | ClientError]:
        """Run a model on one set of arrays after another over one stream, and yield one outcome for each, in order.

        An exception that ``requests`` raises is raised here, after the outcomes of the requests before it.

        Args:
            model: the model's name, or NAME@VERSION.
            requests: the ``inputs`` of ``infer``, for each request.
            version: one of its versions; "" is the one that serves.
            timeout: deadline of the whole stream in seconds; None is no deadline.

        Yields:
            What ``infer`` returns, or the ClientError of a request that failed; the stream goes on after it.

        Raises:
            ClientError: the stream ended before its last answer.
            TypeError: an input is no numpy array.
            ValueError: the protocol has no datatype for an array's dtype.

        Example:
            >>> images = np.zeros((3, 1, 28, 28), np.uint8)
            >>> [answer["logits"].shape for answer in client.infer_stream("cnn", [{"image": one} for one in images])]
            [(1, 10), (1, 10), (1, 10)]
        """
        messages = (operations.infer_request(model, inputs, version) for inputs in requests)
        for response in self._connection.stream(operations.INFER_STREAM, messages, timeout):
            yield operations.infer_outcome(response)

    def parameters(self, model: str, *, version: str = "") -> dict[str, str]:
        """Return the parameters of a model's configuration: its file's metadata, and the provider that runs it.

        Args:
            model: the model's name, or NAME@VERSION.
            version: one of its versions; "" is the one that serves.

        Raises:
            ClientError: the model is unknown, or the call failed.

        Example:
            >>> client.parameters("cnn")["hangtag.task"]
            'single_label'
        """
        return self._run(operations.parameters(model, version))

    def models(self) -> list[str]:
        """Return the names of the models that take requests, each once, whichever of its versions serve.

        Raises:
            ClientError: the call failed.

        Example:
            >>> client.models()
            ['cnn', 'cnn-int8', 'fast-and-accurate', 'lstm', 'lstm-int8', 'lstm2', 'lstm2-int8']
        """
        return self._run(operations.models())

    def statistics(self) -> list[inference_pb2.ModelStatistics]:
        """Return each model version's statistics since it was loaded, as the protocol's own messages.

        Raises:
            ClientError: the call failed.

        Example:
            >>> sorted(one.name for one in client.statistics() if one.inference_count)
            ['cnn', 'lstm']
        """
        return self._run(operations.statistics())

    def load_model(self, model: str) -> list[str]:
        """Load a model, or load it again; returns the versions that serve then. Returns once they do.

        Raises:
            ClientError: the server does not run with --model-control explicit, or has no such model; a file is broken,
                and what served before still serves; ``timeout`` passed, in which case the load goes on; or the
                connection broke, and the server may have loaded the model: the call is not tried again.

        Example:
            >>> client.load_model("lstm")
            ['2']
        """
        self._run(operations.load(model))
        return self._run(operations.serving_versions(model))

    def unload_model(self, model: str) -> None:
        """Take a model out of service; it answers the requests that it has.

        Raises:
            ClientError: the server does not run with --model-control explicit, or serves no such model; or the
                connection broke, and the server may have unloaded the model: the call is not tried again.

        Example:
            >>> client.unload_model("lstm2")
        """
        self._run(operations.unload(model))

    def _run(self, operation: Operation[Answer]) -> Answer:
        return operation.answer(self._connection.call(operation.method, operation.request))
