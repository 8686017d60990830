"""Reads the markers of a JPEG file, to know the memory that libjpeg takes for its picture.

A baseline JPEG is decoded row by row. The scans of a progressive one, and of one with a scan for each component, each
change the whole picture, so libjpeg holds all coefficients, 16 bits each, until the last scan is decoded.
"""

import re
import struct

from hangtag.serving.server.classification.image_header import ImageHeader, damaged

SIGNATURE = b"\xff\xd8\xff"

_MAX_SEGMENTS = 1_000
"""Pillow keeps each segment before the picture, and joins those of Exif one by one. The largest that cameras write, of
64 KiB, reach the default --max-message-mib with 256."""
_MAX_SCANS = 100
"""Each takes time for all coefficients, and may have a few bytes. Encoders write about ten."""

_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)
_ALONE = {0xC8, *range(0xD0, 0xDA), *range(0xF0, 0xFE)}  # markers after which Pillow expects no length
_SCAN = 0xDA
_END = 0xD9
_BLOCK = 8
_BLOCK_BYTES = 2 * _BLOCK * _BLOCK

_MARKER = re.compile(rb"\xff([^\x00\xff])")
_MARKER_AFTER_SCAN = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")


def read(data: bytes) -> ImageHeader:
    """Read the markers of a JPEG file up to its picture, and count the scans of the picture where it has several.

    Raises:
        InvalidRequestError: The file is damaged, or has more segments or scans than are taken.
    """
    frame, at, segments = None, 2, 0
    while (marker := _MARKER.search(data, at)) and marker[1][0] != _SCAN:
        at = marker.end()
        kind = marker[1][0]
        if kind in _ALONE:
            continue
        if kind in _FRAMES:
            frame = (kind, data[at : at + _length(data, at)])
        at += _length(data, at)
        segments += 1
        if segments > _MAX_SEGMENTS:
            raise damaged(f"it has more than {_MAX_SEGMENTS:,} segments before its picture")
    if frame is None or marker is None:
        raise damaged("its header is wrong")
    return _header(data, *frame, marker.end())


def _header(data: bytes, kind: int, frame: bytes, scan: int) -> ImageHeader:
    """scan: where the data of the first scan starts."""
    try:
        height, width, components = struct.unpack_from(">HHB", frame, 3)
        sampling = [divmod(frame[8 + 3 * number + 1], 16) for number in range(components)]
        has_several_scans = kind in _PROGRESSIVE or data[scan + 2] < components
    except (struct.error, IndexError):
        raise damaged("its header is wrong") from None
    if components not in (1, 3, 4) or any(0 in factors for factors in sampling):
        raise damaged("its header is wrong")
    if has_several_scans:
        _require_scans(data, scan)
    name = "progressive JPEG" if kind in _PROGRESSIVE else "JPEG of several scans" if has_several_scans else "JPEG"
    return ImageHeader(
        name,
        width,
        height,
        decoded_bytes=width * height * (1 if components == 1 else 4),
        decoder_bytes=_coefficient_bytes(width, height, sampling) if has_several_scans else 0,
        kept_bytes=2 * scan,
        advice="Scale it down, or save it as a baseline JPEG." if has_several_scans else "Scale it down.",
    )


def _length(data: bytes, at: int) -> int:
    """Return the length of a segment, its own two bytes counted."""
    return max(2, int.from_bytes(data[at : at + 2], "big"))


def _coefficient_bytes(width: int, height: int, sampling: list[tuple[int, int]]) -> int:
    """Return what the coefficients of all components take, in whole groups of blocks."""
    across = -(-width // (_BLOCK * max(horizontal for horizontal, _ in sampling)))
    down = -(-height // (_BLOCK * max(vertical for _, vertical in sampling)))
    return sum(across * horizontal * down * vertical * _BLOCK_BYTES for horizontal, vertical in sampling)


def _require_scans(data: bytes, at: int) -> None:
    """Raise InvalidRequestError for a picture of more scans than are taken. at: where the first one's data starts."""
    scans = 1
    while (marker := _MARKER_AFTER_SCAN.search(data, at)) and marker[1][0] != _END:
        at = marker.end() + _length(data, marker.end())
        scans += marker[1][0] == _SCAN
        if scans > _MAX_SCANS:
            raise damaged(f"it has more than {_MAX_SCANS} scans")
