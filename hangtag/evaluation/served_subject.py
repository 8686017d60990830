"""Evaluates a model of a running server, with several requests in flight and the largest batches that the model
accepts."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import grpc

from hangtag.evaluation.subject import BATCH_SIZE, Array, EvaluationError, Outputs, Subject, batches, sentence
from hangtag.serving.client import Client, ClientError, Credentials
from hangtag.serving.client import Outputs as Inferred
from hangtag.serving.image_spec import ImageSpec

IN_FLIGHT = 4
INPUT = "image"
PREFIX = "hangtag."


class ServedSubject(Subject):
    """A model on a server that implements the Open Inference Protocol. A hangtag server also reports the labels and the
    task.

    Args:
        model: the model's name.
        address: HOST:PORT of the server.
        version: one of the model's versions; "" for the version that serves.
        timeout: the deadline of each request in seconds.
        credentials: the credentials for a server with TLS or tokens.

    Raises:
        EvaluationError: no server answers, or the server has no such model.
        CredentialsError: a TLS or token file cannot be read.
    """

    kind = "server"

    def __init__(self, model: str, address: str, version: str, timeout: float, credentials: Credentials) -> None:
        self._open = partial(Client, address, timeout=timeout, credentials=credentials)
        self.name, self._version = model, version
        self.task, self.details = "single_label", {"address": address}
        self._read_description()

    def _answers(self, images: Array) -> Iterator[Outputs]:
        try:
            with self._open() as client, ThreadPoolExecutor(IN_FLIGHT, thread_name_prefix="evaluate") as pool:

                def infer(batch: Array) -> Inferred:
                    return client.infer(self.name, {INPUT: batch}, version=self._version)

                parts = batches(images, _largest_batch(infer, images))
                for answer in pool.map(infer, parts):  # after an error, map cancels the other calls
                    if answer.version:
                        self.details["version"] = answer.version
                    yield answer
        except ClientError as error:
            raise self._failure(error) from error

    def _read_description(self) -> None:
        """Read the labels, the task and the training from the model's configuration.

        Other servers, and files that hangtag did not write, do not have these parameters.
        """
        try:
            with self._open() as client:
                parameters = client.parameters(self.name, version=self._version)
        except ClientError as error:
            if error.code is grpc.StatusCode.UNIMPLEMENTED:
                return
            raise self._failure(error) from error
        metadata = {key.removeprefix(PREFIX): value for key, value in parameters.items() if key.startswith(PREFIX)}
        try:
            self.task = metadata.get("task", self.task)
            self.labels = tuple(json.loads(metadata["labels"])) if "labels" in metadata else ()
            self.threshold = float(metadata["threshold"]) if "threshold" in metadata else None
            self.config = dict(json.loads(metadata["training"])["config"]) if "training" in metadata else None
            self.image = ImageSpec.parse(metadata["image"]) if "image" in metadata else None
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise EvaluationError(
                f"{self.name} at {self.details['address']} has a configuration in which the parameter hangtag.labels, "
                f"hangtag.threshold, hangtag.training or hangtag.image cannot be read ({error})."
            ) from error
        if "classifies_images" in parameters:
            self.fit_remedy = f"Record it with: hangtag models fit {self.name} --fit stretch|crop|pad"

    def _failure(self, error: ClientError) -> EvaluationError:
        return EvaluationError(f"{self.name} at {self.details['address']}: {sentence(error)}")


def _largest_batch(infer: Callable[[Array], object], images: Array) -> int:
    """Find the largest batch that the model accepts, by halving BATCH_SIZE until a call succeeds."""
    size = min(BATCH_SIZE, len(images))
    while size > 1:
        try:
            infer(images[:size])
        except ClientError as error:
            if error.code is not grpc.StatusCode.INVALID_ARGUMENT:
                raise
            size //= 2
        else:
            break
    return size
