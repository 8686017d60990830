"""Writes the part of docs/training.md about pictures, networks and files that are not hangtag's own."""

from pathlib import Path

from studies import results
from studies.own_pictures.run import CASCADE, MANY, MEMBERS, RESULTS, THEIRS
from studies.own_pictures.sets import SETS
from studies.page import Part, made_from, percent, table

_HEAD = ("pictures", "their number", "classes", "network", "held-out accuracy", "in int8")


def part(path: Path = RESULTS) -> str:
    """What was learned of each picture set, and how the models were called. Raises click.ClickException, as read."""
    lines = results.read(path)
    conditions = lines["conditions"]
    theirs, tested = lines[THEIRS], lines["loadtest"]["accuracy"]
    asked = [line for name, line in lines.items() if name.startswith("asked ")]
    alike, pictures = (sum(line[key] for line in asked) for key in ("alike", "pictures"))
    rows = [_row(lines[one.name]) for one in SETS]
    rows.append(
        (
            f"{lines[MANY]['what']}, by an ONNX file without preprocessing and `hangtag import`",
            f"{lines[MANY]['pictures']:,}",
            f"{lines[MANY]['classes']}",
            "the same, exported by PyTorch",
            percent(theirs["accuracy"]),
            percent(theirs["int8_accuracy"]),
        )
    )
    return "\n\n".join(
        [
            "Pictures that anybody can have, by the recipe `pictures` and seed 0:",
            table(_HEAD, rows, right=2),
            f"Of each of these models, in FP32 and int8, and of a cascade of `{MEMBERS[0]}` and `{THEIRS}`, "
            f"{asked[0]['pictures']} pictures were classified by `hangtag classify`, by the page's call, and over gRPC "
            f"and HTTP with pixels that `ImageSpec` prepared: {alike} of {pictures} answers were the same in all ways, "
            "to the last bit of every probability. The load test's accuracy on the held-out pictures of 200 classes is "
            f"{percent(tested[MEMBERS[0]])}, {percent(tested[THEIRS])}, and {percent(tested[CASCADE])} of the "
            f"cascade. A folder of a single class is refused: “{lines['one-class']['message']}”",
            f"{made_from(path, conditions)}.",
        ]
    )


def _row(line: results.Line) -> tuple[str, ...]:
    image, balanced = line["image"], " --balance" if "--balance" in line["options"] else ""
    return (
        f"{line['what']}, {image['height']}x{image['width']}",
        f"{line['pictures']:,}",
        f"{line['classes']}",
        "a residual network of one's own" if ":" in line["network"] else f"`{line['network']}{balanced}`",
        percent(line["accuracy"]),
        percent(line["int8_accuracy"]),
    )


PARTS = (Part("docs/training.md", part, "own pictures"),)
