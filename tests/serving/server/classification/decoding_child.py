"""Decodes the files that standard input names, and writes the memory that each gained: a process of its own.

``python -m tests.serving.server.classification.decoding_child`` runs it.
"""

import ctypes
import json
import re
import sys
from pathlib import Path

from PIL import Image

from hangtag.serving.image_spec import ImageSpec
from hangtag.serving.server.classification.image_decoding import decoded, header_of
from hangtag.serving.server.errors import InvalidRequestError
from tests.kit.picture_files import encoded

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def main() -> None:
    """Write a line of JSON for each file: the bytes that it gained and that it counts, or the error that refused it."""
    for format_ in ("PNG", "JPEG", "WEBP"):  # loads what is loaded once
        prepare(encoded(Image.new("RGB", (100, 100)), format_))
    for path in sys.stdin:
        data = Path(path.strip()).read_bytes()
        ctypes.CDLL(None).malloc_trim(0)  # so that memory that the last file left does not hide what this one takes
        _CLEAR.write_text("5")  # the peak begins again
        before, counted, error = _resident("VmRSS"), 0, ""
        try:
            prepare(data)
            counted = header_of(data, 1).memory(1)
        except InvalidRequestError as refusal:
            error = str(refusal)
        sys.stdout.write(json.dumps([_resident("VmHWM") - before, counted, error]) + "\n")
        sys.stdout.flush()


def prepare(data: bytes) -> None:
    """Decode a file as a classifier of garments does."""
    with decoded(data, 1) as picture:
        ImageSpec(28, 28, fit="garment").prepare(picture)


def _resident(name: str) -> int:
    (kib,) = re.findall(rf"{name}:\s+(\d+) kB", _STATUS.read_text())
    return int(kib) << 10


if __name__ == "__main__":
    main()
