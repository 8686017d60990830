"""The pictures that a file's recorded figures were measured on, read again."""

from functools import cached_property
from pathlib import Path
from typing import Any

from hangtag.export.arrays import Pixels
from hangtag.export.errors import ExportError
from hangtag.export.file import examples, reference_answers
from hangtag.export.gate.checks import batching
from hangtag.export.gate.proof import GATE_IMAGES
from hangtag.export.repository.inventory import Entry
from hangtag.training.data import fashion_mnist, sources
from hangtag.training.data.dataset import Split
from hangtag.training.errors import DataCorruptError, DataNotFoundError
from hangtag.training.runs import data as runs_data


class PicturesGoneError(Exception):
    """The user's own pictures, of which figures were recorded, are not there, or are others now."""


class RecordedData:
    """The data set of a model that was exported from a run."""

    def __init__(self, entry: Entry, data_dir: Path | None) -> None:
        """
        Args:
            entry: the model.
            data_dir: where the data set is now; None for its usual places.
        """
        self._entry, self._data_dir = entry, data_dir

    @cached_property
    def _config(self) -> dict[str, Any]:
        """The config of the run that the file was exported from."""
        config: dict[str, Any] = self._entry.json("training")["config"]
        return config

    @property
    def is_own(self) -> bool:
        """Whether they are pictures of the user's."""
        return sources.kind_of(str(self._config.get("dataset", fashion_mnist.NAME))) is not None

    @cached_property
    def test(self) -> Split:
        """The test split, of own pictures as far as the gate used it.

        Raises:
            PicturesGoneError: own pictures are not there, or have changed.
            DataNotFoundError: Fashion-MNIST is missing.
            DataCorruptError: it is damaged.
        """
        if not self.is_own:
            return fashion_mnist.load_test(self._data_dir)
        try:
            return runs_data.load(self._config, self._data_dir).test.first(GATE_IMAGES)
        except (DataNotFoundError, DataCorruptError) as error:
            raise PicturesGoneError(str(error)) from error

    @cached_property
    def images(self) -> Pixels:
        """The images that the reference answers belong to: the examples in a file of the user's own pictures, else the
        first of the test split, or of the test canvases.

        Raises:
            ValueError: the examples cannot be read.
            ExportError: the packages that make canvases are not installed.
        """
        if self.is_own:
            kept = examples.read(self._entry.metadata)
            if kept is None:
                raise ValueError("the file has no examples")
            return kept[0]
        if self._entry.metadata["task"] == "single_label":
            return self.test.images[: batching.IMAGES]
        try:
            from hangtag.training.data import outfits
        except ModuleNotFoundError as error:
            raise ExportError(
                f"{self._entry.name} is verified on canvases, which need the Python module {error.name!r}. "
                "In the project's folder, install it with: pip install '.[train]'"
            ) from error
        dataset = self._config.get("dataset")
        dataset = dataset if dataset in outfits.NAMES else "outfits"
        return outfits.load_split(dataset, "test", self.test, reference_answers.IMAGES).images
