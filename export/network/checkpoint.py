"""Load the network of a finished run, with the weights of its best epoch, in the form in which it is served."""

from hangtag.export.errors import ExportError
from hangtag.export.network.served_network import LabelPath, LabelThreshold, ServedNetwork, SingleLabel
from hangtag.training import catalog
from hangtag.training.errors import SettingsError
from hangtag.training.losses.multi_label import SoftmaxRanking
from hangtag.training.networks.cnn_rnn import CnnRnn
from hangtag.training.runs import data
from hangtag.training.runs.run import Run


def load(run: Run) -> ServedNetwork:
    """Load ``best.pt`` of a run into its network, in evaluation mode.

    Raises:
        ExportError: the run's model is unknown, or the weights do not fit it.
        RunMismatchError: ``best.pt`` cannot be read.
    """
    served = _build(run)
    state = run.load("best.pt")
    try:
        served.network.load_state_dict(state["model"])
    except (KeyError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ExportError(
            f"the weights in {run.folder / 'best.pt'} do not fit {run.model} ({reason}). They are of another network, "
            f"or of another version of it. Train it again with: hangtag train {run.model} --out FOLDER"
        ) from error
    return served.eval()


def _build(run: Run) -> ServedNetwork:
    config, summary = run.read_config(), run.read_metrics()["summary"]
    labels, image = data.labels(summary), data.image(config)
    try:
        entry = catalog.entry(run.model)
        network = entry.build(len(labels), image)
    except SettingsError as error:
        raise ExportError(f"{run.folder} is a run of {run.model!r}, which cannot be built here: {error}") from error
    if entry.objective is None:
        return SingleLabel(network, image, len(labels))
    if isinstance(network, CnnRnn):
        return LabelPath(network, image)
    try:
        threshold = float(summary["thresholds"]["o_f1"])
    except (KeyError, TypeError, ValueError) as error:
        raise ExportError(
            f"{run.folder / 'metrics.json'} lacks the thresholds of {run.model}; it is of another version of it. Train "
            f"it again with: hangtag train {run.model} --out FOLDER"
        ) from error
    return LabelThreshold(network, image, len(labels), threshold, rivals=entry.objective is SoftmaxRanking)
