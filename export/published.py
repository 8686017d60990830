"""What an export published: the version, its proof, and what the proof was made with."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hangtag.export.arrays import Pixels
from hangtag.export.gate.proof import Proof


@dataclass(frozen=True)
class Published:
    """A published model."""

    folder: Path
    """The version's folder."""
    proof: Proof
    metadata: Mapping[str, str]
    """The file's own metadata (keys without their prefix)."""
    images: Pixels
    """The real images that PyTorch's answers and the file's in the proof belong to."""
