import gzip
import hashlib
import http.server
import socket
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

from hangtag.training.data import fashion_mnist as data
from hangtag.training.data.fashion_mnist import DIGESTS, LABELS, FashionMnist, load, load_test, load_validation, locate
from hangtag.training.errors import DataNotFoundError, TrainingError

pytestmark = pytest.mark.slow

TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = DIGESTS


@pytest.fixture
def bare_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without Debian's package and with an empty cache; returns the folder where a download would lie."""
    monkeypatch.setattr(data, "DEBIAN_DIR", tmp_path / "no-package")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "hangtag" / "FashionMNIST" / "raw"


def use_proxy(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    """Send all of torchvision's requests to this port of this machine."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
    for name in ("no_proxy", "NO_PROXY", "REQUEST_METHOD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(urllib.request, "_opener", None)  # it keeps the proxies of its first use


class Mirror(http.server.ThreadingHTTPServer):
    """Stands where the internet would be: answers every request from a folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), MirrorHandler)
        self.folder = folder
        self.requested: list[str] = []


class MirrorHandler(http.server.BaseHTTPRequestHandler):
    server: Mirror

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        self.server.requested.append(name)
        contents = (self.server.folder / name).read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(contents)))
        self.end_headers()
        with suppress(ConnectionError):  # torchvision asks once just to see whether it is redirected, and hangs up
            self.wfile.write(contents)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving(folder: Path) -> Iterator[Mirror]:
    with Mirror(folder) as mirror:
        thread = threading.Thread(target=mirror.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield mirror
        finally:
            mirror.shutdown()
            thread.join()


# What is in the data set.


def test_the_first_5000_images_validate_and_the_rest_train(whole: FashionMnist, raw_dir: Path) -> None:
    assert (len(whole.train), len(whole.validation), len(whole.test)) == (55_000, 5_000, 10_000)
    images = np.frombuffer((raw_dir / TRAIN_IMAGES).read_bytes(), np.uint8)[16:].reshape(60_000, 28, 28)
    classes = np.frombuffer((raw_dir / TRAIN_LABELS).read_bytes(), np.uint8)[8:]
    assert np.array_equal(whole.validation.images, images[:5_000])
    assert np.array_equal(whole.validation.classes, classes[:5_000])
    assert np.array_equal(whole.train.images, images[5_000:])
    assert np.array_equal(whole.train.classes, classes[5_000:])


def test_images_are_bright_garments_on_black_and_classes_are_balanced(whole: FashionMnist) -> None:
    assert whole.test.images.shape == (10_000, 28, 28)
    assert whole.test.images.dtype == whole.test.classes.dtype == np.uint8
    assert np.median(whole.test.images[:, 0, 0]) == 0
    assert np.bincount(whole.test.classes).tolist() == [1_000] * len(LABELS)
    # The first test image is an ankle boot, the next two a pullover and trousers: as in every copy of the data set.
    assert [LABELS[index] for index in whole.test.classes[:3]] == ["Ankle boot", "Pullover", "Trouser"]


def test_first_takes_a_slice_or_all(whole: FashionMnist) -> None:
    assert whole.test.first(None) is whole.test
    few = whole.test.first(3)
    assert len(few) == 3
    assert np.array_equal(few.images, whole.test.images[:3])
    assert len(whole.test.first(10**9)) == 10_000


def test_the_test_images_can_be_read_alone(whole: FashionMnist, linked: Path) -> None:
    (linked / TRAIN_IMAGES).unlink()
    (linked / TRAIN_IMAGES).touch()  # there, but nothing to read
    alone = load_test(linked)
    assert np.array_equal(alone.images, whole.test.images)
    assert np.array_equal(alone.classes, whole.test.classes)


def test_the_digest_is_that_of_the_content_and_not_of_the_folder(whole: FashionMnist, raw_dir: Path) -> None:
    assert whole.digest == load(raw_dir).digest
    assert len(bytes.fromhex(whole.digest)) == 32


# Where it is looked for.


def test_data_dir_is_searched_first(raw_dir: Path) -> None:
    assert locate(raw_dir) == raw_dir


def test_torchvisions_layout_is_understood(raw_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "FashionMNIST").mkdir()
    (tmp_path / "FashionMNIST" / "raw").symlink_to(raw_dir)
    assert locate(tmp_path) == tmp_path / "FashionMNIST" / "raw"
    assert len(load_test(tmp_path)) == 10_000


def test_raw_and_packed_files_may_be_mixed(linked: Path, raw_dir: Path) -> None:
    (linked / TEST_LABELS).unlink()
    (linked / f"{TEST_LABELS}.gz").write_bytes(gzip.compress((raw_dir / TEST_LABELS).read_bytes()))
    assert len(load_test(linked)) == 10_000


def test_a_named_folder_is_never_replaced_by_another(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError) as caught:
        load(tmp_path)
    for expected in (str(tmp_path), *DIGESTS, "apt-get install dataset-fashion-mnist", "--data-dir"):
        assert expected in str(caught.value)


def test_debians_package_comes_before_a_download(
    raw_dir: Path, bare_machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare_machine.parent.mkdir(parents=True)
    bare_machine.symlink_to(raw_dir)
    monkeypatch.setattr(data, "DEBIAN_DIR", raw_dir)
    assert locate() == raw_dir


def test_an_earlier_download_is_used_again_even_without_torchvision(
    raw_dir: Path, bare_machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare_machine.parent.mkdir(parents=True)
    bare_machine.symlink_to(raw_dir)
    without_torchvision(monkeypatch)
    assert locate() == bare_machine
    assert len(load_test()) == 10_000


def test_the_validation_images_are_read_alone_and_never_downloaded(
    raw_dir: Path, whole: FashionMnist, bare_machine: Path
) -> None:
    alone = load_validation(raw_dir)
    assert np.array_equal(alone.images, whole.validation.images)
    assert np.array_equal(alone.classes, whole.validation.classes)
    with pytest.raises(DataNotFoundError, match="Fashion-MNIST is not on this machine"):
        load_validation()
    assert not bare_machine.exists()


def without_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("torchvision", "torchvision.datasets"):
        monkeypatch.setitem(sys.modules, name, None)  # Python's own way to say: not importable


def test_without_data_and_without_torchvision_the_error_says_how_to_get_it(
    bare_machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_torchvision(monkeypatch)
    with pytest.raises(DataNotFoundError) as caught:
        load()
    assert_one_line_that_helps(caught.value)


def test_a_download_without_a_network_is_one_line(bare_machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # ours, and nobody listens: a connection is refused at once
        use_proxy(monkeypatch, taken.getsockname()[1])
        with pytest.raises(DataNotFoundError, match="could not be downloaded") as caught:
            load()
    assert "refused" in str(caught.value)
    assert_one_line_that_helps(caught.value)


def test_a_download_of_another_file_is_refused(
    bare_machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"{TRAIN_IMAGES}.gz").write_text("<html>Please log in to the hotel's network.</html>")
    with serving(tmp_path) as mirror:
        use_proxy(monkeypatch, mirror.server_port)
        with pytest.raises(DataNotFoundError, match="could not be downloaded") as caught:
            load()
    assert set(mirror.requested) == {f"{TRAIN_IMAGES}.gz"}
    assert_one_line_that_helps(caught.value)


def test_a_cache_that_cannot_be_written(bare_machine: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(DataNotFoundError, match="could not be downloaded") as caught:
        load()
    assert_one_line_that_helps(caught.value)


def test_torchvision_downloads_where_there_is_nothing_else(
    whole: FashionMnist, raw_dir: Path, bare_machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.datasets import FashionMNIST

    resources = []
    for name in DIGESTS:
        packed = gzip.compress((raw_dir / name).read_bytes(), compresslevel=1)
        (tmp_path / f"{name}.gz").write_bytes(packed)
        resources.append((f"{name}.gz", hashlib.md5(packed).hexdigest()))
    # The mirror's .gz are packed anew, so torchvision must expect their digests; ours are of the contents.
    monkeypatch.setattr(FashionMNIST, "resources", resources)
    with serving(tmp_path) as mirror:
        use_proxy(monkeypatch, mirror.server_port)
        assert locate() == bare_machine
        assert set(mirror.requested) == {name for name, _ in resources}
        mirror.requested.clear()
        assert locate() == bare_machine
        assert mirror.requested == []
    assert np.array_equal(load_test().images, whole.test.images)


def assert_one_line_that_helps(error: TrainingError) -> None:
    message = str(error)
    assert "\n" not in message
    assert "Fashion-MNIST is not on this machine" in message
    assert "apt-get install dataset-fashion-mnist" in message
    assert "--data-dir" in message
