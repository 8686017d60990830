"""The options of commands that read a data set: where it is, and how own pictures are divided and prepared."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from hangtag.options import FiniteRange
from hangtag.serving.image_spec import FITS

F = TypeVar("F", bound=Callable[..., Any])


def data_options(command: F) -> F:
    """``--data-dir``, and the options of own pictures, whose parameters ``sources.own_pictures`` takes."""
    for option in reversed(
        (
            click.option(
                "--data-dir",
                type=click.Path(path_type=Path),
                help="Folder with Fashion-MNIST's IDX files, or with VOCdevkit.  [default: Debian's package for "
                "Fashion-MNIST, else a download by torchvision]",
            ),
            click.option(
                "--size",
                metavar="HEIGHTxWIDTH",
                help="Own pictures are made so large.  [default: as they are, where all have one size of at most 128 "
                "pixels; else 64x64]",
            ),
            click.option("--colour", is_flag=True, help="The network sees colours.  [default: if a picture has any]"),
            click.option("--grey", is_flag=True, help="The network sees none."),
            click.option(
                "--fit",
                type=click.Choice(FITS),
                help="How a picture of another size becomes that large, now and when it is served: stretched, cropped "
                "to its middle, padded with the colour of its edge, or converted like a garment of Fashion-MNIST.  "
                "[default: stretch]",
            ),
            click.option(
                "--validation-share",
                type=FiniteRange(0.01, 0.5),
                help="Of each class's own pictures.  [default: 0.1]",
            ),
            click.option(
                "--test-share",
                type=FiniteRange(0.01, 0.5),
                help="Likewise, without a test folder.  [default: 0.1]",
            ),
            click.option(
                "--split-seed",
                type=click.IntRange(0, 2**32 - 1),
                help="Divides own pictures otherwise. --seed does not, so that its runs can be compared.  [default: 0]",
            ),
        )
    ):
        command = option(command)
    return command
