"""Opens a model to evaluate: a run in PyTorch, an ONNX file in ONNX Runtime, or a model of a server.

Each function imports what its kind of model needs, because evaluating a served model needs neither PyTorch nor ONNX
Runtime, and evaluating a file does not need PyTorch.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt

from hangtag.errors import UserError
from hangtag.extras import needs
from hangtag.printable import named
from hangtag.serving.client import Client, ClientError
from hangtag.serving.client import Outputs as Inferred
from hangtag.serving.credentials import Credentials
from hangtag.serving.image_spec import ImageSpec
from hangtag.serving.server.errors import InferenceError, ModelLoadError
from hangtag.serving.signature import PREFIX, Signature
from hangtag.training.data import fashion_mnist, outfits
from hangtag.training.runs import run_data
from hangtag.training.runs.run import Run

Array = npt.NDArray[Any]
Outputs = Mapping[str, Array]

_BATCH_SIZE = 64
"""The number of images in a batch, equal to the default max_batch_size of `hangtag serve`."""
_IN_FLIGHT = 4
"""The number of calls to a server at the same time."""

_UNKNOWN = Signature((), ())


class EvaluationError(UserError):
    """The model cannot be loaded or called, or does not return the outputs of a classifier for the data set."""


def sentence(error: Exception) -> str:
    """Return an error's message with exactly one full stop at its end."""
    return f"{str(error).rstrip('. ')}."


@dataclass
class Subject:
    kind: str  # "run", "onnx" or "server"
    name: str  # for messages and titles
    task: str  # "single_label" or "multi_label"
    details: dict[str, str]  # texts that identify the model: version, folder, address
    compute: Callable[[Array], Iterable[Outputs]]  # yields the outputs of images in batches, in order
    labels: tuple[str, ...] = ()  # empty if the model does not name its labels
    config: Mapping[str, Any] | None = None  # the config.json of the model's run, if known
    image: ImageSpec | None = None  # how a picture is turned into the model's input, if known
    threshold: float | None = None  # multi-label: the lowest probability at which a label is in the set, if known
    signature: Signature = _UNKNOWN  # a file's inputs, outputs and metadata; empty for other kinds

    @property
    def dataset(self) -> str | None:
        """The data set on which the model was trained; None if config, task and labels do not show it."""
        if self.config is not None:
            return str(self.config.get("dataset", fashion_mnist.NAME))  # old configs do not name Fashion-MNIST
        if self.task != "single_label":
            return outfits.NAMES[0]
        return fashion_mnist.NAME if self.labels == fashion_mnist.LABELS else None

    def answer(self, images: Array, progress: Callable[[int], object] = str) -> Outputs:
        """Run the model on all images, uint8 [n, height, width] or [n, height, width, 3]. Return the outputs by name.

        After each batch, ``progress`` is called with the number of images in the batch. Raises EvaluationError if the
        model returns an error.
        """
        answers: list[Outputs] = []
        for answer in self.compute(images):
            progress(len(next(iter(answer.values()))))
            answers.append(answer)
        return {name: np.concatenate([each[name] for each in answers]) for name in answers[0]}

    def require_labels(self, labels: tuple[str, ...]) -> None:
        """Raise EvaluationError if the model has labels other than the data set's labels."""
        if self.labels and self.labels != labels:
            raise EvaluationError(
                f"{self.name} has the labels {named(self.labels)}, but the data set has the labels {named(labels)}, "
                "in this order."
            )


def of_run(run: Run) -> Subject:
    """Open a finished run: its network with the weights of the best epoch, on the CPU. Raises RunMismatchError if the
    run is not finished, and ExportError if its weights cannot be used."""
    with needs("train", "evaluating a run"):
        from hangtag.export.network import load_run
    run.require_finished()
    served, config = load_run(run), run.config
    details = {"model": run.model, "folder": str(run.folder)}
    if (limit := config.get("limit")) is not None:
        details["trial"] = f"trained on {limit:,} images only"

    def compute(images: Array) -> Iterator[Outputs]:
        return (served.answer(batch, len(batch)) for batch in _batches(images, 250))

    return Subject(
        "run", run.folder.name, served.task, details, compute, labels=run_data.labels(run.metrics["summary"]),
        config=config, image=served.image, threshold=served.threshold,
    )  # fmt: skip


