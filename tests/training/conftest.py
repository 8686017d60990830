import gzip
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from training import data
from training.data import FashionMnist


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def whole() -> FashionMnist:
    """The real data set. Where it is missing, the error says how to get it."""
    return data.load()


@pytest.fixture(scope="session")
def small(whole: FashionMnist) -> FashionMnist:
    """The real data set with only the first 200 test images, which every finished run looks at."""
    return replace(whole, test=whole.test.first(200))


@pytest.fixture(scope="session")
def raw_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The four published files, decompressed: quicker to read than the .gz."""
    folder = tmp_path_factory.mktemp("raw")
    source = data.locate()
    for name in data.DIGESTS:
        packed = source / f"{name}.gz"
        contents = gzip.decompress(packed.read_bytes()) if packed.is_file() else (source / name).read_bytes()
        (folder / name).write_bytes(contents)
    return folder
