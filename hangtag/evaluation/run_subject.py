"""Evaluate a finished run in PyTorch, with the same network and outputs that an export would have."""

import torch

from hangtag.evaluation.subject import Array, Outputs, Progress, Subject, batches, concatenated
from hangtag.export.network import LabelThreshold, load_run
from hangtag.training.runs import data as runs_data
from hangtag.training.runs.run import Run


class RunSubject(Subject):
    """A run's weights of the best epoch, on the CPU.

    Raises:
        RunMismatchError: the run is not finished.
        ExportError: its weights cannot be used.
    """

    kind = "run"

    def __init__(self, run: Run) -> None:
        run.require_finished()
        self._served = load_run(run)
        self.name, self.task = run.folder.name, self._served.task
        config = run.read_config()
        trial = config.get("limit") is not None
        self.details = {
            "model": run.model,
            "folder": str(run.folder),
            **({"trial": f"trained on the first {config['limit']:,} images only"} if trial else {}),
        }
        self.labels = runs_data.labels(run.read_metrics()["summary"])
        self.config, self.image = config, self._served.image
        if isinstance(self._served, LabelThreshold):
            self.threshold = self._served.threshold

    def answer(self, images: Array, progress: Progress) -> Outputs:
        names = [spec.name for spec in self._served.outputs]
        answers: list[Outputs] = []
        with torch.inference_mode():
            for batch in batches(images, 250):
                outputs = self._served(torch.tensor(batch))
                answers.append({name: output.numpy() for name, output in zip(names, outputs, strict=True)})
                progress(len(batch))
        return concatenated(answers)

    def close(self) -> None:
        del self._served
