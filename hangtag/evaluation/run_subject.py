"""Evaluates a finished run in PyTorch, with the same network and outputs as the exported ONNX file."""

from hangtag.evaluation.subject import Array, Outputs, Progress, Subject
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
        config = run.config
        trial = config.get("limit") is not None
        self.details = {
            "model": run.model,
            "folder": str(run.folder),
            **({"trial": f"trained on the first {config['limit']:,} images only"} if trial else {}),
        }
        self.labels = runs_data.labels(run.metrics["summary"])
        self.config, self.image = config, self._served.image
        self.threshold = self._served.threshold

    def answer(self, images: Array, progress: Progress = str) -> Outputs:
        return self._served.answer(images, 250, progress)
