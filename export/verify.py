"""Implements ``hangtag models verify``, which repeats the measurements that a model's file records.

Run the command on the machine that serves the model, because processors round differently. Also, a processor without
8-bit dot products (AVX-512 VNNI, AVX-VNNI) may saturate sums of an int8 file from hangtag's first releases.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from hangtag.export.errors import GateError, PicturesGoneError, RecordError
from hangtag.export.file import kept_answers
from hangtag.export.gate import batching, parity
from hangtag.export.gate.check import ACCURACY, AGREEMENT, BATCHING, PARITY, PassedCheck
from hangtag.export.gate.network_answers import REAL, answer, artificial_images, softmax
from hangtag.export.gate.tolerances import GATE_IMAGES, TOLERANCES, Tolerances
from hangtag.export.network_arrays import Pixels
from hangtag.export.quantization import calibration_samples
from hangtag.export.repository.inventory import Entry
from hangtag.serving.image_spec import ImageSpec
from hangtag.serving.server.runtime.session import Runtime
from hangtag.training.data import fashion_mnist, sources
from hangtag.training.data.dataset import Split
from hangtag.training.data.pictures import HeldOut, held_out
from hangtag.training.errors import DataCorruptError, DataNotFoundError
from hangtag.training.runs import run_data as runs_data


@dataclass(frozen=True)
class Finding:
    """The result of repeating a recorded measurement.

    holds: Whether the recorded and the new result agree; None if the measurement is impossible. The summary then has
        the reason.
    lacks_pictures: Whether the pictures for this measurement are missing in the folder that the user named.
    """

    check: str
    holds: bool | None
    summary: str
    lacks_pictures: bool = False


def verify(entry: Entry, data_dir: Path | None) -> list[Finding]:
    """Repeat every measurement that one model's file records, if this is possible.

    A file that cannot be loaded, or whose metadata cannot be read, is a finding, not an error.

    Args:
        data_dir: the folder with Fashion-MNIST's IDX files, or with the user's own pictures; None for the folder that
            the file records.

    Raises:
        DataNotFoundError: the data set is missing.
        DataCorruptError: the data set is damaged.
    """
    if entry.signature is None:
        return [Finding("file", False, entry.trouble or "cannot be loaded")]
    verification = _Verification(entry, data_dir)
    return [_run(name, compute, data_dir) for name, compute in verification.checks()]


def _run(name: str, compute: Callable[[], Finding], data_dir: Path | None) -> Finding:
    try:
        return compute()
    except GateError as error:
        return Finding(name, False, error.reason)
    except PicturesGoneError as error:
        return Finding(name, None, str(error), lacks_pictures=data_dir is not None)
    except ModuleNotFoundError as error:
        return Finding(name, None, f"the package {error.name} is not installed")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        why = str(error) if isinstance(error, RecordError) else "they do not have the form that an export writes"
        return Finding(name, False, f"the recorded figures cannot be read: {why}")


class _Verification:
    """The checks of one model whose file can be loaded."""

    def __init__(self, entry: Entry, data_dir: Path | None) -> None:
        self._entry, self._data_dir = entry, data_dir
        self._runtime = Runtime(entry.path, provider="cpu")

    def checks(self) -> Iterator[tuple[str, Callable[[], Finding]]]:
        """Yield the checks that apply to this model, with their names."""
        entry = self._entry
        yield "file", self._file
        if "training" in entry.metadata:
            yield PARITY, self._parity
            if entry.metadata.get("task") == "single_label":
                yield AGREEMENT, self._agreement
            yield BATCHING, self._batching
        elif "batched" in entry.metadata:
            yield BATCHING, self._third_party_batching
            yield from self._third_party_proofs()

    @property
    def _tolerances(self) -> Tolerances:
        return TOLERANCES[self._entry.precision or "fp32"]

    @cached_property
    def _config(self) -> dict[str, Any]:
        """The config of the run from which the file was exported."""
        config: dict[str, Any] = self._entry.json("training")["config"]
        return config

    @property
    def _is_own(self) -> bool:
        """Whether the file was tested on the user's own pictures."""
        return sources.kind_of(str(self._config.get("dataset", fashion_mnist.NAME))) is not None

    @cached_property
    def _test(self) -> Split:
        """The test split. If the pictures are the user's own, it has only the test pictures that the gate used."""
        if not self._is_own:
            return fashion_mnist.load_test(self._data_dir)
        try:
            return runs_data.load(self._config, self._data_dir).test.first(GATE_IMAGES)
        except (DataNotFoundError, DataCorruptError) as error:
            raise PicturesGoneError(str(error)) from error

    @cached_property
    def _images(self) -> Pixels:
        """The images for which the file keeps PyTorch's answers. If the network was trained on the user's own pictures,
        these are the examples in the file; otherwise they are the first test images or test canvases."""
        if self._is_own:
            kept = kept_answers.read_examples(self._entry.metadata)
            if kept is None:
                raise RecordError("the file has no examples")
            return kept[0]
        if self._entry.metadata["task"] == "single_label":
            return self._test.images[: batching.IMAGES]
        from hangtag.export.run_source import canvases_of

        return canvases_of(self._test, self._config, kept_answers.IMAGES)

    def _file(self) -> Finding:
        recorded = self._entry.metadata.get("graph_digest")
        if recorded is None:
            return Finding("file", None, "the export did not record a digest")
        import onnx

        from hangtag.export.file import onnx_model

        digest = onnx_model.digest(onnx.load(self._entry.path))
        if digest == recorded:
            return Finding("file", True, f"graph and weights are as recorded ({recorded[:12]})")
        return Finding("file", False, f"graph or weights were changed: SHA-256 {digest[:12]}, recorded {recorded[:12]}")

    def _parity(self) -> Finding:
        answers = kept_answers.read_answers(self._entry.metadata)
        if answers is None:
            return Finding(PARITY, None, "the export did not record PyTorch's answers")
        images, tolerances = self._images[: len(next(iter(answers.values())))], self._tolerances
        if "path" in answers:
            return _passed(parity.check(self._runtime, {REAL: images}, {REAL: answers}, tolerances))
        recorded = self._recorded(PARITY)
        spread, worst = float(recorded["spread"]), max(recorded["max_logit_difference"][REAL].values())
        temperature = float(self._entry.metadata.get("temperature", "1"))
        one_label = self._entry.metadata["task"] == "single_label"
        activation = (lambda scores: softmax(scores / temperature)) if one_label else None
        check = parity.check(self._runtime, {REAL: images}, {REAL: answers}, tolerances, spread, activation)
        return Finding(check.name, True, f"{check.summary} (recorded {worst:.1e})")

    def _agreement(self) -> Finding:
        test = self._test
        recorded = float(self._entry.metadata["test_accuracy"])
        accuracy = float((answer(self._runtime, test.images)["logits"].argmax(axis=1) == test.classes).mean())
        summary = f"test accuracy {accuracy:.2%} (recorded {recorded:.2%})"
        # the check fails even if the accuracy rose
        return Finding(AGREEMENT, abs(accuracy - recorded) <= self._tolerances.verification, summary)

    def _batching(self) -> Finding:
        images = self._images
        figures: dict[str, Any] = self._entry.gate or {}
        spread = float(figures.get(PARITY, {}).get("spread", 0.0))
        artificial = artificial_images(*images.shape[1:]).values()
        other_images = np.concatenate([images[-16:], *(pixels[:16] for pixels in artificial)])
        return _passed(batching.check(self._runtime, images, other_images, self._tolerances, spread))

    def _third_party_proofs(self) -> Iterator[tuple[str, Callable[[], Finding]]]:
        """Yield the checks of a third-party model: agreement with the original, and accuracy."""
        entry = self._entry
        if isinstance(entry.gate, dict) and AGREEMENT in entry.gate:
            original = "the file was compared with the FP32 original, which is not in the repository"
            yield AGREEMENT, partial(Finding, AGREEMENT, None, original)
        if "tested_on" in entry.metadata:
            yield ACCURACY, self._third_party_accuracy
        elif self._data_dir is not None:
            why = f"no data set is recorded, so --data-dir {self._data_dir} is not needed"
            yield ACCURACY, partial(Finding, ACCURACY, None, why)

    def _third_party_batching(self) -> Finding:
        from hangtag.export.third_party import probe

        verdict = probe.run(self._entry.path, shown_as=self._entry.path)[BATCHING]
        summary = f"{'batched' if verdict['batched'] else 'one request at a time'}: {verdict['why']}"
        return Finding(BATCHING, verdict["batched"] == self._entry.json("batched"), summary)

    def _third_party_accuracy(self) -> Finding:
        """Measure the accuracy on the same pictures again."""
        from hangtag.export.third_party.judge import Judge

        entry, recorded = self._entry, float(self._entry.metadata["test_accuracy"])
        if entry.signature is None or entry.signature.image is None:
            raise RecordError("there is no hangtag.image")
        image, left_out = entry.signature.image, int(self._recorded(ACCURACY)["left_out"])
        data = tested_pictures(entry.metadata, image, entry.signature.labels, self._data_dir)
        measured = Judge(data, entry.path, str, left_out).measure(entry.path, image, batched=bool(entry.batched))
        summary = f"{measured.figures['summary']} (recorded {recorded:.2%})"
        difference = abs(measured.quality.share - recorded)
        return Finding(ACCURACY, difference <= self._tolerances.verification, summary)

    def _recorded(self, check: str) -> dict[str, Any]:
        """Return the recorded results of one of the gate's checks. Raises RecordError if there are none."""
        gate = self._entry.gate
        if not (isinstance(gate, dict) and isinstance(gate.get(check), dict)):
            raise RecordError(f"the results of the check {check} are missing")
        figures: dict[str, Any] = gate[check]
        return figures


