import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest

from hangtag.training.data import fashion_mnist as data
from hangtag.training.data.fashion_mnist import Images, Split
from tests.kit.shipped import MODELS, latest

Logits = npt.NDArray[np.float32]


@pytest.fixture(scope="session")
def calibration() -> Images:
    """Real images that no test classifies."""
    return data.load_test().images[-96:]


@pytest.fixture(scope="session")
def many() -> Split:
    """The first 300 real test images."""
    return data.load_test().first(300)


def shipped(model: str) -> onnx.ModelProto:
    """A trained network, in FP32, that ships."""
    return onnx.load(latest(model))


def first(model: str) -> onnx.ModelProto:
    """The study's network, which is steep nowhere: rounding moves all its logits alike."""
    return onnx.load(MODELS / model / "1" / "model.onnx")


def apart(actual: Logits, expected: Logits) -> tuple[float, float]:
    """The largest difference and the root mean square, as shares of the range of the expected logits."""
    difference = np.abs(actual - expected) / np.ptp(expected)
    return float(difference.max()), float(np.sqrt(np.mean(difference**2)))


def logits(model: onnx.ModelProto, images: Images, batch_size: int = 50) -> Logits:
    """Run images [n, 28, 28] in ONNX Runtime, one batch at a time."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    parts = [images[start : start + batch_size] for start in range(0, len(images), batch_size)]
    return np.concatenate([session.run(["logits"], {"image": part})[0] for part in parts])
