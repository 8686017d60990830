"""Writes an evaluation as JSON for programs. The function `document` and the result's class define the fields.

Adding a field does not change the schema's version. The rows and columns of the confusion matrix are in the order of
the field `labels`; all other fields give labels by name.
"""

from dataclasses import asdict
from typing import Any

from hangtag.evaluation.multi_label import MultiLabelResult
from hangtag.evaluation.samples import Samples
from hangtag.evaluation.single_label import SingleLabelResult
from hangtag.evaluation.subject import Subject

SCHEMA = "hangtag.evaluation/2"
MISTAKES = 100
"""A document lists at most this many mistakes, the most confident ones."""


def document(subject: Subject, data: Samples, result: SingleLabelResult | MultiLabelResult) -> dict[str, Any]:
    """Build the document of an evaluation.

    For a run, the field `details` has the run's folder and model, and whether the run is a trial. For a served model,
    the field has the server's address and the model's version. The field `split` is "samples" for the user's own
    pictures.
    """
    classes = zip(result.labels, result.classes, strict=True)
    return {
        "schema": SCHEMA,
        "subject": {
            "kind": subject.kind,
            "name": subject.name,
            "task": subject.task,
            "details": dict(subject.details),
        },
        "data": {"dataset": data.dataset, "split": data.split, "images": len(data), "source": data.source},
        **asdict(result),
        "classes": [{"label": label, **asdict(figures)} for label, figures in classes],
        "mistakes": [asdict(mistake) for mistake in result.mistakes[:MISTAKES]],
    }
