"""Prove a classifier against the bare network, and its accuracy against that of the version that serves."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx

from hangtag.export import predecessors
from hangtag.export.file.quality import Quality
from hangtag.export.gate.checks import predecessor
from hangtag.export.quantization.samples import spread
from hangtag.export.repository.inventory import Entry
from hangtag.export.third_party import pictures
from hangtag.export.third_party.pictures import Labelled
from hangtag.export.third_party.plan import Plan
from hangtag.export.third_party.processes import run_pictures
from hangtag.serving.image_spec import ImageSpec

_BATCH = 16
"""Pictures that a file whose requests may be batched answers at a time."""


@dataclass(frozen=True)
class Measured:
    """The accuracy of a file.

    Attributes:
        quality: Its share of right answers, not rounded, and the digest of the pictures.
        figures: For the gate's record.
        metadata: What is written into the file (keys without their prefix).
    """

    quality: Quality
    figures: Mapping[str, Any]
    metadata: Mapping[str, str]


def compare(network: onnx.ModelProto, plan: Plan, given: Sequence[str], path: Path, folder: Path) -> dict[str, Any]:
    """Compare the classifier's answers with those of the bare network to pictures that Pillow and NumPy prepare.

    Args:
        network: The bare one.
        given: Paths of the user's pictures, of which some are taken; without any, some are drawn.
        path: The file's name in error messages.
        folder: For temporary files.

    Raises:
        GateError: the answers differ, or the scores are not what they are said to be.
    """
    wrapped = plan.wrapped
    assert wrapped is not None
    (folder / "bare.onnx").write_bytes(network.SerializeToString())
    (folder / "wrapped.onnx").write_bytes(wrapped.model.SerializeToString())
    request = pictures.Request(
        "wrapped.onnx",
        wrapped.steps.image,
        [(picture, None) for picture in spread(given, pictures.COMPARED)],
        bare="bare.onnx",
        bare_batch=plan.bare_batch or 1,
        steps=asdict(wrapped.steps),
        output=wrapped.output,
        scores=wrapped.scores,
    )
    found = run_pictures(folder, request.as_json(), path)
    return found | {"summary": pictures.figures(found)}


@dataclass(frozen=True)
class Judge:
    """Measures files on the user's pictures.

    Attributes:
        data: The pictures.
        path: The imported file's name in error messages.
        folder: For temporary files.
        progress: Gets a line now and then.
    """

    data: Labelled
    path: Path
    folder: Path
    progress: Callable[[str], object]

    def measure(self, file: Path, image: ImageSpec, *, batched: bool) -> Measured:
        """Measure a file's accuracy. Raises GateError: it does not answer, or a picture cannot be read."""
        request = pictures.Request(str(file.resolve()), image.as_json(), self.data.files, _BATCH if batched else 1)
        found = run_pictures(self.folder, request.as_json(), self.path, self.progress)
        share = found["right"] / found["pictures"]
        of = f"{found['pictures']:,} pictures of {self.data.name}"
        return Measured(
            Quality("test_accuracy", share, self.data.digest),
            {"right": found["right"], "pictures": found["pictures"], "summary": f"{share:.2%} of {of}"},
            {
                "test_accuracy": f"{share:.4f}",
                "data_digest": self.data.digest,
                "tested_on": of,
                "examples": found["examples"],
            },
        )

    def compare(self, measured: Measured, rival: Entry, even_if_worse: bool) -> dict[str, Any] | None:
        """Compare with the version that serves: by what it records of these pictures, or measured on them now.

        Returns:
            Figures for the gate's record; None if it cannot be compared, and the user wants it so.

        Raises:
            IncomparableError: it cannot be compared, and not ``even_if_worse``.
            GateError: the new file is worse, and not ``even_if_worse``.
        """
        signature = rival.signature
        before = predecessors.recorded_on(rival, self.data.digest)
        if before is None and signature is not None:
            most = max(label for _, label in self.data.files)
            if signature.image is None or signature.picture_shape is None or most >= len(signature.labels):
                predecessors.refuse_incomparable(rival, even_if_worse=even_if_worse)
                return None
            before = self.measure(rival.path, signature.image, batched=signature.batched).quality
        if before is None:
            return None
        compared = predecessor.check(
            measured.quality,
            len(self.data.files),
            before,
            rival.version,
            even_if_worse=even_if_worse,
            remedy="To publish it all the same, add --even-if-worse, or give it another name with --name.",
        )
        return {**compared.figures, "summary": compared.summary}
