import numpy as np
import pytest
import torch

from hangtag.training.catalog import build
from hangtag.training.data.fashion_mnist import FashionMnist
from hangtag.training.networks.inference import normalise, predict


def test_logits_do_not_depend_on_the_batch_size(small: FashionMnist) -> None:
    model = build("lstm").train()
    images = small.test.images[:20]
    logits = predict(model, images)
    assert logits.shape == (20, 10)
    assert logits.dtype == np.float32
    assert not model.training
    np.testing.assert_allclose(predict(model, images, batch_size=7), logits, rtol=1e-4, atol=1e-5)


def test_pixels_are_divided_by_255() -> None:
    pixels = normalise(torch.tensor([0, 51, 255], dtype=torch.uint8))
    assert pixels.dtype == torch.float32
    assert pixels.tolist() == pytest.approx([0, 0.2, 1])
