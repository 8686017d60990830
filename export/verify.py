"""Do the figures in a model's file still hold, on this machine? All that can be computed anew from the file alone.

Worth asking on the machine that serves: a processor without 8-bit dot products (AVX-512 VNNI, AVX-VNNI) may saturate
sums of an int8 model that another one computes in full.
"""

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from hangtag.export.errors import ExportError, GateError
from hangtag.export.file import reference_answers as reference
from hangtag.export.file.reference_answers import Reference
from hangtag.export.foreign import probe_process as child
from hangtag.export.gate import runtime_answers as answers
from hangtag.export.gate.checks import agreement, batching
from hangtag.export.gate.checks import logits as parity
from hangtag.export.gate.runtime_answers import REAL, Pixels
from hangtag.export.gate.tolerances import RULES, Rules
from hangtag.export.repository.inventory import Entry
from hangtag.serving.server.runtime.session import Runtime
from hangtag.training.data import fashion_mnist as data

ACTIVATIONS = {"single_label": answers.softmax}


@dataclass(frozen=True)
class Finding:
    """What a recorded figure is now. holds: None where it could not be computed, and said tells why."""

    check: str
    holds: bool | None
    said: str


def verify(entry: Entry, data_dir: Path | None) -> list[Finding]:
    """Everything about one model. A file that cannot be loaded is one finding, not an error.

    Raises the data set's own errors where it is missing.
    """
    if entry.signature is None:
        return [Finding("file", False, entry.trouble or "cannot be loaded")]
    return [_judged(name, ask) for name, ask in _checks(entry, data_dir)]


def _judged(name: str, ask: Callable[[], Finding]) -> Finding:
    try:
        return ask()
    except GateError as error:
        return Finding(name, False, error.why)
    except (ValueError, TypeError, KeyError, AttributeError, zlib.error) as error:
        return Finding(name, False, f"what is recorded cannot be read: {error}")


def _checks(entry: Entry, data_dir: Path | None) -> Iterator[tuple[str, Callable[[], Finding]]]:
    runtime = Runtime(entry.path, provider="cpu")
    yield "file", lambda: _file(entry)
    yield "structure", lambda: _structure(entry)
    if strange := _strange(entry):
        yield "metadata", lambda: Finding("metadata", False, strange)
    elif "training" in entry.metadata:
        images = _images(entry, data_dir)
        rules = RULES[entry.precision or "fp32"]
        yield parity.NAME, lambda: _parity(entry, runtime, images, rules)
        if entry.metadata["task"] == "single_label":
            yield "data", lambda: _data(entry)
            yield agreement.NAME, lambda: _agreement(entry, runtime, data_dir, rules)
        yield batching.NAME, lambda: _batching(entry, runtime, images, rules)
    elif "batched" in entry.metadata:
        yield batching.NAME, lambda: _verdict(entry)
    if entry.batched:
        yield "empty batch", lambda: _held(batching.check_empty(entry.path))


def _file(entry: Entry) -> Finding:
    recorded = entry.metadata.get("graph_digest")
    if recorded is None:
        return Finding("file", None, "no digest was recorded when it was exported")
    try:
        from hangtag.export.file import onnx_model as graph
    except ModuleNotFoundError:
        return Finding("file", None, "the package onnx is not installed, which the digest is computed with")
    found = graph.digest(entry.path)
    if found == recorded:
        return Finding("file", True, f"graph and weights are as recorded ({recorded[:12]})")
    return Finding("file", False, f"graph or weights were changed: SHA-256 {found[:12]}, recorded {recorded[:12]}")


def _structure(entry: Entry) -> Finding:
    try:
        from hangtag.export.gate.checks import structure
    except ModuleNotFoundError:
        return Finding("structure", None, "the package onnx is not installed")
    return _held(structure.check(entry.path, strict="training" in entry.metadata))


def _strange(entry: Entry) -> str:
    """What no export of ours writes, and without which nothing can be asked; empty where all is well."""
    if "training" not in entry.metadata:
        return ""
    known = {"precision": tuple(RULES), "task": ("single_label", "multi_label")}
    told = {"precision": entry.precision, "task": entry.metadata.get("task")}
    found = [f"{key} is {told[key]!r}, not {' or '.join(known[key])}" for key in known if told[key] not in known[key]]
    training = entry.json("training")
    if not (isinstance(training, dict) and isinstance(training.get("config"), dict)):
        found.append("training holds no config")
    return "; ".join(found)


def _data(entry: Entry) -> Finding:
    """The files were checked when they were read; are they those that it was trained on?"""
    recorded = entry.metadata["data_digest"]
    if recorded == data.DIGEST:
        return Finding("data", True, f"the data set is the one that it was trained on ({recorded[:12]})")
    return Finding(
        "data", False, f"it was trained on another data set: SHA-256 {recorded[:12]}, here {data.DIGEST[:12]}"
    )


