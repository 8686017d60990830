"""``make docs``: docs/models.md and its pictures, made from the models' own files, and the README's table."""

import json
from collections.abc import Sequence
from pathlib import Path

import click

from hangtag.training.runs.command import command
from studies.shipped import label_sets as model_report_sets
from studies.shipped import pictures as model_pictures
from studies.shipped import readme_table
from studies.shipped.models import ShippedModel, read_all, read_earlier, read_precisions

# Published: the study's validation accuracy over ten epochs in Keras, batch 32, on a Tesla K80.
STUDY = {"lstm": ("90.24 %", "89.96 %"), "lstm2": ("91.10 %", "90.50 %"), "cnn": ("91.30 %", "90.94 %")}

INTRODUCTION = """\
# The shipped models

<!-- Written by `make docs` from the files in models/. Do not edit. -->

Each is trained by this code on the study's split: the first 5,000 training images validate, the other 55,000 train.
Recipe `study` is the study's own (Adam, batch 32, ten epochs, dropout); `best` goes past it in the same network, see
[study.md](study.md). The epoch with the best validation accuracy is kept; the test set is looked at once, afterwards.
Every figure on this page stands in the model's own ONNX file.

| model | recipe | parameters | file | validation, kept epoch | last epoch | test accuracy | study: peak / final |
| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |
"""


@click.command()
@click.option("--models", type=click.Path(exists=True, path_type=Path), default=Path("models"), show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs/models.md"), show_default=True)
@click.option("--readme", type=click.Path(exists=True, path_type=Path), default=Path("README.md"), show_default=True)
@click.option(
    "--loadtest",
    type=click.Path(exists=True, path_type=Path),
    default=Path("docs/figures/loadtest.json"),
    show_default=True,
    help="Saved results of `hangtag loadtest`, with runs at 1 and 64 in flight.",
)
def main(models: Path, out: Path, readme: Path, loadtest: Path) -> None:
    """Write the page about the shipped models, its pictures, and the README's table."""
    shipped = read_all(models)
    pictures = out.parent / "images"
    pictures.mkdir(parents=True, exist_ok=True)
    model_pictures.learning_curves({model.name: model.epochs for model in shipped}, pictures / "learning-curves.svg")
    for model in shipped:
        model_pictures.confusion_matrix(
            model.summary["test"]["confusion"], model.labels, model.name, pictures / f"confusion-{model.name}.svg"
        )
    sets = read_all(models, "multi_label")
    out.write_text(page(shipped, read_precisions(models), sets, read_earlier(models)))
    try:
        readme_table.write(readme, shipped, loadtest)
    except ValueError as error:
        raise click.ClickException(f"{error}.") from error
    click.echo(f"wrote {out}, {len(shipped) + 1} pictures in {pictures}, and the table in {readme}")


def page(
    shipped: Sequence[ShippedModel],
    precisions: Sequence[ShippedModel],
    sets: Sequence[ShippedModel],
    earlier: Sequence[ShippedModel] = (),
) -> str:
    """The page, in Markdown: about models of one label, the same in other precisions, and models of several labels.

    Of earlier versions it has the figures alone.
    """
    lines = INTRODUCTION.splitlines()
    for model in shipped:
        lines += [_row(version) for version in (model, *(old for old in earlier if old.name == model.name))]
    lines += [
        "",
        "A server takes the latest version of a model.",
        "The study's figures are its published ones: Keras, one run each, validation split, test set not used.",
        "",
        "![Learning curves](images/learning-curves.svg)",
        "",
    ]
    if precisions:
        lines += _precisions(precisions)
    for model in shipped:
        lines += _section(model)
    lines += model_report_sets.section(sets)
    return "\n".join(lines)


def _row(model: ShippedModel) -> str:
    summary = model.summary
    peak, final = STUDY.get(model.name, ("", ""))
    return (
        f"| `{model.name}` version {model.version} | {model.metadata['recipe']} "
        f"| {int(model.metadata['parameters']):,} "
        f"| {model.megabytes:.1f} MB "
        f"| {summary['validation']['accuracy']:.2%} (epoch {summary['best_epoch']}) "
        f"| {summary['final_validation_accuracy']:.2%} | {float(model.metadata['test_accuracy']):.2%} "
        f"| {peak} / {final} |"
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
        "What each is, and what it must reach to be published: [export.md](export.md).",
        "",
        "| model | file | test accuracy | PyTorch's | answers that are PyTorch's |",
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
        f"- Reproduce: `{command(config)}`, then `hangtag export {model.name}`",
        f"- Trained {metadata['trained']} with PyTorch {versions['torch']} on {config['device']}, {threads}, "
        f"{config['precision']}; source revision `{metadata['git_revision'][:12]}`",
        f"- Logits within {worst:.1e} of PyTorch at batch {', '.join(parity['max_logit_difference'])} "
        f"(allowed {parity['tolerance']:g}), and the same class for each of the 10,000 test images",
        "",
        f"![Confusion matrix of {model.name}](images/confusion-{model.name}.svg)",
        "",
    ]


if __name__ == "__main__":
    main()
