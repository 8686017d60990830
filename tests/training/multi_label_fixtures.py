import numpy as np
import pytest

from training.data import LABELS, FashionMnist
from training.multi_label.data import MultiLabelData, MultiLabelSplit
from training.multi_label.outfits import make_split, together


@pytest.fixture(scope="module")
def outfits(whole: FashionMnist) -> MultiLabelData:
    train, validation, test = (
        make_split(together(), garments, (0, number), count)
        for number, (garments, count) in enumerate([(whole.train, 96), (whole.validation, 40), (whole.test, 40)])
    )
    return MultiLabelData("outfits", LABELS, train, validation, test, source="", digest="")


@pytest.fixture(scope="module")
def plain(whole: FashionMnist) -> MultiLabelData:
    """Four looks that can be told from where two bright bars lie: learned in seconds."""
    rng = np.random.default_rng(0)
    looks = np.array([[1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 1, 1], [0, 1, 0, 1]], np.bool_)

    def split(count: int) -> MultiLabelSplit:
        labels = looks[rng.integers(4, size=count)]
        images = rng.integers(0, 30, (count, 64, 64), dtype=np.uint8)
        for index, label in np.argwhere(labels):
            images[index, :, 16 * label : 16 * label + 12] += np.uint8(150)
        return MultiLabelSplit(images, labels)

    return MultiLabelData("bars", ("a", "b", "c", "d"), split(512), split(100), split(100), source="", digest="")
