"""Files of the data set that are not what they should be."""

import gzip
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hangtag.training.data.fashion_mnist import DIGESTS, load, load_test
from hangtag.training.errors import DataCorruptError, DataNotFoundError

TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = DIGESTS


@contextmanager
def without_privileges() -> Iterator[None]:
    """Root may read everything: be nobody for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("name", DIGESTS)
def test_a_missing_file_is_named(linked: Path, name: str) -> None:
    (linked / name).unlink()
    with pytest.raises(DataNotFoundError) as caught:
        load(linked)
    assert [other for other in DIGESTS if other in str(caught.value)] == [name]


def test_files_missing_from_torchvisions_layout_are_named(linked: Path, tmp_path: Path) -> None:
    (tmp_path / "FashionMNIST").mkdir()
    linked.rename(tmp_path / "FashionMNIST" / "raw")
    (tmp_path / "FashionMNIST" / "raw" / TEST_LABELS).unlink()
    with pytest.raises(DataNotFoundError) as caught:
        load(tmp_path)
    assert [name for name in DIGESTS if name in str(caught.value)] == [TEST_LABELS]


@pytest.mark.parametrize("name", DIGESTS)
def test_a_flipped_bit_is_noticed_and_the_file_named(linked: Path, raw_dir: Path, name: str) -> None:
    contents = bytearray((raw_dir / name).read_bytes())
    contents[-1] ^= 1
    (linked / name).unlink()
    (linked / name).write_bytes(contents)
    with pytest.raises(DataCorruptError) as caught:
        load(linked)
    message = str(caught.value)
    assert message.startswith(f"{linked / name} is not the published file")
    assert DIGESTS[name] in message
    assert hashlib.sha256(contents).hexdigest() in message


def test_a_flipped_bit_inside_a_gz_is_noticed(linked: Path, raw_dir: Path) -> None:
    contents = bytearray((raw_dir / TEST_LABELS).read_bytes())
    contents[5_000] ^= 1
    (linked / f"{TEST_LABELS}.gz").write_bytes(gzip.compress(contents))
    with pytest.raises(DataCorruptError, match=rf"{TEST_LABELS}\.gz is not the published file"):
        load_test(linked)


@pytest.mark.parametrize("damage", ["truncated", "not-a-gzip", "flipped", "garbled", "empty"])
def test_a_broken_gz_is_named(linked: Path, raw_dir: Path, damage: str) -> None:
    packed = gzip.compress((raw_dir / TEST_LABELS).read_bytes())
    middle = len(packed) // 2
    spoiled = {
        "truncated": packed[:middle],
        "not-a-gzip": b"<html>404</html>",
        "flipped": packed[:middle] + bytes([packed[middle] ^ 255]) + packed[middle + 1 :],
        "garbled": packed[:10] + bytes([255] * 100),
        "empty": b"",
    }[damage]
    path = linked / f"{TEST_LABELS}.gz"
    path.write_bytes(spoiled)
    with pytest.raises(DataCorruptError) as caught:
        load_test(linked)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_folder_that_may_not_be_read(linked: Path) -> None:
    linked.chmod(0)
    try:
        with without_privileges(), pytest.raises(DataNotFoundError, match=r"cannot be read \(Permission denied\)"):
            load(linked)
    finally:
        linked.chmod(0o700)


def test_a_file_that_may_not_be_read() -> None:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders are closed to others
        Path(folder).chmod(0o755)
        for name in DIGESTS:
            (Path(folder) / name).touch()
        (Path(folder) / TEST_IMAGES).chmod(0)
        with without_privileges(), pytest.raises(DataCorruptError, match=rf"{TEST_IMAGES} cannot be read .*denied"):
            load_test(Path(folder))


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    path.touch()
    with pytest.raises(DataNotFoundError, match=r"photo\.png lacks"):
        load(path)
