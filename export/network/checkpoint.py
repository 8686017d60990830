"""Load the network of a finished run, with the weights of its best epoch, in the form in which it is served."""

from hangtag.export.errors import ExportError
from hangtag.export.network.served_network import LabelPath, LabelThreshold, ServedNetwork, SingleLabel
from hangtag.training.catalog import NETWORKS, build
from hangtag.training.losses.multi_label import SoftmaxRanking
from hangtag.training.networks.cnn_rnn import CnnRnn
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
            f"or of another version of it. Train anew with: hangtag train {run.model} --out FOLDER"
        ) from error
    return served.eval()


def _build(run: Run) -> ServedNetwork:
    if run.model not in NETWORKS:
        raise ExportError(f"{run.folder} is a run of {run.model!r}; the models known here: {', '.join(NETWORKS)}")
    return SingleLabel(build(run.model)) if NETWORKS[run.model].objective is None else _build_multi_label(run)


def _build_multi_label(run: Run) -> ServedNetwork:
    summary = run.read_metrics()["summary"]
    try:
        labels, threshold = len(summary["labels"]), float(summary["thresholds"]["o_f1"])
    except (KeyError, TypeError, ValueError) as error:
        raise ExportError(
            f"{run.folder / 'metrics.json'} lacks the labels and thresholds of {run.model}; it is of another version "
            f"of it. Train anew with: hangtag train {run.model} --out FOLDER"
        ) from error
    network = build(run.model, labels)
    if isinstance(network, CnnRnn):
        return LabelPath(network)
    return LabelThreshold(network, labels, threshold, rivals=NETWORKS[run.model].objective is SoftmaxRanking)
