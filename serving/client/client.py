"""The typed client of the server: images and arrays in, labels and arrays out."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Self

from hangtag.protos import inference_pb2
from hangtag.serving import address as server_address
from hangtag.serving.client import calls, classification, outputs
from hangtag.serving.client.classification import Classification, Image
from hangtag.serving.client.outputs import Array, Outputs
from hangtag.serving.connection.client_options import ConnectionOptions
from hangtag.serving.connection.connect import blocking, connect, finished
from hangtag.serving.connection.errors import ClientError
from hangtag.serving.credentials import Credentials
from hangtag.serving.health_check import DEFAULT_TIMEOUT


class Client:
    """A client of one server, over one channel. Thread-safe: threads may share it.

    Close the client with ``close``, or use it in a ``with`` block. Every method may also raise two exceptions that its
    own description leaves out. If ``token_file`` can no longer be read, a method raises CredentialsError. If an
    argument cannot be sent, a method raises a ClientError that is also a TypeError and a ValueError.

    Args:
        address: HOST:PORT of the server's gRPC port, or http://HOST:PORT (https:// with TLS) of its HTTP port. For
            several servers, give ``ipv4:IP:PORT,IP:PORT`` or ``dns:///HOST:PORT``, and ``options`` with
            ``round_robin``.
        timeout: each call's deadline in seconds. The deadline travels to the server, which drops a late request instead
            of computing it.
        credentials: for a server with TLS or tokens.
        options: the retries, the balancing, the pings, and the largest answer to accept. By default, the client repeats
            a call up to three times if the server did not accept it.

    Raises:
        AddressError: the address has no port or is another kind of URL, or the variable that names its proxy
            (HTTP_PROXY, HTTPS_PROXY or ALL_PROXY) is not a proxy's URL.
        CredentialsError: a TLS file cannot be read.
        MissingExtraError: the address is a URL, and the extra ``http`` is not installed.
        OptionsError: ``timeout`` is infinite or not a number.

    Example:
        >>> from pathlib import Path
        >>> from hangtag import Client
        >>> with Client("127.0.0.1:8001") as client:
        ...     answer = client.classify(Path("examples/garments/bag-1.png").read_bytes(), "cnn")
        >>> answer.labels[0].name
        'Bag'
    """

    def __init__(
        self,
        address: str = server_address.DEFAULT,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        credentials: Credentials = Credentials(),  # noqa: B008 - it cannot change
        options: ConnectionOptions = ConnectionOptions(),  # noqa: B008 - it cannot change
    ) -> None:
        self._connection = connect(address, timeout, credentials, options)
        self._calls = calls.Calls(address, options, blocking(self._connection.call), blocking(time.sleep))

    def close(self) -> None:
        """Refuse further calls, and cancel the calls in flight."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def is_ready(self, model: str = "") -> bool:
        """Return whether the server, or one model, is ready. A model that is loading or unknown is not ready.

        Args:
            model: a model's name, or "" for the whole server.

        Raises:
            ClientError: no server answers, or the server refuses the call.
        """
        return finished(self._calls.is_ready(model))

    def require_ready(self, model: str = "") -> None:
        """Raise ClientError with the reason if the server, or one model, is not ready. See ``is_ready``."""
        finished(self._calls.require_ready(model))

    def wait_until_ready(self, seconds: float, model: str = "") -> None:
        """Return as soon as the server, or one model, is ready. The server may start or be replaced during the wait.

        Args:
            seconds: the longest wait.
            model: as for ``is_ready``.

        Raises:
            ClientError: the server or model was not ready in time, or the server refuses the call.
        """
        finished(self._calls.wait_until_ready(seconds, model))

    def classify(self, image: Image, model: str, *, version: str = "", top_k: int = 0) -> Classification:
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
            ClientError: the model is unknown, the image cannot be read, or the call failed.
            TypeError: ``image`` is neither bytes nor an array of uint8 pixels.

        Example:
            >>> [label.name for label in client.classify(image, "cnn", top_k=1).labels]
            ['Bag']
        """
        return finished(self._calls.classify(image, model, version=version, top_k=top_k))

    def classify_stream(
        self,
        images: Iterable[Image],
        model: str,
        *,
        version: str = "",
        top_k: int = 0,
        timeout: float | None = None,
    ) -> Iterator[Classification | ClientError]:
        """Classify images over one stream, and yield one outcome for each image, in the order of the images.

        The server reads the next image when it has room, and batches images if it can. If iterating over ``images``
        raises an exception, it is re-raised here, after the outcomes of all earlier images.

        Args:
            images: as for ``classify``, like the other arguments; a generator may produce them one by one.
            timeout: the deadline of the whole stream in seconds; None for no deadline.

        Yields:
            For each image a classification, or a ClientError if the image failed. The stream continues after a failed
            image.

        Raises:
            ClientError: the stream ended before its last answer.
            TypeError: an image is neither bytes nor an array of uint8 pixels.

        Example:
            >>> [outcome.labels[0].name for outcome in client.classify_stream([image, image], "cnn")]
            ['Bag', 'Bag']
        """
        requests = (classification.classify_request(image, model, version, top_k) for image in images)
        for response in self._connection.stream(calls.CLASSIFY_STREAM, requests, timeout):
            yield classification.outcome(response)

    def compare(
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
        return finished(self._calls.compare(image, models, top_k=top_k))

    def infer(self, model: str, inputs: Mapping[str, Array], *, version: str = "") -> Outputs:
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
            ClientError: the model is unknown, an input does not match the model's signature, or the call failed.
            TypeError: an input is not a numpy array.
            ValueError: the protocol has no datatype for an array's dtype.

        Example:
            >>> client.infer("cnn", {"image": np.zeros((2, 28, 28), np.uint8)})["logits"].shape
            (2, 10)
            >>> client.infer("cnn", {"image": np.zeros((2, 28, 28), np.uint8)}).answered_by
            ('cnn',)
        """
        return finished(self._calls.infer(model, inputs, version=version))

    def infer_stream(
        self, model: str, requests: Iterable[Mapping[str, Array]], *, version: str = "", timeout: float | None = None
    ) -> Iterator[Outputs | ClientError]:
        """Run a model on one set of arrays after another over one stream, and yield the outcomes in order.

        If iterating over ``requests`` raises an exception, it is re-raised here, after the outcomes of all earlier
        requests.

        Args:
            requests: a mapping for each request, like the ``inputs`` of ``infer``. The model and the version are named
                as for ``infer``.
            timeout: the deadline of the whole stream in seconds; None for no deadline.

        Yields:
            For each request the result that ``infer`` would return, or a ClientError if the request failed. The stream
            continues after a failed request.

        Raises:
            ClientError: the stream ended before its last answer.
            TypeError: an input is not a numpy array.
            ValueError: the protocol has no datatype for an array's dtype.

        Example:
            >>> images = np.zeros((3, 1, 28, 28), np.uint8)
            >>> [answer["logits"].shape for answer in client.infer_stream("cnn", [{"image": one} for one in images])]
            [(1, 10), (1, 10), (1, 10)]
        """
        messages = (outputs.infer_request(model, inputs, version) for inputs in requests)
        for response in self._connection.stream(calls.INFER_STREAM, messages, timeout):
            yield outputs.outcome(response)

    def parameters(self, model: str, *, version: str = "") -> dict[str, str]:
        """Return the parameters of a model's configuration: its file's metadata, and its execution provider.

        The model and the version are named as for ``infer``.

        Raises:
            ClientError: the model is unknown, or the call failed.

        Example:
            >>> client.parameters("cnn")["hangtag.task"]
            'single_label'
        """
        return finished(self._calls.parameters(model, version=version))

    def models(self) -> list[str]:
        """Return the names of the models that accept requests. A name occurs once, even if several versions of a model
        serve.

        Raises:
            ClientError: the call failed.

        Example:
            >>> client.models()[:3]
            ['cnn', 'cnn-int8', 'cnn-small']
        """
        return finished(self._calls.models())

    def statistics(self) -> list[inference_pb2.ModelStatistics]:
        """Return each model version's statistics since it was loaded, as the protocol's own messages.

        Raises:
            ClientError: the call failed.

        Example:
            >>> sorted(one.name for one in client.statistics() if one.inference_count)
            ['cnn', 'lstm']
        """
        return finished(self._calls.statistics())

    def load_model(self, model: str) -> list[str]:
        """Load or reload a model, wait until it serves, and return its versions that serve.

        Raises:
            ClientError: the server does not run with --model-control explicit, does not have the model, or cannot load
                the model's file; it then continues to serve the previous version. If ``timeout`` passed, the server
                continues to load the model. If the connection broke, the server may have loaded the model; the client
                does not repeat the call.

        Example:
            >>> client.load_model("lstm")
            ['2']
        """
        return finished(self._calls.load_model(model))

    def unload_model(self, model: str) -> None:
        """Unload a model. The model still answers the requests that it already has.

        Raises:
            ClientError: the server does not run with --model-control explicit, or does not serve the model. If the
                connection broke, the server may have unloaded the model; the client does not repeat the call.

        Example:
            >>> client.unload_model("lstm2")
        """
        finished(self._calls.unload_model(model))