def tested_pictures(
    metadata: Mapping[str, str], image: ImageSpec, labels: Sequence[str], data_dir: Path | None
) -> HeldOut:
    """Read the pictures on which the accuracy of a third-party file was measured.

    The metadata's keys have no prefix. ``data_dir`` is the place of the pictures; None for the place that the file
    records.

    Raises:
        PicturesGoneError: the pictures are missing or have changed.
    """
    tested = json.loads(metadata["gate"])[ACCURACY]
    kind, _, place = str(tested["source"]).partition(":")
    place = place if data_dir is None else str(data_dir)
    if not Path(place).exists():
        raise PicturesGoneError(
            f"the pictures that the file was tested on are not at {place}; name their folder with --data-dir"
        )
    try:
        data = held_out(f"{kind}:{place}", image, labels)
    except (DataNotFoundError, DataCorruptError) as error:
        raise PicturesGoneError(str(error)) from error
    if tested["left_out"]:
        used = calibration_samples.spread(data.pictures, calibration_samples.MOST_PICTURES)
        data = data.without({picture.digest for picture in calibration_samples.making(used)})
    if data.digest != metadata["data_digest"]:
        raise PicturesGoneError(f"the pictures of {kind}:{place} are not those that the file was tested on")
    return data


def _passed(check: PassedCheck) -> Finding:
    return Finding(check.name, True, check.summary)
