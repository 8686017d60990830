"""Ways to do a training step of `lstm`, and parts of it, each as a function that does one step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from hangtag.training.catalog import build, prepare, recipe_for
from hangtag.training.loop.checkpoint import TrainingState
from hangtag.training.networks.single_label import Lstm
from studies.train_step.one_product import OneProductLstm

OWN = "hangtag"
LSTM_ALONE = "the LSTM alone"
BATCH_SIZE = 32
_RECIPE = recipe_for("study", "lstm")

Step = Callable[[], object]
Forward = Callable[[Lstm, Tensor], Tensor]


@dataclass(frozen=True)
class Batch:
    """Images [batch, 28, 28] of random pixels, their classes [batch], and the arithmetic of the step."""

    images: Tensor
    classes: Tensor
    dtype: torch.dtype

    @classmethod
    def random(cls, size: int, dtype: torch.dtype) -> "Batch":
        """A batch of this many images."""
        return cls(torch.rand(size, 28, 28), torch.randint(10, (size,)), dtype)

    def loss(self, network: Callable[[Tensor], Tensor]) -> Tensor:
        """The cross-entropy, computed as hangtag's own loop does."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            logits = network(self.images).float()
        return functional.cross_entropy(logits, self.classes)


def network() -> Lstm:
    """An lstm, prepared for training as in a run."""
    prepared = prepare(build("lstm"), _RECIPE, torch.device("cpu")).train()
    assert isinstance(prepared, Lstm)
    return prepared


def own_step(batch: Batch, forward: Forward = Lstm.__call__) -> Step:
    """hangtag's own step, or one with another forward pass."""
    trained = network()
    state = TrainingState(trained, _RECIPE, steps_per_epoch=1)

    def step() -> None:
        state.optimizer.zero_grad(set_to_none=True)
        batch.loss(partial(forward, trained)).backward()
        state.optimizer.step()

    return step


def last_state(trained: Lstm, images: Tensor) -> Tensor:
    """The forward pass that takes the LSTM's last hidden state from where it returns that alone."""
    _, (hidden, _) = trained.lstm(images)
    logits: Tensor = trained.classifier(trained.dropout(hidden[0]))
    return logits


def one_product(trained: Lstm, images: Tensor, dtype: torch.dtype) -> Tensor:
    """The forward pass whose input products are one matrix product."""
    weights = dict(trained.lstm.named_parameters())
    bias = weights["bias_ih_l0"] + weights["bias_hh_l0"]
    hidden = OneProductLstm.apply(images.to(dtype), weights["weight_ih_l0"], weights["weight_hh_l0"], bias)
    logits: Tensor = trained.classifier(trained.dropout(hidden))
    return logits


def one_group(batch: Batch) -> Step:
    """Adam over all parameters in one group, where hangtag has one with and one without weight decay."""
    trained = network()
    adam = torch.optim.Adam(trained.parameters(), lr=_RECIPE.learning_rate, eps=_RECIPE.epsilon, fused=True)
    return partial(_step, trained, adam, batch, trained)


def compiled(batch: Batch) -> Step:
    """torch.compile with inductor's C++ wrapper around what it compiles. It leaves the LSTM itself as it is."""
    trained = network()
    adam = torch.optim.Adam(trained.parameters(), lr=_RECIPE.learning_rate, eps=_RECIPE.epsilon, fused=True)
    return partial(_step, torch.compile(trained, options={"cpp_wrapper": True}), adam, batch, trained)


def written_out(
    images: Tensor,
    weights: Sequence[Tensor],
    classifier: Sequence[Tensor],
    dropout: float,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """The logits [batch, classes] of an lstm whose time steps are plain operators, which a compiler can fuse.

    Args:
        images: [batch, steps, inputs].
        weights: The parameters of an nn.LSTM with one layer.
        classifier: The weights and the bias of a linear layer.
        dropout: The share of the last state's units that are dropped.
        dtype: That of the products; the rest is FP32.
    """
    across, onward, *biases = weights
    sums = (images.to(dtype) @ across.to(dtype).t()).float() + biases[0] + biases[1]  # [batch, steps, 4 * hidden]
    state = cell = sums.new_zeros(len(images), onward.shape[1])
    for step in range(images.shape[1]):
        total = sums[:, step] + (state.to(dtype) @ onward.to(dtype).t()).float()
        in_gate, forget, candidate, out_gate = total.chunk(4, dim=1)
        cell = torch.sigmoid(forget) * cell + torch.sigmoid(in_gate) * torch.tanh(candidate)
        state = torch.sigmoid(out_gate) * torch.tanh(cell)
    return functional.linear(functional.dropout(state, dropout), *classifier)


def compiled_recurrence(batch: Batch) -> Step:
    """All time steps written out, and compiled with the C++ wrapper into one function, which takes minutes."""
    trained = network()
    adam = torch.optim.Adam(trained.parameters(), lr=_RECIPE.learning_rate, eps=_RECIPE.epsilon, fused=True)
    # The weights are arguments, because the compiler does not look into a function that uses an nn.LSTM.
    forward = torch.compile(
        partial(written_out, dropout=trained.dropout.p, dtype=batch.dtype), options={"cpp_wrapper": True}
    )
    weights, classifier = list(trained.lstm.parameters()), list(trained.classifier.parameters())
    return partial(_step, lambda images: forward(images, weights, classifier), adam, batch, trained)


def _step(forward: Callable[[Tensor], Tensor], adam: torch.optim.Optimizer, batch: Batch, trained: nn.Module) -> None:
    trained.zero_grad(set_to_none=True)
    batch.loss(forward).backward()
    adam.step()


def without_optimizer(batch: Batch) -> Step:
    """The step without the optimizer's part of it."""
    trained = network()

    def step() -> None:
        trained.zero_grad(set_to_none=True)
        batch.loss(trained).backward()

    return step


def lstm_alone(batch: Batch) -> Step:
    """The LSTM forwards and backwards, with nothing before or after it."""
    lstm = network().lstm

    def step() -> None:
        lstm.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=batch.dtype == torch.bfloat16):
            outputs, _ = lstm(batch.images)
        outputs[:, -1].float().sum().backward()

    return step


def ways(dtype: torch.dtype, *, compile_recurrence: bool = False) -> dict[str, tuple[Step, int]]:
    """Every way by name: a step, and its batch size; ``compile_recurrence`` adds one that takes minutes to compile."""
    batch, larger = Batch.random(BATCH_SIZE, dtype), Batch.random(4 * BATCH_SIZE, dtype)
    all_ways = {
        OWN: (own_step(batch), BATCH_SIZE),
        "hangtag, again": (own_step(batch), BATCH_SIZE),
        LSTM_ALONE: (lstm_alone(batch), BATCH_SIZE),
        "without the optimizer": (without_optimizer(batch), BATCH_SIZE),
        "Adam in one group": (one_group(batch), BATCH_SIZE),
        "the last state only": (own_step(batch, last_state), BATCH_SIZE),
        "input products as one": (own_step(batch, partial(one_product, dtype=dtype)), BATCH_SIZE),
        "compiled, C++ wrapper": (compiled(batch), BATCH_SIZE),
        "a batch of 128": (own_step(larger), 4 * BATCH_SIZE),
    }
    if compile_recurrence:
        all_ways["time steps compiled"] = (compiled_recurrence(batch), BATCH_SIZE)
    return all_ways
