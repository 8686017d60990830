"""Measures the label distances of a finished run, from the label embeddings in its best weights."""

from collections.abc import Mapping

from hangtag.training.errors import RunMismatchError
from hangtag.training.labels.distance import LabelDistances, from_embeddings
from hangtag.training.labels.embeddings import find_embeddings
from hangtag.training.runs import data
from hangtag.training.runs.files import RESTART_HINT
from hangtag.training.runs.run import Run


def run_distances(run: Run) -> LabelDistances:
    """The label distances of a finished run.

    Raises:
        RunMismatchError: The run is not finished, or its weights hold no embedding of every label.
        LabelDistanceError: The embeddings define no distances: one is zero or not finite, or all are parallel.
    """
    run.require_finished()
    labels = data.labels(run.read_metrics()["summary"])
    state = run.load("best.pt").get("model")
    parameters = {name: value.numpy() for name, value in state.items()} if isinstance(state, Mapping) else {}
    embeddings = find_embeddings(parameters, len(labels))
    if embeddings is None:
        raise RunMismatchError(
            f"{run.folder / 'best.pt'} holds no weights with a row for each of the {len(labels)} labels. {RESTART_HINT}"
        )
    config = run.read_config()
    provenance = {
        "from": embeddings.origin,
        "parameter": embeddings.parameter,
        "model": run.model,
        "recipe": config.get("recipe", {}).get("name"),
        "seed": config.get("seed"),
        "git_revision": config.get("environment", {}).get("git_revision"),
    }
    return from_embeddings(labels, embeddings.vectors, provenance)
