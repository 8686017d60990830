"""Measures how many label sets of a multi-label model are right, and how many of the labels in the sets are right."""

import numpy as np
import numpy.typing as npt

from hangtag.evaluation.result import Mistake, Result
from hangtag.evaluation.subject import EvaluationError, Outputs, Subject
from hangtag.training.metrics import set_metrics
from hangtag.training.metrics.class_metrics import per_class

Sets = npt.NDArray[np.bool_]  # [n, labels]: which labels are in the set of an image


def measure(subject: Subject, outputs: Outputs, truth: Sets, labels: tuple[str, ...]) -> Result:
    """Measure a model's outputs against the true label sets. training/metrics/set_metrics.py defines the metrics.

    The metrics of a label treat each image as a binary decision: whether the label is in the image's set. If there are
    no probabilities of sets, the mistakes with the most wrong labels come first.

    Args:
        subject: the model, of which the name and the threshold are used.
        outputs: must have ``probabilities`` [n, labels]. If there is also a ``path`` [n, steps] of label indices, these
            labels form the sets, and the threshold is not used.

    Raises:
        EvaluationError: the outputs have a wrong shape or are not finite, or the model's threshold is unknown.
    """
    probabilities = outputs.get("probabilities")
    if probabilities is None or probabilities.shape != truth.shape:
        actual = "none" if probabilities is None else f"probabilities of the shape {list(probabilities.shape)}"
        raise EvaluationError(
            f"{subject.name} must return probabilities of the shape {list(truth.shape)} for {len(truth)} images, but "
            f"returned {actual}."
        )
    if not np.isfinite(probabilities).all():
        raise EvaluationError(f"{subject.name} returned probabilities that are not finite, so its training failed.")
    if (path := outputs.get("path")) is not None:  # label indices, where -1 is no label
        if path.ndim != 2 or path.max(initial=-1) >= len(labels):
            raise EvaluationError(
                f"{subject.name} returned paths with labels other than the {len(labels)} labels of the data set."
            )
        sets: Sets = (path[:, :, None] == np.arange(len(labels))).any(axis=1)
    elif subject.threshold is not None:
        sets = set_metrics.decide(probabilities, subject.threshold)
    else:
        raise EvaluationError(
            f"{subject.name} decides with a threshold that the server does not report. Evaluate the model's run or "
            "ONNX file instead."
        )
    figures = set_metrics.evaluate(sets, probabilities.astype(np.float32), truth)
    outcomes = [np.bincount(pairs, minlength=4).reshape(2, 2) for pairs in (truth * 2 + sets).T]
    differing, confidence = (sets != truth).sum(axis=1), outputs.get("path_probability")
    wrong = np.flatnonzero(differing)
    worst_first = (differing if confidence is None else confidence)[wrong]
    mistakes = [
        Mistake(
            image=int(image),
            true=tuple(np.array(labels)[truth[image]].tolist()),
            predicted=tuple(np.array(labels)[sets[image]].tolist()),
            probability=None if confidence is None else float(confidence[image]),
        )
        for image in wrong[np.argsort(-worst_first, kind="stable")]
    ]
    return Result(figures, labels, [per_class(each)[1] for each in outcomes], mistakes)
