import sys
from collections.abc import Iterator

import pytest

from hangtag.training.data import fashion_mnist as data
from hangtag.training.data.fashion_mnist import Split


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """PyTorch's, where a test uses it: small networks are no faster with more, and results the same everywhere."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def garments() -> Split:
    """The 10,000 real test images."""
    return data.load_test()
