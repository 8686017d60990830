"""Choose the version of a model that is served, by writing <models>/<name>/promoted.toml, which servers read."""

import os
from collections.abc import Mapping
from pathlib import Path

from hangtag.export.errors import ExportError
from hangtag.export.repository import inventory
from hangtag.export.repository.publishing import sync
from hangtag.serving import model_repository
from hangtag.serving.model_repository import PROMOTION_FILE, ModelFile, ModelRepositoryError, Promotion


def promote(models: Path, name: str, version: int | None) -> tuple[int | None, int]:
    """Serve this version until another version is promoted, even if later versions are published.

    Args:
        models: the model repository.
        name: the model's name.
        version: the version to promote; None to remove the promotion, so that the latest version is always served.

    Returns:
        The previously served version (None if promoted.toml was damaged), and the version that is served now.

    Raises:
        ExportError: there is no such model or version, or the file cannot be written.
        ModelRepositoryError: there is no repository.

    Example:
        >>> promote(Path("models"), "cnn", 1)
        (2, 1)
    """
    files = inventory.files_of(models, name)
    latest = next(iter(files))
    _require_usable(models / name, files, version or latest)
    file = models / name / PROMOTION_FILE
    try:
        before = model_repository.promotion(models / name) or Promotion(latest)
    except ModelRepositoryError:  # the damaged file is replaced
        before = None
    if version is None:
        _write(file, None)
    elif before is None:
        _write(file, Promotion(version))
    else:
        _write(file, Promotion(version, before.history + ((before.version,) if before.version != version else ())))
    return before.version if before else None, version or latest


def roll_back(models: Path, name: str, version: int | None = None) -> tuple[int, int]:
    """Return to an earlier version. A second rollback goes back further, and does not undo the first one.

    Args:
        models: the model repository.
        name: the model's name.
        version: the version to return to; None for the previously promoted version, or, if there is none, the next
            lower number.

    Returns:
        The version that was served before this call, and the version that is served now.

    Raises:
        ExportError: One of: no such model or version exists; there is no earlier version; the file cannot be written.
        ModelRepositoryError: the repository or the file cannot be read.
    """
    files = inventory.files_of(models, name)
    promoted = model_repository.promotion(models / name) or Promotion(next(iter(files)))
    past = [number for number in promoted.history if number in files]
    earlier = [*reversed(past), *(number for number in files if number < promoted.version)]
    target = version or next(iter(earlier), None)
    if target is None:
        raise ExportError(
            f"{models / name} version {promoted.version} is served, and no other version was served before. There are "
            f"{', '.join(map(str, files))}; choose one with: hangtag models promote {name} VERSION"
        )
    _require_usable(models / name, files, target)
    history = past[: past.index(target)] if target in past else []
    _write(models / name / PROMOTION_FILE, Promotion(target, tuple(history)))
    return promoted.version, target


def _require_usable(folder: Path, files: Mapping[int, ModelFile], version: int) -> None:
    if version not in files:
        raise ExportError(f"{folder} has no version {version}; there are {', '.join(map(str, files))}.")
    if trouble := inventory.read(files[version]).trouble:
        raise ExportError(f"{trouble}. The served version has not changed.")


def note(folder: Path) -> str | None:
    """Return a note if the published version <models>/<name>/<version> is not served; None if it is served."""
    name, version = folder.parent.name, folder.name
    try:
        serving = model_repository.versions_in(folder.parent)[0].version
    except ModelRepositoryError as error:
        return f"note: {error}"
    if str(serving) == version:
        return None
    return f"note: version {serving} is promoted and is still served. Next: hangtag models promote {name} {version}"


def _write(file: Path, promotion: Promotion | None) -> None:
    """Replace the file as a whole, so that a server that reads it always sees the old or the new state.

    If ``promotion`` is None, the file is removed.
    """
    staged = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        if promotion is None:
            file.unlink(missing_ok=True)
            return
        staged.write_text(
            "# The served version, chosen by 'hangtag models promote' or 'rollback'. Without this file: the latest.\n"
            f"version = {promotion.version}\nhistory = {list(promotion.history)}\n",
            encoding="utf-8",
        )
        sync(staged)
        staged.replace(file)
        sync(file.parent)
    except OSError as error:
        staged.unlink(missing_ok=True)
        change = "removed" if promotion is None else "written"
        raise ExportError(
            f"{file} cannot be {change}: {error.strerror}. The served version has not changed."
        ) from error
