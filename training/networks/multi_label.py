"""The baselines of CNN-RNN: multi-label networks with the same CNN and without recurrence.

Each maps pixels in [0, 1], [batch, 1, 64, 64], to one logit per label, [batch, labels].
"""

from torch import Tensor, nn
from torch.nn import functional

from hangtag.training.networks.cnn_rnn import EMBEDDING, FEATURES, Encoder


class CnnLabels(nn.Sequential):
    """The CNN and a dense layer, which gives every label an independent logit."""

    def __init__(self, labels: int) -> None:
        super().__init__(Encoder(), nn.Linear(FEATURES, labels))


class CnnEmbedding(nn.Module):
    """CNN-RNN without the RNN: the image is projected into the joint space and compared with the label embeddings."""

    def __init__(self, labels: int) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.project_image = nn.Linear(FEATURES, EMBEDDING)  # U_I
        self.score = nn.Linear(EMBEDDING, labels)  # the weight's rows are the label embeddings, U_l; bias as in CnnRnn

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.score(functional.relu(self.project_image(self.encoder(pixels))))
        return logits
