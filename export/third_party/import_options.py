"""Settings for publishing a third-party file. Each setting is declared only here, as an option of the command."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hangtag.export.gate.tolerances import TOLERANCES
from hangtag.export.quantization import agreement
from hangtag.export.third_party.preprocessing import SCORES
from hangtag.options import A_FOLDER
from hangtag.settings import REQUIRED, setting

MODELS = "The model repository to publish into."
NAME = "The model's name in the repository; another --precision is added to it, as in NAME-int8."
EVEN_IF_WORSE = "Publish even if the served version is better, or has no figure to compare with."
EVEN_IF_DIFFERENT = (
    "Publish even if the served version has other inputs, outputs, labels or fit, on which its callers rely."
)


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """What the user states about a file, and how to publish it.

    Raises:
        ExportError: A rule of ``agree_on`` is malformed.

    Example:
        >>> ImportOptions(name="resnet", labels=Path("imagenet.txt"), preprocessing="size=224x224 fit=crop scale=255")
    """

    name: str = setting(REQUIRED, NAME)
    labels: Path | None = setting(
        None,
        "The labels of the outputs' last axis, one per line, or a JSON list.  [default: the labels that come with "
        "the file]",
    )
    preprocessing: str | None = setting(
        None,
        "How a picture becomes the network's input, such as 'size=224x224 fit=crop order=rgb scale=255 mean=R,G,B "
        "std=R,G,B': made to fit, then (pixel / scale - mean) / std. It becomes a part of the file.  [default: what "
        "the files next to it say]",
        metavar="STEPS",
    )
    scores: str | None = setting(
        None,
        "What the network answers with; logits get a softmax.  [default: probabilities if its last layer is a "
        "softmax, else logits]",
        choices=SCORES,
    )
    data: str | None = setting(
        None,
        "Your pictures with their labels. The accuracy on them is recorded, and compared with the served version's "
        "accuracy.",
        metavar="folder:PICTURES|csv:FILE",
    )
    models: Path = setting(Path("models"), MODELS, kind=A_FOLDER, envvar="HANGTAG_MODELS")
    even_if_worse: bool = setting(False, EVEN_IF_WORSE)
    even_if_different: bool = setting(False, EVEN_IF_DIFFERENT)
    precision: str = setting(
        "fp32",
        "Convert the file: int8 is for CPUs, and needs --calibration or --data.",
        choices=("fp32", "int8"),
    )
    samples: Path | Sequence[Path] | None = setting(
        None,
        "With --precision: samples, as arrays named like the inputs, or as a folder of pictures. Half of them make "
        "the file, the others test it.  [default: the pictures of --data]",
        flag="--calibration",
        folder=True,
        metavar="FILE.npz|FOLDER",
    )
    agree_at_least: float | None = setting(
        None,
        "With --precision: the percentage of samples that must be answered like by the original. Layers stay in FP32 "
        "as needed.  [default: 99]",
        between=(50, 100),
        metavar="PERCENT",
    )
    agree_on: tuple[str, ...] = setting(
        (),
        "With --precision: compare this output, by its largest score, its values, or exactly. Repeatable.  [default: "
        "every output, by the rule that fits]",
        metavar=f"OUTPUT={'|'.join(agreement.RULES)}",
    )

    def __post_init__(self) -> None:
        _ = self.rules  # checks them

    @property
    def rules(self) -> Mapping[str, str]:
        """Output -> rule of ``agreement.RULES``; if empty, every output is compared, with the rule that fits."""
        return agreement.parse(self.agree_on)

    @property
    def least(self) -> float:
        """The share of samples that a converted file must answer like the original."""
        least = self.agree_at_least
        return TOLERANCES[self.precision].agreement if least is None else least / 100
