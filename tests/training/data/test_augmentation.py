import torch

from hangtag.training.data.augmentation import augment
from hangtag.training.recipes import Augmentation


def garments(count: int = 400) -> torch.Tensor:
    """Images with a lone bright pixel at row 10, column 5, and a margin that shifting cannot use up."""
    images = torch.zeros(count, 28, 28, dtype=torch.uint8)
    images[:, 10, 5] = 200
    return images


def places(images: torch.Tensor) -> set[tuple[int, int]]:
    return {(row, column) for _, row, column in images.nonzero().tolist()}


def test_without_augmentation_images_are_unchanged() -> None:
    images = torch.randint(0, 256, (3, 28, 28), dtype=torch.uint8)
    state = torch.get_rng_state()
    changed = augment(images, Augmentation())
    assert torch.equal(changed, images)
    assert torch.equal(torch.get_rng_state(), state)  # the study's runs draw nothing for it


def test_half_of_the_images_are_mirrored() -> None:
    torch.manual_seed(0)
    changed = augment(garments(), Augmentation(flip=True))
    assert 150 < int((changed[:, 10, 22] == 200).sum()) < 250
    assert places(changed) == {(10, 5), (10, 22)}


def test_images_shift_by_up_to_the_limit_each_way_and_black_moves_in() -> None:
    torch.manual_seed(0)
    changed = augment(garments(), Augmentation(shift=2))
    assert places(changed) == {(row, column) for row in range(8, 13) for column in range(3, 8)}
    white = augment(torch.full((50, 28, 28), 255, dtype=torch.uint8), Augmentation(shift=2))
    assert set(white.flatten().tolist()) == {0, 255}
    assert int((white == 255).sum(dim=(1, 2)).min()) == 26 * 26


def test_a_rectangle_of_noise_over_two_to_twenty_percent_of_some_images() -> None:
    torch.manual_seed(0)
    black = torch.zeros(2000, 28, 28, dtype=torch.uint8)
    changed = augment(black, Augmentation(erase=0.3))
    erased = changed.flatten(1).any(dim=1).bool()
    assert 500 < int(erased.sum()) < 700
    for image in changed[erased][:100]:
        rows, columns = image.any(dim=1).nonzero(), image.any(dim=0).nonzero()
        height, width = int(rows.max() - rows.min() + 1), int(columns.max() - columns.min() + 1)
        assert 0.01 < height * width / 784 < 0.24
        inside = image[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert (inside > 0).float().mean() > 0.9  # noise: one in 256 is black
    assert changed.dtype == torch.uint8


def test_a_seed_gives_the_same_images() -> None:
    how = Augmentation(flip=True, shift=2, erase=0.5)
    images = torch.randint(0, 256, (20, 28, 28), dtype=torch.uint8)
    results = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        results.append(augment(images, how))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
