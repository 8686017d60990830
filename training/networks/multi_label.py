"""The multi-label networks that CNN-RNN is compared with: the same CNN, and no recurrence after it.

Each maps pixels in [0, 1], [batch, 64, 64], to one logit per label, [batch, labels].
"""

from torch import Tensor, nn
from torch.nn import functional

from hangtag.training.networks.cnn_rnn import EMBEDDING, FEATURES, Encoder


class CnnLabels(nn.Sequential):
    """The CNN and a dense layer: every label's logit by itself."""

    def __init__(self, labels: int) -> None:
        super().__init__(Encoder(), nn.Linear(FEATURES, labels))


class CnnEmbedding(nn.Module):
    """CNN-RNN without the RNN: the image is projected into the joint space and compared with the label embeddings."""

    def __init__(self, labels: int) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.project_image = nn.Linear(FEATURES, EMBEDDING)  # U_I
        self.score = nn.Linear(EMBEDDING, labels)  # its weight is U_l, a label's embedding a row; its bias as CnnRnn's

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.score(functional.relu(self.project_image(self.encoder(pixels))))
        return logits
