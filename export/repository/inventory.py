"""List the models in a model repository, from their files. This module needs onnx only to count nodes."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hangtag.export.errors import ExportError
from hangtag.serving import model_repository
from hangtag.serving.model_repository import ModelFile, ModelRepositoryError
from hangtag.serving.server.errors import ModelLoadError
from hangtag.serving.server.runtime.batching_proof import decide_batching
from hangtag.serving.server.runtime.session import Runtime
from hangtag.serving.signature import Signature

FIGURES = ("test_accuracy", "test_exact_match")
"""Metadata keys of test metrics: the share of test images with the right label, or with exactly the right set."""


@dataclass(frozen=True)
class Quality:
    """A model's test accuracy: the first metric of FIGURES that its file records."""

    figure: str
    """One of FIGURES."""
    share: float
    data_digest: str
    """The digest of the whole data set; empty if the file does not record the digest."""

    def __str__(self) -> str:
        return f"{self.figure.replace('_', ' ')} {self.share:.2%}"

    @classmethod
    def of(cls, metadata: Mapping[str, str]) -> "Quality | None":
        """Read the test accuracy from a file's metadata; None if it is missing or not a number from 0 to 1."""
        for figure in FIGURES:
            try:
                share = float(metadata[figure])
            except (KeyError, ValueError):
                continue
            if 0 <= share <= 1:
                return cls(figure, share, metadata.get("data_digest", ""))
        return None


@dataclass(frozen=True)
class Entry:
    """One version of a model.

    signature: the file's signature; None if the file cannot be loaded. ``trouble`` then has the reason.
    """

    name: str
    version: int
    path: Path
    signature: Signature | None
    trouble: str | None = None
    serves: bool = True
    """Whether this version takes requests that do not name a version."""

    @property
    def megabytes(self) -> float:
        """The size of model.onnx, in 10^6 bytes; 0 if a server that mirrors a store has removed the file."""
        try:
            return self.path.stat().st_size / 1e6
        except FileNotFoundError:
            return 0.0

    @property
    def metadata(self) -> Mapping[str, str]:
        """The file's properties under ``hangtag.``, without that prefix; empty if the file cannot be loaded."""
        return self.signature.metadata if self.signature else {}

    @property
    def precision(self) -> str | None:
        """The file's precision; None if hangtag did not export the file. Files of the first exports, which record no
        precision, are in fp32."""
        return self.metadata.get("precision") or ("fp32" if "training" in self.metadata else None)

    @property
    def batched(self) -> bool | None:
        """Whether a server may batch requests; None if the file cannot be loaded."""
        return self.signature.batched if self.signature else None

    @property
    def unbatched_because(self) -> str | None:
        """Why a server does not batch requests; None if a server batches them, or if the file cannot be loaded."""
        return self.signature.why_unbatched if self.signature else None

    @property
    def accuracy(self) -> tuple[str, float] | None:
        """The name and the value of the test accuracy; None if the file does not record it."""
        recorded = Quality.of(self.metadata)
        return (recorded.figure, recorded.share) if recorded else None

    @property
    def trial(self) -> str | None:
        """A clause about the images on which a trial run was trained; None for a model from a complete run."""
        return trial(self.metadata)

    @property
    def gate(self) -> Any:
        """The results of the gate's checks, by name; None if they cannot be read."""
        return self.json("gate")

    def json(self, key: str) -> Any:
        """Parse a metadata value; None if the value is missing or not JSON."""
        try:
            return json.loads(self.metadata[key])
        except (KeyError, ValueError):
            return None


def trial(metadata: Mapping[str, str]) -> str | None:
    """Return a clause about the images of a trial run (``hangtag train --limit``); None for a complete run."""
    try:
        limit = json.loads(metadata["training"])["config"]["limit"]
    except (KeyError, TypeError, ValueError):
        return None
    return f"trained on {limit:,} images only" if isinstance(limit, int) else None


def serving(models: Path) -> list[Entry]:
    """Return, for each model, the served version, sorted by the models' names.

    Raises:
        ModelRepositoryError: there is no repository.
    """
    return [read(files[0]) for files in _files(models)]


def versions(models: Path) -> list[Entry]:
    """Return every version of every model, sorted by name, the highest version first.

    Raises:
        ModelRepositoryError: there is no repository.
    """
    entries = [read(file, serves=file is files[0]) for files in _files(models) for file in files]
    return sorted(entries, key=lambda entry: (entry.name, -entry.version))


