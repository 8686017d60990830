"""From what was named on the command line to what is evaluated."""

from pathlib import Path

from hangtag.evaluation.subject import Subject
from hangtag.extras import needs
from hangtag.serving import model_repository
from hangtag.serving.credentials import Credentials


def find(
    name: str,
    *,
    runs_dir: Path,
    server: str | None = None,
    version: str = "",
    timeout: float = 30.0,
    credentials: Credentials = Credentials(),  # noqa: B008 - it cannot change
) -> Subject:
    """A served model where a server is named, else an ONNX file or the folder of one, else a run.

    Each needs what it runs in and no more: a served model no ONNX Runtime, a file no PyTorch. Raises EvaluationError,
    RunMismatchError or ExportError, for a person to read, for what cannot be evaluated.
    """
    if server is not None:
        from hangtag.evaluation.served_subject import ServedSubject

        return ServedSubject(name, server, version, timeout, credentials)
    if (file := model_repository.find_file(name)) is not None:
        with needs("cpu", "evaluating an ONNX file"):
            from hangtag.evaluation.file_subject import FileSubject
        return FileSubject(file)
    with needs("train", "evaluating a run"):
        from hangtag.evaluation.run_subject import RunSubject
        from hangtag.training.runs.run import Run
    return RunSubject(Run.find(name, runs_dir))
