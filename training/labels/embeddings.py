"""Finds the embeddings of the labels among a trained network's parameters.

CNN-RNN has a matrix of them (Wang et al., CVPR 2016, U_l). In any other network, the rows of the last layer's weights
are the embeddings: a label's score is the inner product of the image's features with its row.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

_CNN_RNN_PARAMETER = "embeddings.weight"


class Embeddings(NamedTuple):
    """The embeddings [labels, dim], and the name of the parameter that holds them."""

    parameter: str
    vectors: npt.NDArray[Any]

    @property
    def origin(self) -> str:
        """The kind of the embeddings, in words."""
        return "label embeddings" if self.parameter == _CNN_RNN_PARAMETER else "weights of the last layer"


def find_embeddings(parameters: Mapping[str, npt.NDArray[Any]], labels: int) -> Embeddings | None:
    """The embeddings of the labels; None if no parameter can hold them.

    CNN-RNN's are found by name, without END's row; others are the last matrix of floats with one row per label.

    Args:
        parameters: The network's parameters, in its order.
        labels: The number of labels.
    """
    named = parameters.get(_CNN_RNN_PARAMETER)
    if named is not None:
        return Embeddings(_CNN_RNN_PARAMETER, named[:labels]) if len(named) == labels + 1 else None
    for name, value in reversed(list(parameters.items())):
        if value.ndim == 2 and len(value) == labels and np.issubdtype(value.dtype, np.floating):
            return Embeddings(name, value)
    return None
