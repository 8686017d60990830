"""How a network is trained: everything that is chosen before the first step, in one frozen value."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """The optimizer's and the schedule's settings. The epoch with the best validation accuracy is kept."""

    name: str
    batch_size: int
    epochs: int
    learning_rate: float
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-7


RECIPES = {
    # The study: Keras' Adam with its defaults (its epsilon is 1e-7 where PyTorch's is 1e-8), cross-entropy, ten epochs.
    "study": Recipe(name="study", batch_size=32, epochs=10, learning_rate=1e-3),
}
