"""Evaluates a finished run in PyTorch, with the same network and outputs as the exported ONNX file."""

from collections.abc import Iterator

from hangtag.evaluation.subject import Array, Outputs, Subject, batches
from hangtag.export.network import load_run
from hangtag.training.runs import run_data as runs_data
from hangtag.training.runs.run import Run


class RunSubject(Subject):
    """The network of a run with the weights of the best epoch, on the CPU.

    Raises:
        RunMismatchError: the run is not finished.
        ExportError: the run's weights cannot be used.
    """

    kind = "run"

    def __init__(self, run: Run) -> None:
        run.require_finished()
        self._served = load_run(run)
        self.name, self.task = run.folder.name, self._served.task
        self.labels = runs_data.labels(run.metrics["summary"])
        self.config, self.image, self.threshold = run.config, self._served.image, self._served.threshold
        self.details = {"model": run.model, "folder": str(run.folder)}
        if (limit := self.config.get("limit")) is not None:
            self.details["trial"] = f"trained on the first {limit:,} images only"

    def _answers(self, images: Array) -> Iterator[Outputs]:
        for batch in batches(images, 250):
            yield self._served.answer(batch, len(batch))