def _parity(entry: Entry, runtime: Runtime, images: Pixels, rules: Rules) -> Finding:
    kept = reference.read(entry.metadata)
    if kept is None:
        return Finding(parity.NAME, None, "no answers of PyTorch were kept when it was exported")
    images = images[: len(next(iter(kept.answers.values())))]
    if "logits" not in kept.answers:
        return _paths(kept, runtime, images, rules)
    recorded = _recorded(entry, parity.NAME)
    spread, worst = float(recorded["spread"]), max(recorded["max_logit_difference"][REAL].values())
    activation = ACTIVATIONS.get(entry.metadata["task"])
    found = parity.check(runtime, {REAL: images}, {REAL: kept.answers}, rules, spread, activation)
    return Finding(found.name, True, f"{found.said} (recorded {worst:.1e})")


def _paths(kept: Reference, runtime: Runtime, images: Pixels, rules: Rules) -> Finding:
    """Paths that are level may change places; their probabilities may not."""
    got = answers.of_file(runtime, images)
    same = (got["path"] == kept.answers["path"]).all(axis=1)
    of_path = np.abs(got["path_probability"] - kept.answers["path_probability"])
    of_labels = np.where(same[:, None], np.abs(got["probabilities"] - kept.answers["probabilities"]), 0)
    worst = float(max(of_path.max(), of_labels.max()))
    said = f"probabilities within {worst:.1e} of PyTorch; {int(same.sum())} of {len(same)} paths the same, others level"
    return Finding(parity.NAME, worst <= rules.absolute, said)


def _agreement(entry: Entry, runtime: Runtime, data_dir: Path | None, rules: Rules) -> Finding:
    test = data.load_test(data_dir)
    logits = answers.of_file(runtime, test.images)["logits"]
    recorded = float(entry.metadata["test_accuracy"])
    found = float((logits.argmax(axis=1) == test.classes).mean())
    said = f"test accuracy {found:.2%} (recorded {recorded:.2%})"
    holds = abs(found - recorded) <= rules.verified  # one that is too high was not this file's either
    kept = reference.read(entry.metadata)
    if kept is not None and kept.labels is not None and len(kept.labels) == len(test):
        gate = _recorded(entry, agreement.NAME)
        agreeing = float((logits.argmax(axis=1) == kept.labels).mean())
        said += f", {agreeing:.2%} of the answers are PyTorch's (recorded {gate['agreement']:.2%})"
        holds = holds and agreeing >= rules.agreement - rules.verified
        for figure, now in (("accuracy", found), ("agreement", agreeing)):  # what the gate said must hold as well
            holds = holds and abs(now - gate[figure]) <= rules.verified
    return Finding(agreement.NAME, holds, said)


def _recorded(entry: Entry, check: str) -> dict[str, Any]:
    """The figures of one of the gate's checks. Raises TypeError for a file that has none."""
    gate = entry.json("gate")
    if not (isinstance(gate, dict) and isinstance(gate.get(check), dict)):
        raise TypeError(f"the gate's figures about {check} are missing")
    figures: dict[str, Any] = gate[check]
    return figures


def _batching(entry: Entry, runtime: Runtime, images: Pixels, rules: Rules) -> Finding:
    figures: dict[str, Any] = entry.json("gate") or {}
    spread = float(figures.get("parity", {}).get("spread", 0.0))
    height, width = images.shape[1:]
    artificial = answers.artificial(height, width).values()
    company = np.concatenate([images[-16:], *(pixels[:16] for pixels in artificial)])
    level: list[int] = []
    if "path" in {spec.name for spec in runtime.signature.outputs}:
        # Where paths are level, either may win; which images those are is seen by asking twice.
        alone, together = answers.of_file(runtime, images, 1), answers.of_file(runtime, images)
        level = np.flatnonzero((alone["path"] != together["path"]).any(axis=1)).tolist()
    return _held(batching.check(runtime, images, company, rules, spread, level))


def _verdict(entry: Entry) -> Finding:
    """Somebody else's model: is it still true that its requests may be joined, or may not?"""
    if find_spec("onnx") is None:
        return Finding(batching.NAME, None, "the package onnx is not installed")
    found = child.ask(entry.path, entry.path)["batching"]
    said = f"{'batched' if found['batched'] else 'one request at a time'}: {found['why']}"
    return Finding(batching.NAME, found["batched"] == entry.batched, said)


def _images(entry: Entry, data_dir: Path | None) -> Pixels:
    """What the reference answers are to: the first images of the test split, or of the test canvases."""
    test = data.load_test(data_dir)
    if entry.metadata["task"] == "single_label":
        return test.images[: batching.ALONE]
    try:
        from hangtag.training.data import outfits
    except ModuleNotFoundError as error:
        raise ExportError(
            f"{entry.name} is asked about canvases, which need the Python module {error.name!r}. "
            "In the project's folder, install it with: pip install '.[train]'"
        ) from error
    dataset = entry.json("training")["config"].get("dataset")
    chosen = dataset if dataset in outfits.NAMES else "outfits"
    return outfits.load_split(chosen, "test", test, reference.IMAGES).images


def _held(check: Any) -> Finding:
    return Finding(check.name, True, check.said)
