"""List what a model repository holds, read from the files themselves. Needs no torch; onnx only to count nodes."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hangtag.export.errors import ExportError
from hangtag.serving import model_repository
from hangtag.serving.model_repository import ModelFile, ModelRepositoryError
from hangtag.serving.server.errors import ModelLoadError
from hangtag.serving.server.runtime.batching_decision import decide_batching
from hangtag.serving.server.runtime.session import Runtime
from hangtag.serving.signature import Signature

FIGURES = ("test_accuracy", "test_exact_match")
"""The metadata's keys. Both are shares of the test set: images with the right label, or with exactly their labels."""
LATER_FIGURES = "calibration.json"
"""A file where model.onnx lies: the calibration error of a model that was exported before the gate measured it. The
model's file stays as it is, with every digest of it; the figures count for the graph whose digest they name."""
_MAX_BATCH_SIZE = 64  # the server's default


@dataclass(frozen=True)
class Quality:
    """The most telling test figure of a model."""

    figure: str
    """One of FIGURES."""
    share: float
    data_digest: str
    """Of the whole data set; empty where the file does not record it."""

    def __str__(self) -> str:
        return f"{self.figure.replace('_', ' ')} {self.share:.2%}"

    @classmethod
    def of(cls, metadata: Mapping[str, str]) -> "Quality | None":
        """Read the quality from a file's metadata; None if it records none, or no share."""
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

    signature: None if the file cannot be loaded; ``trouble`` says why then.
    """

    name: str
    version: int
    path: Path
    signature: Signature | None
    trouble: str | None = None
    serves: bool = True
    """Whether it takes the requests that name no version."""

    @property
    def megabytes(self) -> float:
        """The size of model.onnx, in 10^6 bytes."""
        return self.path.stat().st_size / 1e6

    @property
    def metadata(self) -> Mapping[str, str]:
        """The file's properties under ``hangtag.``, without that prefix; empty if it cannot be loaded."""
        return self.signature.metadata if self.signature else {}

    @property
    def precision(self) -> str | None:
        """None for a model that hangtag did not export. The first exports did not record it, and were all fp32."""
        return self.metadata.get("precision") or ("fp32" if "training" in self.metadata else None)

    @property
    def batched(self) -> bool | None:
        """Whether a server joins requests unless its operator decides otherwise. None if it cannot be loaded."""
        return self.signature.batched if self.signature else None

    @property
    def unbatched_because(self) -> str | None:
        """Why a server joins no requests; None if it does, or if the file cannot be loaded."""
        return self.signature.why_unbatched if self.signature else None

    @property
    def accuracy(self) -> tuple[str, float] | None:
        """The name and value of the most telling test figure; None if the file has none, or it is no share."""
        recorded = Quality.of(self.metadata)
        return (recorded.figure, recorded.share) if recorded else None

    @property
    def trial(self) -> str | None:
        """What a trial run was trained on, in words; None for a model of a whole run."""
        return trial(self.metadata)

    @property
    def gate(self) -> Any:
        """The figures of the gate's checks, by name, one that was measured later too; None if they cannot be read."""
        gate = self.json("gate")
        if not isinstance(gate, dict):
            return gate
        return self._later_figures() | gate

    def _later_figures(self) -> dict[str, Any]:
        try:
            document = json.loads(self.path.with_name(LATER_FIGURES).read_text(encoding="utf-8"))
            gate = document["gate"] if document["graph_digest"] == self.metadata.get("graph_digest", "") else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}
        return gate if isinstance(gate, dict) else {}

    def json(self, key: str) -> Any:
        """Parse a metadata value; None if it is missing or no JSON."""
        try:
            return json.loads(self.metadata[key])
        except (KeyError, ValueError):
            return None


def trial(metadata: Mapping[str, str]) -> str | None:
    """What a trial run (``hangtag train --limit``) was trained on, in words; None for a model of a whole run."""
    try:
        limit = json.loads(metadata["training"])["config"]["limit"]
    except (KeyError, TypeError, ValueError):
        return None
    return f"trained on the first {limit:,} images only" if isinstance(limit, int) else None


def serving(models: Path) -> list[Entry]:
    """The version of each model that serves, by name.

    Raises:
        ExportError: there is no repository.
    """
    return [read(files[0]) for files in _files(models)]


