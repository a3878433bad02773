"""An auto-encoder of architectures with a score of their codes: TNAO (He et al., IJCNN 2023)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_nas.checks import at_least, within
from lightning_nas.errors import ConfigError


class ArchitectureAutoEncoder(nn.Module):
    """A Transformer that encodes architectures, decodes codes, and scores codes.

    An architecture is a sequence of tokens, each of which stands for one or more choices.

    - The encoder adds the embeddings of the values of a token's choices and the embedding of the token's position, and
      averages the outputs of its layers over the tokens. A linear map and a layer norm without weights turn the average
      into the code, so that all codes have the same norm.
    - The decoder gives every token the code and the embedding of its position. After its layers, a linear map gives the
      logits of the values of the token's choices. All tokens are decoded at once.
    - The score is a network with one hidden layer on the code.

    This is a reconstruction: of the paper only the abstract is public.

    References:
        1. He, Hou, Dong, Feng: Two-stage Neural Architecture Optimization with Separated Training and Search, IJCNN
           2023, https://doi.org/10.1109/IJCNN54540.2023.10191955

    Args:
        num_values: Number of values of every choice; see ``SearchSpace.num_values``.
        tokens: For every token, the places of its choices; see ``SearchSpace.tokens``. By default every choice is a
            token. A step takes time in proportion to the number of tokens.
        width: Width of the Transformer layers, divisible by ``heads``.
        code: Number of dimensions of a code, at least 1.
        layers: Number of layers of the encoder, and of the decoder, at least 1.
        heads: Number of attention heads, at least 1.
        dropout: Probability of dropout of a code's dimensions in training, in [0, 1).

    Raises:
        ConfigError: A number is out of its range, or a choice is not in exactly one token.

    Example:
        ```python
        space = NASBench201Space()
        autoencoder = ArchitectureAutoEncoder(space.num_values, tokens=space.tokens)
        codes = autoencoder.encode(torch.tensor([space.largest().choices]))
        choices = autoencoder.decode(codes).argmax(2)
        ```
    """

    def __init__(
        self,
        num_values: Sequence[int],
        *,
        tokens: Sequence[Sequence[int]] | None = None,
        width: int = 64,
        code: int = 64,
        layers: int = 1,
        heads: int = 4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        at_least(1, width=width, code=code, layers=layers, heads=heads)
        within("[0, 1)", dropout=dropout)
        if width % heads:
            raise ConfigError(f"width is {width}; it must be divisible by heads, {heads}.")
        if min(num_values, default=0) < 1:
            raise ConfigError(f"num_values is {tuple(num_values)!s:.200}; every choice must have at least 1 value.")
        self.num_values = tuple(num_values)
        tokens = [[place] for place in range(len(self.num_values))] if tokens is None else tokens
        if sorted(place for token in tokens for place in token) != list(range(len(self.num_values))) or [] in tokens:
            raise ConfigError(
                f"tokens is {tokens!s:.200}; every place from 0 to {len(self.num_values) - 1} must be in one token, "
                "and no token may be empty."
            )
        # a value means something else at every position, so that every position has embeddings of its own
        offsets = torch.tensor([0, *self.num_values[:-1]]).cumsum(0)
        self.register_buffer("offsets", offsets, persistent=False)
        longest = max(self.num_values)
        missing = torch.arange(longest) >= torch.tensor(self.num_values).unsqueeze(1)
        self.register_buffer("missing", missing, persistent=False)
        self.values = nn.Embedding(sum(self.num_values), width)
        self.positions = nn.Parameter(torch.randn(len(tokens), width) / width**0.5)
        most = max(map(len, tokens))
        where = {place: (t, i) for t, token in enumerate(tokens) for i, place in enumerate(token)}
        token_of, output_of = zip(
            *((t, t * most + i) for t, i in (where[place] for place in sorted(where))), strict=True
        )
        self.register_buffer("token_of", torch.tensor(token_of), persistent=False)
        self.register_buffer("output_of", torch.tensor(output_of), persistent=False)

        def transformer() -> nn.TransformerEncoder:
            layer = nn.TransformerEncoderLayer(
                width, heads, 2 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            return nn.TransformerEncoder(layer, layers, nn.LayerNorm(width), enable_nested_tensor=False)

        self.encoder, self.decoder = transformer(), transformer()
        # dropout inside the layers would take a third of a step's time on a CPU, and rank and decode less well
        norm = nn.LayerNorm(code, elementwise_affine=False)
        self.to_code = nn.Sequential(nn.Linear(width, code), norm, nn.Dropout(dropout))
        self.from_code = nn.Linear(code, width)
        self.output = nn.Linear(width, most * longest)
        self.score = nn.Sequential(nn.Linear(code, width), nn.GELU(), nn.Linear(width, 1))

    def encode(self, choices: Tensor) -> Tensor:
        """Encode architectures.

        Args:
            choices: Choices of the architectures, int64 ``(n, choices)``.

        Returns:
            Their codes, ``(n, code)``.
        """
        values = self.values(choices + self.get_buffer("offsets"))
        tokens = self.positions.expand(len(choices), -1, -1).index_add(1, self.get_buffer("token_of"), values)
        encoded: Tensor = self.to_code(self.encoder(tokens).mean(1))
        return encoded

    def decode(self, codes: Tensor) -> Tensor:
        """Decode codes.

        Args:
            codes: The codes, ``(n, code)``.

        Returns:
            Logits of the values, ``(n, choices, largest number of values)``; ``-inf`` where a choice has no such value.
        """
        tokens = self.from_code(codes).unsqueeze(1) + self.positions
        missing = self.get_buffer("missing")
        outputs: Tensor = self.output(self.decoder(tokens)).view(len(codes), -1, missing.shape[1])
        logits = outputs.index_select(1, self.get_buffer("output_of"))
        return logits.masked_fill(missing, -torch.inf)

    def scores(self, codes: Tensor) -> Tensor:
        """Score codes.

        Args:
            codes: The codes, ``(n, code)``.

        Returns:
            Their scores, ``(n,)``; higher is better.
        """
        scored: Tensor = self.score(codes).squeeze(1)
        return scored

    def reconstruction_loss(self, codes: Tensor, choices: Tensor) -> Tensor:
        """Mean cross-entropy between decoded codes and the choices that they were encoded from.

        Args:
            codes: The codes, ``(n, code)``.
            choices: The choices, int64 ``(n, positions)``.
        """
        return F.cross_entropy(self.decode(codes).flatten(0, 1), choices.flatten())
