"""Fashion-MNIST: the contents, the places of its files, and files with faults."""

import gzip
import hashlib
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from hangtag.training.data import fashion_mnist
from hangtag.training.data.fashion_mnist import DIGESTS, load, load_test, locate
from hangtag.training.errors import DataCorruptError, DataNotFoundError
from tests.kit import garments
from tests.kit.command import refusal
from tests.kit.other_servers import Answer, refusing, web_server

pytestmark = pytest.mark.slow

TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = DIGESTS


@pytest.fixture(scope="module")
def raw_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the four published files, decompressed, because decompressed files are read faster."""
    folder = tmp_path_factory.mktemp("raw")
    source = locate()
    for name in DIGESTS:
        packed = source / f"{name}.gz"
        contents = gzip.decompress(packed.read_bytes()) if packed.is_file() else (source / name).read_bytes()
        (folder / name).write_bytes(contents)
    return folder


@pytest.fixture
def linked(raw_dir: Path, tmp_path: Path) -> Path:
    """A folder of links to the four files. A test may replace the links by damaged files."""
    folder = tmp_path / "linked"
    folder.mkdir()
    for name in DIGESTS:
        (folder / name).symlink_to(raw_dir / name)
    return folder


@pytest.fixture
def bare_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A machine without Debian's package and with an empty cache. Yields the folder for downloads."""
    monkeypatch.setattr(fashion_mnist, "DEBIAN_DIR", tmp_path / "package")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield tmp_path / "cache" / "hangtag" / "FashionMNIST" / "raw"
    urllib.request.install_opener(None)  # so that urllib does not keep this test's proxies for later tests


# The contents of the data set.


def test_the_first_5000_images_validate_and_the_rest_train(raw_dir: Path) -> None:
    whole = load(raw_dir)
    assert (len(whole.train), len(whole.validation), len(whole.test)) == (55_000, 5_000, 10_000)
    images = np.frombuffer((raw_dir / TRAIN_IMAGES).read_bytes(), np.uint8)[16:].reshape(60_000, 28, 28)
    classes = np.frombuffer((raw_dir / TRAIN_LABELS).read_bytes(), np.uint8)[8:]
    assert np.array_equal(whole.validation.images, images[:5_000])
    assert np.array_equal(whole.validation.classes, classes[:5_000])
    assert np.array_equal(whole.train.images, images[5_000:])
    assert np.array_equal(whole.train.classes, classes[5_000:])
    assert whole.digest == garments.whole().digest  # the digest does not depend on the folder
    assert len(bytes.fromhex(whole.digest)) == 32


def test_the_test_images_are_read_alone_from_files_of_both_kinds(linked: Path, raw_dir: Path) -> None:
    (linked / TRAIN_IMAGES).unlink()
    (linked / TRAIN_IMAGES).touch()  # an existing but empty file
    (linked / TEST_LABELS).unlink()
    (linked / f"{TEST_LABELS}.gz").write_bytes(gzip.compress((raw_dir / TEST_LABELS).read_bytes()))
    alone = load_test(linked)
    assert np.array_equal(alone.images, garments.whole().test.images)
    assert np.array_equal(alone.classes, garments.whole().test.classes)


# The folders in which the files may be.


def test_a_named_folder_is_searched_alone_in_both_layouts(raw_dir: Path, tmp_path: Path) -> None:
    assert locate(raw_dir) == raw_dir
    message = refusal("train", "lstm", "--data-dir", tmp_path, "--out", tmp_path / "run")
    for expected in (str(tmp_path), *DIGESTS, "apt-get install dataset-fashion-mnist", "--data-dir"):
        assert expected in message
    (tmp_path / "FashionMNIST").mkdir()
    (tmp_path / "FashionMNIST" / "raw").symlink_to(raw_dir)
    assert locate(tmp_path) == tmp_path / "FashionMNIST" / "raw"
    assert len(load_test(tmp_path)) == 10_000