def of_file(path: Path, threads: int | None = None) -> Subject:
    """Open an ONNX file, whose metadata contains the task and the labels. ``threads`` threads compute a batch, by
    default one per CPU. Raises EvaluationError if the file cannot be loaded, or if its input is not one image."""
    with needs("cpu", "evaluating an ONNX file"):
        from hangtag.serving.server.runtime.batching_proof import decide_batching
        from hangtag.serving.server.runtime.session import Runtime
    if not path.is_file():
        raise EvaluationError(f"there is no file {path}.")
    try:
        runtime = Runtime(path, threads=threads or len(os.sched_getaffinity(0)))
        decide_batching(runtime, _BATCH_SIZE)
    except ModelLoadError as error:
        raise EvaluationError(sentence(error)) from error
    signature = runtime.signature
    if [spec.datatype for spec in signature.inputs] != ["UINT8"] or len(signature.inputs[0].shape) not in (3, 4):
        raise EvaluationError(
            f"{path} has the inputs {'; '.join(map(str, signature.inputs)) or '(none)'}. A model can be evaluated "
            "if its only input is an image, UINT8 [any, height, width] or [any, height, width, 3]. 'hangtag "
            "export' publishes models with this input."
        )

    def compute(images: Array) -> Iterator[Outputs]:
        # Without a proof that batches are safe, an image's outputs may depend on the other images of its batch.
        for batch in _batches(images, _BATCH_SIZE if signature.batched else 1):
            try:
                yield runtime.run({signature.inputs[0].name: batch})
            except InferenceError as error:
                raise EvaluationError(f"{path} fails on the data set's images: {sentence(error)}") from error

    return Subject(
        "onnx", str(path), signature.task or "single_label", {"provider": runtime.provider}, compute,
        labels=signature.labels, config=_config(signature), image=signature.image, threshold=signature.threshold,
        signature=signature,
    )  # fmt: skip


def of_server(model: str, address: str, version: str, timeout: float, credentials: Credentials) -> Subject:
    """Open a model on a server that implements the Open Inference Protocol. For the version "", the server chooses one.
    ``timeout`` is the deadline of each request in seconds.

    Raises:
        EvaluationError: no server answers, or the server has no such model.
        CredentialsError: a TLS or token file cannot be read.
    """
    connect = partial(Client, address, timeout=timeout, credentials=credentials)
    details = {"address": address}

    def failure(error: ClientError) -> EvaluationError:
        return EvaluationError(f"{model} at {address}: {sentence(error)}")

    def compute(images: Array) -> Iterator[Outputs]:
        try:
            with connect() as client, ThreadPoolExecutor(_IN_FLIGHT, thread_name_prefix="evaluate") as pool:

                def infer(batch: Array) -> Inferred:
                    return client.infer(model, {"image": batch}, version=version)

                for answer in pool.map(infer, _batches(images, _largest_batch(infer, images))):
                    if answer.version:
                        details["version"] = answer.version
                    yield answer
        except ClientError as error:
            raise failure(error) from error

    parameters: Mapping[str, str] = {}
    try:
        with connect() as client:
            parameters = client.parameters(model, version=version)
            routed = [member.partition("@") for member in parameters.get("route_members", "").split(", ") if member]
            members = [client.parameters(member, version=number) for member, _, number in routed]
        if len({member.get("hangtag.data_digest") for member in members}) == 1:  # their test pictures are the same
            parameters = {**members[0], **parameters}
    except ClientError as error:
        if error.code is not grpc.StatusCode.UNIMPLEMENTED:  # other servers need not describe their models
            raise failure(error) from error
    try:
        metadata = {key.removeprefix(PREFIX): text for key, text in parameters.items() if key.startswith(PREFIX)}
        described = Signature((), (), metadata)
        return Subject(
            "server", model, described.task or "single_label", details, compute,
            labels=described.labels, config=_config(described),
            image=ImageSpec.parse(metadata["image"]) if "image" in metadata else None,
            threshold=described.threshold if "threshold" in metadata else None,
        )  # fmt: skip
    except (ValueError, RecursionError) as error:
        raise EvaluationError(f"{model} at {address} has a configuration that cannot be read: {error}.") from error


def _config(signature: Signature) -> Mapping[str, Any] | None:
    """Return the config of the run that trained the model. Files that `hangtag export` did not write have no config."""
    try:
        return dict(json.loads(signature.metadata["training"])["config"])
    except (KeyError, TypeError, ValueError, RecursionError):
        return None


def _batches(images: Array, size: int) -> list[Array]:
    return [images[at : at + size] for at in range(0, len(images), size)]


def _largest_batch(infer: Callable[[Array], object], images: Array) -> int:
    """Find the largest batch that a served model accepts, by halving the size until a call succeeds."""
    size = min(_BATCH_SIZE, len(images))
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
