"""A finished run -> its network, with the weights of its best epoch, as it is served."""

from hangtag.export.errors import ExportError
from hangtag.export.network.served_network import Classifier, LabelPath, LabelThreshold, Served
from hangtag.training.catalog import NETWORKS, build
from hangtag.training.losses.multi_label import SoftmaxRanking
from hangtag.training.networks.cnn_rnn import CnnRnn
from hangtag.training.runs.run import Run


def load(run: Run) -> Served:
    """In evaluation mode. Raises ExportError for a model that is not known and for weights that do not fit it."""
    served = _fresh(run)
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


def _fresh(run: Run) -> Served:
    if run.model not in NETWORKS:
        raise ExportError(f"{run.folder} is a run of {run.model!r}; the models known here: {', '.join(NETWORKS)}")
    return Classifier(build(run.model)) if NETWORKS[run.model].objective is None else _several_labels(run)


def _several_labels(run: Run) -> Served:
    summary = run.read_metrics()["summary"]
    try:
        labels, threshold = len(summary["labels"]), float(summary["thresholds"]["o_f1"])
    except (KeyError, TypeError, ValueError) as error:
        raise ExportError(
            f"{run.folder / 'metrics.json'} does not tell the labels and thresholds of {run.model}; it is of another "
            f"version of it. Train anew with: hangtag train {run.model} --out FOLDER"
        ) from error
    network = build(run.model, labels)
    if isinstance(network, CnnRnn):
        return LabelPath(network)
    return LabelThreshold(network, labels, threshold, rivals=NETWORKS[run.model].objective is SoftmaxRanking)