def routes(models: Path) -> list[str]:
    """Return the names of routes, which call models and have no versions (docs/reference/routes.md).

    Raises:
        ModelRepositoryError: there is no repository.
    """
    return [name for name in model_repository.names(models) if model_repository.is_route(models, name)]


def without_versions(models: Path) -> Iterator[str]:
    """Yield the server's error for each folder that is not a route and has no version.

    Raises:
        ModelRepositoryError: there is no repository.
    """
    for name in model_repository.names(models):
        if not model_repository.is_route(models, name):
            try:
                model_repository.require_versions(models, name)
            except ModelRepositoryError as error:
                yield str(error)


def _files(models: Path) -> list[list[ModelFile]]:
    """Return the models by name, each with its versions: the served one first, then the others, highest first."""
    files = [model_repository.versions(models, name) for name in model_repository.names(models)]
    return [versions for versions in files if versions]


def files_of(models: Path, name: str) -> dict[int, ModelFile]:
    """Return a model's versions by number, the latest first.

    Raises:
        ExportError: there is no such model. The message lists the existing models.
        ModelRepositoryError: there is no repository, or the model's folder cannot be read.
    """
    known = model_repository.names(models)
    if name in known and (files := model_repository.numbered_versions(models / name)):
        return {file.version: file for file in files}
    if model_repository.is_route(models, name):
        file = models / name / model_repository.ROUTE_FILE
        raise ExportError(f"{name} is a route, which has no versions of its own: {file} names the models that answer.")
    there = ", ".join(other for other in known if model_repository.numbered_versions(models / other)) or "none"
    raise ExportError(f"{models} holds no model {name!r}; the models there: {there}.")


def find(models: Path, name: str, version: int | None = None) -> Entry:
    """Return one version of a model, by default the served version.

    Raises:
        ExportError: there is no such model or version. The message lists the existing models or versions.
        ModelRepositoryError: there is no repository, or the model's folder cannot be read.
    """
    files = files_of(models, name)
    serving = model_repository.versions(models, name)[0].version
    chosen = serving if version is None else version
    if chosen not in files:
        there = ", ".join(map(str, sorted(files)))
        raise ExportError(f"{models / name} has no version {version}; there are {there}.")
    return read(files[chosen], serves=chosen == serving)


def read(file: ModelFile, *, serves: bool = True) -> Entry:
    """Read a file's signature. If the file does not record whether requests may be batched, try it.

    Args:
        file: one version of a model.
        serves: whether this version takes requests that do not name a version.
    """
    try:
        runtime = Runtime(file.path, provider="cpu")
        decide_batching(runtime)
        signature, trouble = runtime.signature, None
    except ModelLoadError as error:
        signature, trouble = None, " ".join(str(error).split())
    return Entry(file.name, file.version, file.path, signature, trouble, serves)


def origin(entry: Entry) -> str | None:
    """Return the model's origin in one line; None if the file does not record an origin."""
    metadata = entry.metadata
    if "recipe" not in metadata:
        return metadata.get("source")
    trained = f", trained {metadata['trained'][:10]}" if "trained" in metadata else ""
    trial = f", TRIAL RUN: {entry.trial}" if entry.trial else ""
    return f"recipe {metadata['recipe']}, seed {metadata.get('seed', 'unknown')}{trained}{trial}"


def operators(entry: Entry) -> dict[str, int] | None:
    """Count the nodes of each operator in the graph, most frequent first; None if the package onnx is not installed."""
    try:
        import onnx

        from hangtag.export.file import onnx_model
    except ModuleNotFoundError:
        return None
    return dict(onnx_model.operators(onnx.load(entry.path, load_external_data=False)).most_common())


def provenance(entry: Entry) -> Iterator[tuple[str, str]]:
    """Yield the metadata about the model's origin, as pairs of a key and a readable value."""
    for key in (
        "source", "preprocessing", "tested_on", "recipe", "seed", "parameters", "temperature", "temperature_fitted_on",
        "precision", "processor",
        "data_digest", "trained", "git_revision", "export_git_revision", "graph_digest",
    ):  # fmt: skip
        if key in entry.metadata:
            yield key, entry.metadata[key]
    versions = entry.json("versions")
    if isinstance(versions, dict):
        yield "versions", ", ".join(f"{name} {version}" for name, version in versions.items())
