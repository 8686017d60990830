"""Settings for publishing a third-party file. Each setting is declared only here, as an option of the command."""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path

from hangtag.export.gate.tolerances import TOLERANCES
from hangtag.export.quantization import agreement
from hangtag.export.third_party.preprocessing import SCORES
from hangtag.options import A_FOLDER
from hangtag.settings import setting

MODELS = "The model repository to publish into."
NAME = "The model's name in the repository. If it lacks the precision's ending (-fp16, -int8), hangtag appends it."
EVEN_IF_WORSE = "Publish even if the served version is more accurate, or cannot be compared."
EVEN_IF_DIFFERENT = "Publish even if inputs, outputs, labels or 'fit' differ from those of the served version."


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """What the user states about a file, and how to publish the file.

    Raises:
        ExportError: A rule of ``agree_on`` is malformed.

    Example:
        >>> ImportOptions(name="resnet", labels=Path("imagenet.txt"), preprocessing="size=224x224 fit=crop scale=255")
    """

    name: str = setting(MISSING, NAME)
    labels: Path | None = setting(
        None,
        "A file with the labels, in the order of the network's scores: one label per line, or a JSON list.  [default: "
        "the labels in FILE.onnx, or next to it]",
    )
    preprocessing: str | None = setting(
        None,
        "How a picture becomes the network's input, such as 'size=224x224 fit=crop order=rgb scale=255 mean=R,G,B "
        "std=R,G,B'. hangtag resizes the picture by fit, and computes (pixel / scale - mean) / std. These steps "
        "become a part of the published file.  [default: the steps in the files next to FILE.onnx]",
        metavar="STEPS",
    )
    scores: str | None = setting(
        None,
        "Whether the network returns probabilities or logits. hangtag adds a softmax to logits.  [default: "
        "probabilities if the network's last layer is a softmax, otherwise logits]",
        choices=SCORES,
    )
    data: str | None = setting(
        None,
        "Your pictures with their labels. hangtag measures the accuracy on these pictures, records the accuracy in "
        "the file, and compares it with that of the served version.",
        metavar="folder:PICTURES|csv:FILE",
    )
    models: Path = setting(Path("models"), MODELS, kind=A_FOLDER, envvar="HANGTAG_MODELS")
    even_if_worse: bool = setting(False, EVEN_IF_WORSE)
    even_if_different: bool = setting(False, EVEN_IF_DIFFERENT)
    precision: str = setting(
        "fp32",
        "The precision of the published file. int8 is for CPUs, and needs --calibration or --data.",
        choices=("fp32", "int8"),
    )
    samples: Path | Sequence[Path] | None = setting(
        None,
        "Samples for --precision int8: a folder of pictures, or an .npz file with an array named after each input. "
        "Half of the samples calibrate the conversion, and the other half checks the result.  [default: the pictures "
        "of --data]",
        flag="--calibration",
        folder=True,
        metavar="FILE.npz|FOLDER",
    )
    agree_at_least: float | None = setting(
        None,
        "With --precision int8, the converted file must give the original file's answer for this percentage of "
        "the samples. To reach this, some layers may stay in FP32.  [default: 99]",
        between=(50, 100),
        metavar="PERCENT",
    )
    agree_on: tuple[str, ...] = setting(
        (),
        "With --precision int8, compare only this output. The rule says what must agree: labels (the label with the "
        "largest score), values (all values, approximately) or equal (all values, exactly). Repeatable.  "
        "[default: all outputs, each by a suitable rule]",
        metavar=f"OUTPUT={'|'.join(agreement.RULES)}",
    )

    def __post_init__(self) -> None:
        _ = self.rules  # raises an error for a malformed rule

    @property
    def rules(self) -> Mapping[str, str]:
        """The rule of ``agreement.RULES`` for each output; empty if each output gets the rule that suits it."""
        return agreement.parse(self.agree_on)

    def least(self, samples: int) -> float:
        """Return the share of the samples for which a converted file must give the original's answer.

        Without --agree-at-least, the share is 99 %. With 20 to 99 samples it is lower: one answer may differ.
        """
        if self.agree_at_least is not None:
            return self.agree_at_least / 100
        tolerances = TOLERANCES[self.precision]
        return min(tolerances.agreement, 1 - tolerances.one_image(samples))
