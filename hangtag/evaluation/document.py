"""Writes an evaluation as JSON for programs. The fields are those of `document` and of the result.

Within a version of the schema, fields are only added. The rows and columns of the confusion matrix are in the order of
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
"""The largest number of mistakes in a document. A document lists the most confident mistakes."""


def document(subject: Subject, data: Samples, result: SingleLabelResult | MultiLabelResult) -> dict[str, Any]:
    """Build the document of an evaluation.

    The field `details` of a run has its folder, its model and whether it is a trial. For a served model the field has
    the address and the version. The field `split` is "samples" for the user's own pictures.
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
