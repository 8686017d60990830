"""Opens the model that a command line names: a served model, an ONNX file, or a run."""

from pathlib import Path

from hangtag.evaluation.errors import NAMING_AN_EXPORTED_MODEL, EvaluationError
from hangtag.evaluation.subject import Subject
from hangtag.extras import needs
from hangtag.serving import model_repository
from hangtag.serving.credentials import Credentials


def open_subject(
    name: str,
    *,
    runs_dir: Path,
    server: str | None = None,
    version: str = "",
    timeout: float = 30.0,
    credentials: Credentials = Credentials(),  # noqa: B008 - it cannot change
) -> Subject:
    """Open a model of ``server`` if a server is given, else an ONNX file or a model's folder, else a run.

    Evaluating a served model does not import ONNX Runtime, and evaluating a file does not import PyTorch.

    Args:
        name: the name of a served model, an ONNX file, a model's folder, a run's folder, or a name of a run or network.
        runs_dir: the folder in which a run's name is looked up.
        server: HOST:PORT.
        version: a served model's version; "" for the version that serves.
        timeout: the deadline of each request in seconds.
        credentials: the credentials for a server with TLS or tokens.

    Raises:
        EvaluationError: the model cannot be loaded or called.
        CredentialsError: a TLS or token file cannot be read.
        RunMismatchError: there is no such run, or the run is not finished.
        ExportError: the run's weights cannot be used.
        MissingExtraError: the packages that the model runs in are not installed.
    """
    if server is not None:
        from hangtag.evaluation.served_subject import ServedSubject

        return ServedSubject(name, server, version, timeout, credentials)
    if (file := model_repository.find_file(name)) is not None:
        with needs("cpu", "evaluating an ONNX file"):
            from hangtag.evaluation.file_subject import FileSubject
        return FileSubject(file)
    folder = Path(name)
    if model_repository.is_route(folder.parent, folder.name):
        raise EvaluationError(
            f"{name} is a route, which only a server can run. Evaluate the route on a server: hangtag evaluate "
            f"{folder.name} --server HOST:PORT."
        )
    with needs("train", "evaluating a run"):
        from hangtag.evaluation.run_subject import RunSubject
        from hangtag.training.runs.run import Run
    return RunSubject(Run.find(name, runs_dir, alternative=NAMING_AN_EXPORTED_MODEL))
