"""``make docs``: docs/models.md and its pictures, made from nothing but the files in the model repository."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from export import model_pictures
from export.repository import MODEL_FILE, next_version
from serving.server.runtime import Runtime

# Published: the study's validation accuracy over ten epochs in Keras, batch 32, on a Tesla K80.
STUDY = {"lstm": ("90.24 %", "89.96 %"), "lstm2": ("91.10 %", "90.50 %"), "cnn": ("91.30 %", "90.94 %")}

INTRODUCTION = """\
# The shipped models

<!-- Written by `make docs` from the files in models/. Do not edit. -->

Each is trained by this code with the study's recipe (Adam, batch 32, ten epochs, dropout) on the study's split: the
first 5,000 training images validate, the other 55,000 train. The epoch with the best validation accuracy is kept; the
test set is looked at once, afterwards. Every figure on this page stands in the model's own ONNX file.

| model | parameters | file | validation accuracy, kept epoch | last epoch | test accuracy | study: peak / final |
| --- | ---: | ---: | ---: | ---: | ---: | ---: |
"""


@dataclass(frozen=True)
class ShippedModel:
    """The latest version of a model and what its file says about itself."""

    name: str
    version: int
    megabytes: float
    labels: Sequence[str]
    metadata: dict[str, str]
    epochs: list[dict[str, float]]
    summary: dict[str, Any]

    @property
    def config(self) -> dict[str, Any]:
        config: dict[str, Any] = json.loads(self.metadata["training"])["config"]
        return config


@click.command()
@click.option("--models", type=click.Path(exists=True, path_type=Path), default=Path("models"), show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs/models.md"), show_default=True)
def main(models: Path, out: Path) -> None:
    """Write the page about the shipped models, with learning curves and confusion matrices beside it."""
    shipped = [_read(models, folder.name) for folder in sorted(models.iterdir()) if folder.is_dir()]
    shipped.sort(key=lambda model: int(model.metadata["parameters"]))
    pictures = out.parent / "images"
    pictures.mkdir(parents=True, exist_ok=True)
    model_pictures.learning_curves({model.name: model.epochs for model in shipped}, pictures / "learning-curves.svg")
    for model in shipped:
        model_pictures.confusion_matrix(
            model.summary["test"]["confusion"], model.labels, model.name, pictures / f"confusion-{model.name}.svg"
        )
    out.write_text(page(shipped))
    click.echo(f"wrote {out} and {len(shipped) + 1} pictures in {pictures}")


def page(shipped: Sequence[ShippedModel]) -> str:
    """The page, in Markdown."""
    lines = INTRODUCTION.splitlines()
    for model in shipped:
        summary = model.summary
        peak, final = STUDY.get(model.name, ("", ""))
        lines.append(
            f"| `{model.name}` version {model.version} "
            f"| {int(model.metadata['parameters']):,} "
            f"| {model.megabytes:.1f} MB "
            f"| {summary['validation']['accuracy']:.2%} (epoch {summary['best_epoch']}) "
            f"| {summary['final_validation_accuracy']:.2%} | {float(model.metadata['test_accuracy']):.2%} "
            f"| {peak} / {final} |"
        )
    lines += [
        "",
        "The study's figures are its published ones: Keras, one run each, validation split, test set not used.",
        "",
        "![Learning curves](images/learning-curves.svg)",
        "",
    ]
    for model in shipped:
        lines += _section(model)
    return "\n".join(lines)


def _section(model: ShippedModel) -> list[str]:
    config, metadata = model.config, model.metadata
    parity = json.loads(metadata["parity"])
    worst = max(parity["max_logit_difference"].values())
    versions = json.loads(metadata["versions"])
    threads = f"{config['threads']} thread{'s' if config['threads'] > 1 else ''}"
    precision = "" if config["precision"] == "fp32" else f" --precision {config['precision']}"
    return [
        f"## {model.name}",
        "",
        f"- Reproduce: `hangtag train {model.name} --seed {config['seed']} --threads {config['threads']}{precision}`, "
        f"then `hangtag export {model.name}`",
        f"- Trained {metadata['trained']} with PyTorch {versions['torch']} on {config['device']}, {threads}, "
        f"{config['precision']}; source revision `{metadata['git_revision'][:12]}`",
        f"- Logits within {worst:.1e} of PyTorch at batch {', '.join(parity['max_logit_difference'])} "
        f"(allowed {parity['tolerance']:g}), and the same class for each of the 10,000 test images",
        "",
        f"![Confusion matrix of {model.name}](images/confusion-{model.name}.svg)",
        "",
    ]


def _read(models: Path, name: str) -> ShippedModel:
    version = next_version(models, name) - 1
    path = models / name / str(version) / MODEL_FILE
    signature = Runtime(path, provider="cpu").signature
    metrics = json.loads(signature.metadata["training"])["metrics"]
    return ShippedModel(
        name=name,
        version=version,
        megabytes=path.stat().st_size / 1e6,
        labels=signature.labels,
        metadata=dict(signature.metadata),
        epochs=metrics["epochs"],
        summary=metrics["summary"],
    )


if __name__ == "__main__":
    main()
