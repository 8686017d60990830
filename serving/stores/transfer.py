"""Pushes models of a local repository to a store, and pulls models of a store into a local repository."""

import shutil
import tempfile
from pathlib import Path

from hangtag.serving.model_repository import MODEL_FILE, is_route, names, numbered_versions
from hangtag.serving.stores.mirror import Report
from hangtag.serving.stores.store import INDEX, Store, StoreError, explained, is_version, local_parts, model_of


def push(source: Path, url: str, *, replace: bool, report: Report) -> None:
    """Write models to a store, and then the store's index, which makes all new files visible together. If the
    store has models but no index, push writes an index only if ``source`` contains all versions of the store.

    Models and versions that ``source`` lacks stay in the store. The files that versions share, such as promoted.toml,
    are replaced by the files of ``source``.

    Args:
        source: A model repository, or the folder of one of its models.
        replace: Whether to overwrite versions that have different content.
        report: A function that is called for each file that was written.

    Raises:
        StoreError: One of: ``source`` has no model; the store cannot be read or written; ``replace`` is false, and a
            version in the store has different content.
        ModelRepositoryError: The local folder does not exist, or has a link to a file outside of the folder.
    """
    source = source.absolute()
    is_model = numbered_versions(source) or is_route(source.parent, source.name)
    root, models = (source.parent, [source.name]) if is_model else (source, names(source))
    with explained(url):
        store, mine = Store(url), local_parts(root, models)
        if not mine:
            raise StoreError(f"{source} has no model to push: expected <name>/<version>/{MODEL_FILE}")
        theirs = store.read(may_be_empty=True)
        others = {*map(model_of, theirs)} - {*map(model_of, mine)}
        different = [part for part in mine if is_version(part) and theirs.get(part, mine[part]) != mine[part]]
        if different and not replace:
            raise _refusal(different, f"{store.name} has different content for", "publish a new version")
        after = {part: files for part, files in theirs.items() if model_of(part) in others or is_version(part)} | mine
        old, new = ({file for files in parts.values() for file in files} for parts in (theirs, mine))
        # Without an index, a version becomes visible when its model.onnx is written.
        for file in sorted(new - old, key=lambda file: (file.path.count("/") < 2, file.path.endswith(MODEL_FILE))):
            store.write(file, root / file.path)
            report(file.path, file.size)
        # If a store has an index, only the files in it are visible. An index cannot list files that another program has
        # written, because their digests are unknown.
        if after != theirs and (store.index is not None or after == mine):
            report(INDEX, store.publish(sorted(file for files in after.values() for file in files)))


def pull(url: str, folder: Path, *, replace: bool, report: Report) -> None:
    """Write all models of a store into a local model repository. Other files in the repository stay.

    Args:
        folder: The repository's folder, which need not exist.
        replace: Whether to overwrite versions that have different content.
        report: A function that is called when a version, or a file that several versions share, has been written.

    Raises:
        StoreError: One of: the store cannot be read; the folder cannot be written; ``replace`` is false, and the folder
            of a version exists with different content, even if it has no model.onnx.
    """
    with explained(url):
        store = Store(url)
        stored = store.read()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".pull-") as temporary:
            new = Path(temporary)
            for file in (file for files in stored.values() for file in files):
                store.fetch(file, new / file.path)
            theirs, mine = (local_parts(root, {*map(model_of, stored)}) for root in (new, folder))
            pulled = [part for part in theirs if mine.get(part) != theirs[part]]
            # Check the folders: ``mine`` omits versions without model.onnx, but a pull would delete their files, too.
            removed = [part for part in pulled if (folder / part).is_dir()]
            if removed and not replace:
                raise _refusal(removed, f"{folder} has different content for", "pull into another folder")
            for part in pulled:
                (folder / part).parent.mkdir(exist_ok=True)
                if part in removed:
                    shutil.rmtree(folder / part)
                (new / part).replace(folder / part)
                report(part, sum(file.size for file in theirs[part]))


def _refusal(parts: list[str], problem: str, remedy: str) -> StoreError:
    """Return the error for parts whose content differs between the store and the local repository."""
    listed = ", ".join(sorted(parts)).replace("/", " ")
    return StoreError(f"{problem} {listed}: {remedy}, or give --replace")
