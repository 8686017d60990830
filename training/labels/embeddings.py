"""Where a trained network keeps its embeddings of the labels.

A CNN-RNN has them by design: one matrix is read from and scored by (Wang et al., CVPR 2016, U_l). In any other network
the last layer's weights play that part: a label's score is the inner product of the picture's features with its row.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hangtag.training.data.fashion_mnist import LABELS
from hangtag.training.errors import RunMismatchError
from hangtag.training.labels.distance import LabelDistances, from_embeddings
from hangtag.training.runs.run import RESTART_HINT, Run

EMBEDDINGS = "embeddings.weight"


class Embeddings(NamedTuple):
    """vectors [labels, dim], and the name of the parameter that they are the values of."""

    parameter: str
    vectors: npt.NDArray[Any]

    @property
    def origin(self) -> str:
        """What kind of embeddings they are, in words."""
        return "label embeddings" if self.parameter == EMBEDDINGS else "weights of the last layer"


def of_run(run: Run) -> LabelDistances:
    """The distances that a finished run's best weights tell.

    Raises RunMismatchError for a run that is not finished or whose weights hold no embedding of every label, and
    LabelDistanceError for embeddings that tell no distances.
    """
    run.require_finished()
    labels = run.read_metrics()["summary"].get("labels", LABELS)  # a run of several labels says its own
    state = run.load("best.pt").get("model")
    found = (
        find({name: value.numpy() for name, value in state.items()}, len(labels))
        if isinstance(state, Mapping)
        else None
    )
    if found is None:
        raise RunMismatchError(
            f"{run.folder / 'best.pt'} holds no weights with a row for each of the {len(labels)} labels. {RESTART_HINT}"
        )
    config = run.read_config()
    provenance = {
        "from": found.origin,
        "parameter": found.parameter,
        "model": run.model,
        "recipe": config.get("recipe", {}).get("name"),
        "seed": config.get("seed"),
        "git_revision": config.get("environment", {}).get("git_revision"),
    }
    return from_embeddings(labels, found.vectors, provenance)


def find(parameters: Mapping[str, npt.NDArray[Any]], labels: int) -> Embeddings | None:
    """The embeddings of so many labels among a network's parameters, in its order: by their name, else the last matrix
    of floats with a row for each label. A CNN-RNN's last row, which is the mark's, is left out.
    """
    named = parameters.get(EMBEDDINGS)
    if named is not None:
        return Embeddings(EMBEDDINGS, named[:labels]) if len(named) == labels + 1 else None
    for name, value in reversed(list(parameters.items())):
        if value.ndim == 2 and len(value) == labels and np.issubdtype(value.dtype, np.floating):
            return Embeddings(name, value)
    return None
