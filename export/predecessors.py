"""Find the version that serves under a model's name, and compare a new one with it."""

from collections.abc import Mapping
from pathlib import Path

from hangtag.export.errors import IncomparableError
from hangtag.export.file import quality
from hangtag.export.gate.check import PassedCheck
from hangtag.export.gate.checks import predecessor
from hangtag.export.repository import inventory
from hangtag.export.repository.inventory import Entry


def find(models: Path, name: str, data_digest: str, *, even_if_worse: bool) -> Entry | None:
    """The version that serves under this name; None if there is none, or none that can be compared.

    Args:
        data_digest: of the data set that the new version is tested on.

    Raises:
        IncomparableError: it cannot be compared, and not ``even_if_worse``.
    """
    rival = inventory.serving_version(models, name)
    if rival is None or rival.signature is None:  # a file that cannot be loaded serves nobody
        return None
    recorded = quality.read(rival.metadata)
    if recorded is not None and recorded.data_digest == data_digest:
        return rival
    if even_if_worse:
        return None
    why = "records no test figure" if recorded is None else f"was tested on another data set ({recorded})"
    raise IncomparableError(
        f"{models / name} version {rival.version}, which serves, {why}, so nothing says whether this run is worse. To "
        "publish it all the same, add --even-if-worse. Nothing was published."
    )


def compare(
    metadata: Mapping[str, str], rival: Entry, test_images: int, remedy: str, *, even_if_worse: bool
) -> PassedCheck:
    """Compare the test figure of a new version, in its metadata, with that of the version that serves.

    Args:
        test_images: how many images the figure is a share of.
        remedy: what publishes a worse version all the same, for the error message.

    Raises:
        GateError: it is worse by more than chance explains, and not ``even_if_worse``.
    """
    own, serving = quality.read(metadata), quality.read(rival.metadata)
    assert own is not None
    assert serving is not None
    trial = f"The run is a trial, {text}. " if (text := inventory.trial(metadata)) else ""
    sentence = f"{trial}To publish it all the same, {remedy}, or name another repository with --models."
    return predecessor.check(own, test_images, serving, rival.version, even_if_worse=even_if_worse, remedy=sentence)
