"""Fashion-MNIST's real garments: the whole data set, and the data set with few test images."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from hangtag.training.data import fashion_mnist
from hangtag.training.data.dataset import Dataset, Images, Split
from hangtag.training.data.fashion_mnist import DIGEST, LABELS

__all__ = ["DIGEST", "FEW_FIRST", "LABELS", "Dataset", "Images", "Split", "few", "of", "use_few", "whole"]

FEW_FIRST = "import pytest; from tests.kit import garments; garments.use_few(pytest.MonkeyPatch())"
"""Python statements that make a forked process load few test images."""


_load, _load_test = fashion_mnist.load, fashion_mnist.load_test


@cache
def whole() -> Dataset:
    """The published data set. If it is missing, the error explains how to install it."""
    return _load()


@cache
def few() -> Dataset:
    """The published data set with only 100 test images, because every run classifies the test images at its end."""
    return replace(whole(), test=whole().test.first(100))


def of(train: Split, validation: Split, test: Split) -> Dataset:
    """A data set of garments with these splits."""
    return replace(whole(), train=train, validation=validation, test=test, source="test images")


def use_few(patch: pytest.MonkeyPatch) -> None:
    """Limit commands in this process to a few test images, unless they name a folder with --data-dir."""

    def load_few(data_dir: Path | None = None) -> Dataset:
        return few() if data_dir is None else _load(data_dir)

    def load_few_test(data_dir: Path | None = None) -> Split:
        return few().test if data_dir is None else _load_test(data_dir)

    patch.setattr(fashion_mnist, "load", load_few)
    patch.setattr(fashion_mnist, "load_test", load_few_test)
