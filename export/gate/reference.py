"""What a file must answer like: the network in PyTorch, or, of a file in another precision, the FP32 file."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hangtag.export.arrays import Answers, Array, Pixels
from hangtag.export.errors import GateError
from hangtag.export.gate.check import STRUCTURE
from hangtag.export.gate.runtime_answers import answer, softmax
from hangtag.serving.server.errors import ModelLoadError
from hangtag.serving.server.runtime.session import Runtime
from hangtag.serving.signature import TensorSpec

Answer = Callable[[Pixels], Answers]


@dataclass(frozen=True)
class Reference:
    """What a file is compared with.

    Attributes:
        name: In messages.
        key: In metadata.
        inputs: What the file must take.
        outputs: What it must answer with.
        answer: Every output for images [n, ...].
        activation: Turns logits into probabilities, before a temperature.
        temperature: Divides the logits before that.
        threshold: From which probability on a label is in an image's set; None where something else decides.
        perturbed: For a network that answers with paths of labels: its answers after small changes of its weights,
            which show what a tie is.
    """

    name: str
    key: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    answer: Answer
    activation: Callable[[Array], Array] = softmax
    temperature: float = 1.0
    threshold: float | None = None
    perturbed: Callable[[], Iterator[Answer]] | None = None


def of_file(path: Path) -> Reference:
    """A classifier's file in FP32, which has passed the gate against PyTorch, so that its answers stand for PyTorch's.

    Raises:
        GateError: it cannot be loaded.
    """
    runtime = load(path)
    signature = runtime.signature
    temperature = float(signature.metadata.get("temperature", "1"))
    return Reference(
        "the FP32 file",
        "fp32 file",
        signature.inputs,
        signature.outputs,
        lambda images: answer(runtime, images),
        temperature=temperature,
    )


def load(path: Path) -> Runtime:
    """Load a file on the CPU. Raises GateError: ONNX Runtime refuses it."""
    try:
        return Runtime(path, provider="cpu")
    except ModelLoadError as error:
        raise GateError(STRUCTURE, f"{error}.") from error
