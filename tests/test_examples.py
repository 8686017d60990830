"""The samples in examples/ are the test set's."""

from pathlib import Path

import numpy as np

from hangtag.training.data.fashion_mnist import Split

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_the_test_images_are_every_20th_of_the_test_set_with_its_label(garments: Split) -> None:
    with np.load(EXAMPLES / "test-images.npz") as archive:
        assert set(archive) == {"image", "labels"}
        assert np.array_equal(archive["image"], garments.images[::20])
        assert np.array_equal(archive["labels"], garments.classes[::20])
