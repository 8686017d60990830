"""Evaluates an ONNX file with the same runtime as the server."""

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from hangtag.evaluation.subject import BATCH_SIZE, Array, EvaluationError, Outputs, Subject, batches, sentence
from hangtag.serving import model_repository
from hangtag.serving.server.errors import InferenceError, ModelLoadError
from hangtag.serving.server.runtime.batching_proof import decide_batching
from hangtag.serving.server.runtime.session import Runtime


class FileSubject(Subject):
    """An ONNX file with one image input. The file's metadata contains the task and the labels.

    Args:
        path: the file.
        threads: the number of threads that compute a batch; None for one thread per CPU.

    Raises:
        EvaluationError: the file cannot be loaded, or does not take one image as its input.
    """

    kind = "onnx"

    def __init__(self, path: Path, threads: int | None = None) -> None:
        if not path.is_file():
            raise EvaluationError(f"there is no file {path}.")
        try:
            self._runtime = Runtime(path, threads=threads or len(os.sched_getaffinity(0)))
            decide_batching(self._runtime, BATCH_SIZE)
        except ModelLoadError as error:
            raise EvaluationError(sentence(error)) from error
        self.name, self.details = str(path), {"provider": self._runtime.provider}
        signature = self.signature = self._runtime.signature
        if [spec.datatype for spec in signature.inputs] != ["UINT8"] or len(signature.inputs[0].shape) not in (3, 4):
            raise EvaluationError(
                f"{path} has the inputs {'; '.join(map(str, signature.inputs)) or '(none)'}. A model can be evaluated "
                "if its only input is an image, UINT8 [any, height, width] or [any, height, width, 3]. 'hangtag "
                "export' publishes models with this input."
            )
        self.task, self.labels = signature.task or "single_label", signature.labels
        self.image, self.threshold = signature.image, signature.threshold
        with suppress(KeyError, TypeError, ValueError):  # files that `hangtag export` did not write have no config
            self.config = dict(json.loads(signature.metadata["training"])["config"])
        name, models = path.parent.parent.name, path.parent.parent.parent
        if signature.picture_shape is not None and model_repository.find_file(str(models / name)) is not None:
            self.fit_remedy = f"Record it with: hangtag models fit {name} --models {models} --fit stretch|crop|pad"
        else:
            self.fit_remedy = (
                f"Turn it into a picture classifier with: hangtag import {path} --name {name or path.stem}-pictures "
                "--preprocessing fit=stretch|crop|pad"
            )

    def _answers(self, images: Array) -> Iterator[Outputs]:
        # If a model is not proven to be batchable, an image's outputs may depend on the other images of its batch.
        for batch in batches(images, BATCH_SIZE if self.signature.batched else 1):
            try:
                yield self._runtime.run({self.signature.inputs[0].name: batch})
            except InferenceError as error:
                raise EvaluationError(f"{self.name} fails on the data set's images: {sentence(error)}") from error
