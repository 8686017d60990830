"""What an image file says of itself before it is decoded: its size, and so the memory that decoding takes."""

from dataclasses import dataclass

from hangtag.serving.server.errors import InvalidRequestError

MAX_EDGE = 16_384
"""Most pixels of an edge, which bounds what rows cost, however short they are. A WebP has no longer edge, nor have the
panoramas of phones, and pages of A4 that are scanned at 1,200 dots an inch."""

MAX_PIXELS = 50_000_000
"""Most pixels of an image, which bounds the time that decoding takes. A small file can hold a huge image."""

MAX_DECODING_BYTES = 240 << 20
"""Most memory that decoding an image may take. A photo of 50 megapixels, a baseline JPEG, takes 239 MiB."""

_ROW_POINTER_BYTES = 8
_FLAT_BYTES = {1: 1, 3: 4}
"""Of a pixel, by the number of channels. Pillow keeps a fourth byte for a pixel of three colours."""


@dataclass(frozen=True)
class ImageHeader:
    """The size of an image, and the memory that its decoder takes, derived from the file before it is decoded."""

    kind: str
    """The format in words, such as "progressive JPEG"."""
    width: int
    height: int
    decoded_bytes: int
    """What Pillow's decoded image takes."""
    decoder_bytes: int
    """What the decoder takes at most in addition to the decoded image, and frees when the image is decoded."""
    kept_bytes: int
    """What stays in memory with the decoded image: copies of parts of the file, a decoder's buffers."""
    advice: str = "Scale it down."

    def memory(self, channels: int) -> int:
        """The most bytes that decoding the image to grey (1) or colour (3) takes, the file itself not counted."""
        rows = _ROW_POINTER_BYTES * 2 * max(self.width, self.height)
        decoded = self.decoded_bytes + self.kept_bytes
        flat = self.width * self.height * _FLAT_BYTES[channels]
        return rows + max(decoded + self.decoder_bytes, decoded + flat, 2 * flat)  # twice while it is turned upright

    def require_limits(self, channels: int) -> None:
        """Raise InvalidRequestError for an image that is larger, or takes more memory to decode, than it may."""
        size = f"{self.width} x {self.height} pixels"
        if self.width <= 0 or self.height <= 0:
            raise damaged(f"it has {size}")
        if self.width * self.height > MAX_PIXELS:
            raise InvalidRequestError(f"the image has {size}; at most {MAX_PIXELS:,} are taken. Scale it down.")
        if max(self.width, self.height) > MAX_EDGE:
            raise InvalidRequestError(
                f"the image has {size}; edges of at most {MAX_EDGE:,} pixels are taken. Scale it down."
            )
        if (memory := self.memory(channels)) > MAX_DECODING_BYTES:
            raise InvalidRequestError(
                f"the image, a {self.kind} of {size}, may take {_mib(memory)} MiB of memory to decode; at most "
                f"{_mib(MAX_DECODING_BYTES)} MiB are taken. {self.advice}"
            )


def damaged(reason: object) -> InvalidRequestError:
    """Return the error for a file that cannot be decoded."""
    return InvalidRequestError(f"the image cannot be decoded and seems damaged: {reason}")


def _mib(size: int) -> int:
    return -(-size >> 20)  # rounded up
