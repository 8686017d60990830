"""Write the table of the models, and the parts of pages that show figures from the models' files."""

import json
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from hangtag.evaluation.plots import confusion_matrix
from hangtag.export.repository.inventory import Entry
from hangtag.training.runs.config import command
from studies.page import Part, percent, short_revision, table
from studies.pictures import Picture
from studies.shipped import pictures, speed
from studies.shipped.models import accuracy, parameters, read, serving
from studies.shipped.run import MODELS

PUBLISHED = {"lstm": (0.9024, 0.8996), "lstm2": (0.9110, 0.9050), "cnn": (0.9130, 0.9094)}
"""The peak and the final validation accuracy that the study published (studies/finished/accuracy.md)."""
_HEAD = (
    "model", "recipe", "parameters", "file", "validation, kept epoch", "last epoch", "test accuracy",
    "study: peak / final",
)  # fmt: skip
_PRECISIONS = ("model", "file", "test accuracy", "PyTorch's test accuracy", "same answer as PyTorch")


def figures_part() -> str:
    """Return the tables of the networks, in FP32 and in other precisions."""
    shipped = [_row(model) for model in read() if model.precision == "fp32"]
    precisions = [_precision_row(model) for model in serving(fp32=False)]
    return f"""{table(_HEAD, shipped, right=6)}

A server serves the latest version of a model.
The study's figures are of one run of each network with Keras, on the validation split, not on the test set.

![Learning curves](learning-curves.png)

## Other precisions

[The reference](/docs/reference/export.md) describes each precision, and what a file must reach to be published.

{table(_PRECISIONS, precisions, right=4)}"""


def _title(model: Entry) -> str:
    return f"`{model.name}` version {model.version}"


def _row(model: Entry) -> tuple[str, ...]:
    summary = model.json("training")["metrics"]["summary"]
    return (
        _title(model),
        model.metadata["recipe"],
        f"{parameters(model):,}",
        f"{model.megabytes:.1f} MB",
        f"{summary['validation']['accuracy']:.2%} (epoch {summary['best_epoch']})",
        f"{summary['final_validation_accuracy']:.2%}",
        f"{accuracy(model):.2%}",
        " / ".join(map(percent, PUBLISHED.get(model.name, ()))),
    )


def _precision_row(model: Entry) -> tuple[str, ...]:
    agreement = model.gate["agreement"]
    shares = (f"{agreement[key]:.2%}" for key in ("accuracy", "pytorch_accuracy", "agreement"))
    return _title(model), f"{model.megabytes:.1f} MB", *shares


def details_part() -> str:
    """Return a section for each network."""
    return "\n\n".join(_section(model) for model in serving())


def _section(model: Entry) -> str:
    config, metadata, parity = model.json("training")["config"], model.metadata, model.gate["parity"]
    differences = parity["max_logit_difference"]["test"]
    trained_here = any(Path(teacher["path"]).parts[0] == "runs" for teacher in config["teachers"])
    teachers = "[the teachers](/studies/finished/accuracy.md#teachers), which do not ship; " if trained_here else ""
    return f"""## {model.name}

- Reproduce: {teachers}`{command(config)}`, then `hangtag export {model.name}`
- Trained {metadata["trained"]} with PyTorch {json.loads(metadata["versions"])["torch"]} on {config["device"]}, \
{config["threads"]} thread{"s" if config["threads"] > 1 else ""}, {config["precision"]}; source revision \
`{short_revision(metadata["git_revision"])}`
- Logits within {max(differences.values()):.1e} of PyTorch at batch {", ".join(differences)} \
(allowed {parity["limit"]:g}), and the same class for each of the 10,000 test images

![Confusion matrix of {model.name}](confusion-{model.name}.png)"""


def _confusion(name: str) -> Figure:
    """Draw a network's confusion matrix. A colour means the same share of images in all matrices."""
    (model,) = [model for model in serving() if model.name == name]
    counts = np.asarray(model.json("training")["metrics"]["summary"]["test"]["confusion"])
    title = f"{name}: {counts.trace() / counts.sum():.2%} of {counts.sum():,} test images"
    return confusion_matrix(counts, model.json("labels"), title, darkest=0.15)


PARTS = (
    Part("studies/shipped/README.md", figures_part, "figures"),
    Part("studies/shipped/README.md", details_part, "details"),
    Part("README.md", speed.part, "models"),
)
PICTURES = (
    Picture("docs/images/accuracy-and-speed.png", lambda: pictures.accuracy_and_speed(speed.measured()), colours=128),
    Picture(
        "studies/shipped/learning-curves.png",
        lambda: pictures.learning_curves(
            {model.name: model.json("training")["metrics"]["epochs"] for model in serving()}
        ),
    ),
    *(Picture(f"studies/shipped/confusion-{name}.png", partial(_confusion, name), colours=128) for name in MODELS),
)
