"""A finished run, asked in PyTorch: the network and its answer just as they are exported."""

import torch

from hangtag.evaluation.subject import Array, Outputs, Report, Subject, batches, joined
from hangtag.export.network import checkpoint as trained
from hangtag.export.network.served_network import LabelThreshold
from hangtag.training.runs.run import Run


class RunSubject(Subject):
    """The best epoch's weights, on the CPU."""

    kind = "run"

    def __init__(self, run: Run) -> None:
        """Raises RunMismatchError or ExportError for a run that is not finished or whose weights cannot be used."""
        run.require_finished()
        self._served = trained.load(run)
        self.name, self.task = run.folder.name, self._served.task
        config = run.read_config()
        trial = config.get("limit") is not None
        self.details = {
            "model": run.model,
            "folder": str(run.folder),
            **({"trial": f"it learned from the first {config['limit']:,} images alone"} if trial else {}),
        }
        self.labels = tuple(run.read_metrics()["summary"].get("labels", ()))
        self.dataset = config.get("dataset")
        if isinstance(self._served, LabelThreshold):
            self.threshold = self._served.threshold

    def answer(self, images: Array, report: Report) -> Outputs:
        names = [spec.name for spec in self._served.outputs]
        answers: list[Outputs] = []
        with torch.inference_mode():
            for batch in batches(images, 250):
                outputs = self._served(torch.tensor(batch))
                answers.append({name: output.numpy() for name, output in zip(names, outputs, strict=True)})
                report(len(batch))
        return joined(answers)

    def close(self) -> None:
        del self._served
