"""The part of docs/models.md about models of several labels, made from their own files."""

import json
from collections.abc import Sequence

from hangtag.training.runs.config import command
from studies.page import short_revision
from studies.shipped.models import ShippedModel

INTRODUCTION = """\
## Several labels

These models predict the set of garments on a canvas of 64x64 pixels (training/data/outfits.py). The epoch with the
best O-F1 on the validation split is kept. All figures are of the test split: O-F1 counts all decisions together, C-F1
combines the averages of each label's precision and recall, and the exact match is the share of images whose whole set
is right.

| model | data | parameters | file | exact match | O-F1 | C-F1 | labels per image | decides by |
| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |
"""


def section(shipped: Sequence[ShippedModel]) -> list[str]:
    """Lines of Markdown; none where no such model ships."""
    if not shipped:
        return []
    lines = INTRODUCTION.splitlines()
    for model in shipped:
        test = model.summary["test"]
        lines.append(
            f"| `{model.name}` version {model.version} | {model.config['dataset']} "
            f"| {int(model.metadata['parameters']):,} | {model.megabytes:.1f} MB "
            f"| {test['exact_match']:.2%} | {test['o_f1']:.2%} | {test['c_f1']:.2%} | {test['labels_per_image']:.2f} "
            f"| {_rule(model)} |"
        )
    lines.append("")
    for model in shipped:
        lines += _model(model)
    return lines


def _rule(model: ShippedModel) -> str:
    if "threshold" in model.metadata:
        return f"a threshold of {json.loads(model.metadata['threshold']):.3f}"
    return f"the likeliest path, beam of {model.metadata['beam_width']}, at most {model.metadata['max_labels']} labels"


def _model(model: ShippedModel) -> list[str]:
    metadata, config = model.metadata, model.config
    versions = json.loads(metadata["versions"])
    return [
        f"### {model.name}",
        "",
        f"- Labels: {', '.join(model.labels)}",
        f"- Reproduce: `{command(config)}`, then `hangtag export {model.name}`",
        f"- Trained {metadata['trained']} with PyTorch {versions['torch']} on {config['device']}, "
        f"{config['precision']}; source revision `{short_revision(metadata['git_revision'])}`",
        f"- {_parity(model)}",
        "",
    ]


def _parity(model: ShippedModel) -> str:
    """What the export proved: equal paths and probabilities, or equal logits and sets by the threshold."""
    proof = json.loads(model.metadata["parity"])
    what = "probability" if "max_probability_difference" in proof else "logit"
    differences = proof[f"max_{what}_difference"]
    text = (
        f"{'Probabilities' if what == 'probability' else 'Logits'} within {max(differences.values()):.1e} of PyTorch "
        f"at batch {', '.join(differences)} (allowed {proof['tolerance']:g})"
    )
    if ties := proof.get("ties", 0):
        return f"{text}, and the same path for each of {proof['images']:,} canvases but {ties} whose paths are level"
    return f"{text}, and the same label set for each of {proof['images']:,} canvases"