def test_debians_package_comes_first_and_an_earlier_download_second(
    raw_dir: Path, bare_machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_torchvision(monkeypatch)
    bare_machine.parent.mkdir(parents=True)
    bare_machine.symlink_to(raw_dir)
    assert locate() == bare_machine
    assert len(load_test()) == 10_000
    (tmp_path / "package").symlink_to(raw_dir)
    assert locate() == tmp_path / "package"


def without_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("torchvision", "torchvision.datasets"):
        monkeypatch.setitem(sys.modules, name, None)  # this is Python's own way to make a module impossible to import


# Downloads.


def use_proxy(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    """Send all of torchvision's requests to this port of this machine."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
    for name in ("no_proxy", "NO_PROXY", "REQUEST_METHOD"):
        monkeypatch.delenv(name, raising=False)
    urllib.request.install_opener(None)  # urllib's opener keeps the proxies with which it was created


@contextmanager
def mirror(folder: Path) -> Iterator[tuple[int, list[str]]]:
    """A proxy that answers every request with the file of the requested name in this folder.

    Yields the port, and the names that were requested.
    """
    requested: list[str] = []

    def answer(path: str) -> Answer:
        requested.append(path.rpartition("/")[2])
        file = folder / requested[-1]
        return (200, {}, file.read_bytes()) if file.is_file() else (404, {}, b"")

    with web_server(answer) as address:
        yield int(address.rpartition(":")[2]), requested


def test_torchvision_downloads_where_there_is_nothing_else(
    raw_dir: Path, bare_machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.datasets import FashionMNIST

    with pytest.raises(DataNotFoundError, match="Fashion-MNIST is not on this machine"):
        locate(download=False)
    assert not bare_machine.exists()
    resources = []
    for name in DIGESTS:
        packed = gzip.compress((raw_dir / name).read_bytes(), compresslevel=1)
        (tmp_path / f"{name}.gz").write_bytes(packed)
        resources.append((f"{name}.gz", hashlib.md5(packed).hexdigest()))
    # torchvision checks digests of .gz files, but the mirror compresses its files differently than the publisher.
    monkeypatch.setattr(FashionMNIST, "resources", resources)
    with mirror(tmp_path) as (port, requested):
        use_proxy(monkeypatch, port)
        assert locate() == bare_machine
        assert set(requested) == {name for name, _ in resources}
        requested.clear()
        assert locate() == bare_machine
        assert requested == []
    assert np.array_equal(load_test().images, garments.whole().test.images)


def refused_download(reason: str = "could not be downloaded") -> None:
    with pytest.raises(DataNotFoundError) as caught:
        load()
    assert "\n" not in str(caught.value)
    for expected in ("Fashion-MNIST is not on this machine", "apt-get install dataset-", "--data-dir", reason):
        assert expected in str(caught.value)


def test_a_download_that_fails_is_one_line_that_helps(
    bare_machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with refusing() as address:
        use_proxy(monkeypatch, int(address.rpartition(":")[2]))
        refused_download("refused")

    (tmp_path / f"{TRAIN_IMAGES}.gz").write_text("<html>Please log in to the hotel's network.</html>")
    with mirror(tmp_path) as (port, requested):
        use_proxy(monkeypatch, port)
        refused_download()
    assert set(requested) == {f"{TRAIN_IMAGES}.gz"}

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / f"{TRAIN_IMAGES}.gz"))  # a file instead of a folder
    refused_download()

    without_torchvision(monkeypatch)
    refused_download("")


# Files with faults.


@pytest.mark.parametrize("name", DIGESTS)
def test_a_missing_file_and_a_flipped_bit_are_named(linked: Path, tmp_path: Path, name: str) -> None:
    contents = bytearray((linked / name).read_bytes())
    (linked / name).unlink()
    (tmp_path / "FashionMNIST").mkdir()
    (tmp_path / "FashionMNIST" / "raw").symlink_to(linked)
    for folder in (linked, tmp_path):
        with pytest.raises(DataNotFoundError) as missing:
            load(folder)
        assert [other for other in DIGESTS if other in str(missing.value)] == [name]
    contents[-1] ^= 1
    (linked / name).write_bytes(contents)
    with pytest.raises(DataCorruptError) as caught:
        load(linked)
    message = str(caught.value)
    assert message.startswith(f"{linked / name} is not the published file")
    assert DIGESTS[name] in message
    assert hashlib.sha256(contents).hexdigest() in message


@pytest.mark.parametrize("damage", ["truncated", "not-a-gzip", "garbled", "another"])
def test_a_broken_gz_is_named(linked: Path, raw_dir: Path, damage: str) -> None:
    contents = bytearray((raw_dir / TEST_LABELS).read_bytes())
    packed = gzip.compress(contents)
    contents[5_000] ^= 1
    spoiled = {
        "truncated": packed[: len(packed) // 2],
        "not-a-gzip": b"<html>404</html>",
        "garbled": packed[:10] + bytes([255] * 100),
        "another": gzip.compress(contents),
    }[damage]
    path = linked / f"{TEST_LABELS}.gz"
    path.write_bytes(spoiled)
    with pytest.raises(DataCorruptError) as caught:
        load_test(linked)
    assert str(caught.value).startswith(f"{path} is not the published file" if damage == "another" else str(path))
    assert "\n" not in str(caught.value)
