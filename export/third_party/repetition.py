"""Repeat the proofs of a published third-party file, for ``hangtag models verify``."""

from pathlib import Path

import numpy as np

from hangtag.export.errors import PicturesGoneError, RecordError
from hangtag.export.gate.check import ACCURACY, BATCHING
from hangtag.export.gate.tolerances import TOLERANCES
from hangtag.export.quantization import samples
from hangtag.export.repository.inventory import Entry
from hangtag.export.third_party import probe
from hangtag.export.third_party.judge import Judge
from hangtag.training.errors import DataCorruptError, DataNotFoundError


def batching(entry: Entry, _data_dir: Path | None) -> tuple[bool, str]:
    """Try again whether the requests of a model may be batched.

    Returns:
        Whether the result is as recorded, and a summary.

    Raises:
        GateError: the file does not run.
    """
    verdict = probe.run(entry.path, shown_as=entry.path)["batching"]
    summary = f"{'batched' if verdict['batched'] else 'one request at a time'}: {verdict['why']}"
    return verdict["batched"] == entry.json("batched"), summary


def accuracy(entry: Entry, data_dir: Path | None) -> tuple[bool, str]:
    """Measure the accuracy again, on the same pictures.

    Args:
        entry: The version.
        data_dir: Where the pictures are now: their folder, or their CSV file; None for their recorded place.

    Returns:
        Whether the accuracy is as recorded, and a summary.

    Raises:
        PicturesGoneError: the pictures are missing or have changed.
        GateError: the file does not answer.
        RecordError: the metadata cannot be read; ValueError, TypeError and KeyError mean the same.
    """
    assert entry.signature is not None
    image, recorded = entry.signature.image, float(entry.metadata["test_accuracy"])
    if image is None:
        raise RecordError("there is no hangtag.image")
    tested = entry.json("gate")["accuracy"]
    kind, _, place = str(tested["source"]).partition(":")
    place = place if data_dir is None else str(data_dir)
    if not Path(place).exists():
        raise PicturesGoneError(
            f"the pictures that it was tested on are not at {place}; name their folder with --data-dir"
        )
    try:
        judge = Judge.of(f"{kind}:{place}", image, entry.signature.labels, entry.path, str)
    except (DataNotFoundError, DataCorruptError) as error:
        raise PicturesGoneError(str(error)) from error
    if tested["left_out"]:
        judge = judge.without(samples.making(samples.spread(judge.files, samples.MOST_PICTURES)))
    if judge.data.digest != entry.metadata["data_digest"]:
        raise PicturesGoneError(f"the pictures of {kind}:{place} are not those that it was tested on")
    measured = judge.measure(entry.path, image, batched=bool(entry.batched))
    difference = np.abs(measured.quality.share - recorded)
    summary = f"{measured.figures['summary']} (recorded {recorded:.2%})"
    return bool(difference <= TOLERANCES[entry.precision or "fp32"].verification), summary


OF_CHECK = {BATCHING: batching, ACCURACY: accuracy}
