"""An auto-encoder of architectures whose codes are ranked (TNAO)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_nas.errors import ConfigError


class ArchitectureAutoEncoder(nn.Module):
    """A Transformer that maps architectures to codes and back, and scores codes.

    An architecture is a sequence of choices, each with its own alphabet. The encoder embeds every choice, adds its
    position, and averages what its layers make of them; a linear map and a layer norm without weights give the code,
    so that all codes have the same norm. The decoder gives every position the code and its own embedding, and after its
    layers a linear map an alphabet. All positions are decoded at once. The score is a small network on the code.

    A reconstruction: the paper's text is not public, only its abstract.

    References:
        1. He, Hou, Dong, Feng: Two-stage Neural Architecture Optimization with Separated Training and Search, IJCNN
           2023, https://doi.org/10.1109/IJCNN54540.2023.10191955

    Args:
        alphabet: Number of values of every choice; see ``SearchSpace.num_values``.
        width: Of the Transformers' layers, divisible by ``heads``.
        code: Numbers of a code.
        layers: Of the encoder, and of the decoder.
        heads: Of attention.
        dropout: Of a code's numbers, while training.

    Raises:
        ConfigError: A number is out of its range.
    """

    def __init__(
        self,
        alphabet: Sequence[int],
        width: int = 64,
        code: int = 64,
        layers: int = 1,
        heads: int = 4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if min(width, code, layers, heads) < 1 or width % heads or not 0 <= dropout < 1 or min(alphabet, default=0) < 1:
            raise ConfigError(
                f"width is {width}, code {code}, layers {layers}, heads {heads}, dropout {dropout} and the alphabet "
                f"{tuple(alphabet)!s:.200}; numbers are at least 1, heads divide width, and dropout is from 0 to "
                "below 1."
            )
        self.alphabet = tuple(alphabet)
        offsets = torch.tensor([0, *self.alphabet[:-1]]).cumsum(0)
        self.register_buffer("offsets", offsets, persistent=False)
        longest = max(self.alphabet)
        self.register_buffer(
            "closed", torch.arange(longest) >= torch.tensor(self.alphabet).unsqueeze(1), persistent=False
        )
        self.values = nn.Embedding(sum(self.alphabet), width)  # a value means something else at every position
        self.positions = nn.Parameter(torch.randn(len(self.alphabet), width) / width**0.5)

        def transformer() -> nn.TransformerEncoder:
            layer = nn.TransformerEncoderLayer(
                width, heads, 2 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            return nn.TransformerEncoder(layer, layers, nn.LayerNorm(width), enable_nested_tensor=False)

        self.encoder, self.decoder = transformer(), transformer()
        # dropout inside the layers takes a third of a step's time on a CPU, and ranks and decodes less well
        norm = nn.LayerNorm(code, elementwise_affine=False)
        self.to_code = nn.Sequential(nn.Linear(width, code), norm, nn.Dropout(dropout))
        self.from_code = nn.Linear(code, width)
        self.output = nn.Linear(width, longest)
        self.score = nn.Sequential(nn.Linear(code, width), nn.GELU(), nn.Linear(width, 1))

    def encode(self, choices: Tensor) -> Tensor:
        """Codes ``(n, code)`` of choices, int64 ``(n, positions)``."""
        tokens = self.values(choices + self.get_buffer("offsets")) + self.positions
        encoded: Tensor = self.to_code(self.encoder(tokens).mean(1))
        return encoded

    def decode(self, codes: Tensor) -> Tensor:
        """Logits ``(n, positions, longest alphabet)`` of codes ``(n, code)``; ``-inf`` outside of an alphabet."""
        tokens = self.from_code(codes).unsqueeze(1) + self.positions
        logits: Tensor = self.output(self.decoder(tokens))
        return logits.masked_fill(self.get_buffer("closed"), -torch.inf)

    def scores(self, codes: Tensor) -> Tensor:
        """Scores ``(n,)`` of codes ``(n, code)``; higher is better."""
        scored: Tensor = self.score(codes).squeeze(1)
        return scored

    def reconstruction_loss(self, codes: Tensor, choices: Tensor) -> Tensor:
        """Mean cross-entropy of the choices that the codes were made of."""
        return F.cross_entropy(self.decode(codes).flatten(0, 1), choices.flatten())
