"""Writes docs/models.md from the models' own files, and the README's table."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from hangtag.training.runs.config import command
from studies.accuracy.report import STUDY
from studies.calibration import section as calibration_section
from studies.page import Part, percent, short_revision
from studies.pictures import Picture, confusion_matrix
from studies.shipped import label_sets_part, measured, pictures, readme_part
from studies.shipped.measured import REPOSITORY
from studies.shipped.models import ShippedModel, read_all, read_earlier, read_precisions
from studies.shipped.run import MODELS
from studies.training_runs import RUNS

INTRODUCTION = """\
# The shipped models

*Made by `make docs`; do not edit. Every figure on this page comes from the models' own ONNX files in
[models/](../models); `hangtag models show NAME` prints a file's figures.*

This code trained each model on the study's split: the first 5,000 training images validate, the other 55,000 train.
Recipe `study` is the study's own (Adam, batch 32, ten epochs, dropout); `best` and `same-view` go further with the same
network, see [study.md](study.md). The epoch with the best validation accuracy is kept; the test set is used once, after
that.

| model | recipe | parameters | file | validation, kept epoch | last epoch | test accuracy | study: peak / final |
| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |
"""


def page(
    shipped: Sequence[ShippedModel],
    precisions: Sequence[ShippedModel],
    sets: Sequence[ShippedModel],
    earlier: Sequence[ShippedModel] = (),
    calibration: Sequence[str] = (),
) -> str:
    """The page, in Markdown.

    Args:
        shipped: Models of one label.
        precisions: The same models in other precisions.
        sets: Models of several labels.
        earlier: Earlier versions of models of one label, which get a row in the first table alone.
        calibration: The lines of the section about calibration.
    """
    lines = INTRODUCTION.splitlines()
    for model in shipped:
        lines += [_row(version) for version in (model, *(old for old in earlier if old.name == model.name))]
    lines += [
        "",
        "A server serves the latest version of a model.",
        "The study published its figures: Keras, one run each, validation split, test set not used.",
        "",
        "![Learning curves](images/learning-curves.png)",
        "",
    ]
    if precisions:
        lines += _precisions(precisions)
    lines += calibration
    for model in shipped:
        lines += _section(model)
    lines += label_sets_part.section(sets)
    return "\n".join(lines)


def _row(model: ShippedModel) -> str:
    summary = model.summary
    published = STUDY.get(model.name)
    study = f"{percent(published.peak)} / {percent(published.final)}" if published else ""
    return (
        f"| `{model.name}` version {model.version} | {model.metadata['recipe']} "
        f"| {int(model.metadata['parameters']):,} "
        f"| {model.megabytes:.1f} MB "
        f"| {summary['validation']['accuracy']:.2%} (epoch {summary['best_epoch']}) "
        f"| {summary['final_validation_accuracy']:.2%} | {float(model.metadata['test_accuracy']):.2%} "
        f"| {study} |"
    )


def _precisions(models: Sequence[ShippedModel]) -> list[str]:
    rows = []
    for model in models:
        agreement = json.loads(model.metadata["gate"])["agreement"]
        rows.append(
            f"| `{model.name}` version {model.version} | {model.megabytes:.1f} MB "
            f"| {agreement['accuracy']:.2%} | {agreement['pytorch_accuracy']:.2%} | {agreement['agreement']:.2%} |"
        )
    return [
        "## Other precisions",
        "",
        "[export.md](export.md) describes each precision, and what a file must reach to be published.",
        "",
        "| model | file | test accuracy | PyTorch's test accuracy | same answer as PyTorch |",
        "| --- | ---: | ---: | ---: | ---: |",
        *rows,
        "",
    ]


def _section(model: ShippedModel) -> list[str]:
    config, metadata = model.config, model.metadata
    parity = json.loads(metadata["parity"])
    worst = max(parity["max_logit_difference"].values())
    versions = json.loads(metadata["versions"])
    threads = f"{config['threads']} thread{'s' if config['threads'] > 1 else ''}"
    return [
        f"## {model.name}",
        "",
        f"- Reproduce: {_with_teachers(config)}`{command(config)}`, then `hangtag export {model.name}`",
        f"- Trained {metadata['trained']} with PyTorch {versions['torch']} on {config['device']}, {threads}, "
        f"{config['precision']}; source revision `{short_revision(metadata['git_revision'])}`",
        f"- Logits within {worst:.1e} of PyTorch at batch {', '.join(parity['max_logit_difference'])} "
        f"(allowed {parity['tolerance']:g}), and the same class for each of the 10,000 test images",
        "",
        f"![Confusion matrix of {model.name}](images/confusion-{model.name}.png)",
        "",
    ]


def _with_teachers(config: Mapping[str, Any]) -> str:
    if not any(Path(teacher["path"]).is_relative_to(RUNS) for teacher in config["teachers"]):
        return ""  # their files are in the repository
    return "`python -m studies accuracy run` makes the teachers, which do not ship; "


def _models_page() -> str:
    shipped = read_all(REPOSITORY)
    return page(
        shipped,
        read_precisions(REPOSITORY),
        read_all(REPOSITORY, "multi_label"),
        read_earlier(REPOSITORY),
        calibration_section.lines_of(shipped),
    )


def _all_precisions() -> list[ShippedModel]:
    return read_all(REPOSITORY) + read_precisions(REPOSITORY)


def _curves() -> Figure:
    return pictures.learning_curves({model.name: model.epochs for model in read_all(REPOSITORY)})


def _accuracy_and_speed() -> Figure:
    return pictures.accuracy_and_speed(measured.read(_all_precisions()))


def _confusion(name: str) -> Figure:
    (model,) = [model for model in read_all(REPOSITORY) if model.name == name]
    return confusion_matrix(model.summary["test"]["confusion"], model.labels, model.name)


PARTS = (
    Part("docs/models.md", _models_page),
    Part("README.md", lambda: readme_part.part(_all_precisions()), "models"),
)
PICTURES = (
    Picture("accuracy-and-speed.png", _accuracy_and_speed, colours=128),
    Picture("learning-curves.png", _curves),
    *(Picture(f"confusion-{name}.png", partial(_confusion, name)) for name in MODELS),
)