def versions(models: Path) -> list[Entry]:
    """Every version of every model, by name and the highest first.

    Raises:
        ExportError: there is no repository.
    """
    entries = [read(file, serves=file is files[0]) for files in _files(models) for file in files]
    return sorted(entries, key=lambda entry: (entry.name, -entry.version))


def routes(models: Path) -> list[str]:
    """The names that are routes (docs/routes.md), which answer by other models and have no version of their own.

    Raises:
        ExportError: there is no repository.
    """
    try:
        return [name for name in model_repository.names(models) if model_repository.is_route(models, name)]
    except ModelRepositoryError as error:
        raise ExportError(str(error)) from error


def no_model(models: Path, name: str, known: Sequence[str]) -> ExportError:
    """The error about a name without versions, where these names are known."""
    if model_repository.is_route(models, name):
        file = models / name / model_repository.ROUTE_FILE
        return ExportError(f"{name} is a route, which has no versions of its own: {file} names the models that answer.")
    return ExportError(f"{models} holds no model {name!r}; the models there: {', '.join(known) or 'none'}.")


def _files(models: Path) -> list[list[ModelFile]]:
    """The versions of each model that has one, by name: the one that serves, then the others, the highest first."""
    try:
        files = [model_repository.versions(models, name) for name in model_repository.names(models)]
    except ModelRepositoryError as error:
        raise ExportError(str(error)) from error
    return [versions for versions in files if versions]


def find(models: Path, name: str, version: int | None = None) -> Entry:
    """One version of a model, by default the one that serves.

    Raises:
        ExportError: there is no such model or version; the message lists those that there are.
    """
    files = {file.version: file for versions in _files(models) for file in versions if file.name == name}
    if not files:
        raise no_model(models, name, [versions[0].name for versions in _files(models)])
    if version is not None and version not in files:
        known = ", ".join(map(str, sorted(files)))
        raise ExportError(f"{models / name} has no version {version}; there are {known}.")
    serving = next(iter(files))
    chosen = serving if version is None else version
    return read(files[chosen], serves=chosen == serving)


def read(file: ModelFile, *, serves: bool = True) -> Entry:
    """Read what one file says about itself, and try whether it may be batched where it does not prove that.

    Args:
        file: one version of a model.
        serves: whether it takes the requests that name no version.
    """
    try:
        runtime = Runtime(file.path, provider="cpu")
        decide_batching(runtime, _MAX_BATCH_SIZE)
        signature, trouble = runtime.signature, None
    except ModelLoadError as error:
        signature, trouble = None, " ".join(str(error).split())
    return Entry(file.name, file.version, file.path, signature, trouble, serves)


def origin(entry: Entry) -> str | None:
    """Where the model came from, in one line; None if the file does not say."""
    metadata = entry.metadata
    if "recipe" not in metadata:
        return metadata.get("source")
    trained = f", trained {metadata['trained'][:10]}" if "trained" in metadata else ""
    trial = f", TRIAL RUN: {entry.trial}" if entry.trial else ""
    return f"recipe {metadata['recipe']}, seed {metadata.get('seed', 'unknown')}{trained}{trial}"


def operators(entry: Entry) -> dict[str, int] | None:
    """How many nodes of each operator the graph has, most frequent first. None if the package onnx is not installed."""
    try:
        import onnx

        from hangtag.export.file import onnx_model
    except ModuleNotFoundError:
        return None
    return dict(onnx_model.operators(onnx.load(entry.path, load_external_data=False)).most_common())


def provenance(entry: Entry) -> Iterator[tuple[str, str]]:
    """Where the model came from: the recorded keys, with values in words."""
    for key in (
        "source", "preprocessing", "tested_on", "recipe", "seed", "parameters", "temperature", "temperature_fitted_on",
        "precision", "processor",
        "data_digest", "trained", "git_revision", "export_git_revision", "graph_digest", "nodes_before_folding",
    ):  # fmt: skip
        if key in entry.metadata:
            yield key, entry.metadata[key]
    versions = entry.json("versions")
    if isinstance(versions, dict):
        yield "versions", ", ".join(f"{name} {version}" for name, version in versions.items())
