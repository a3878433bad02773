"""The auto-encoder of architectures."""

from typing import Any

import pytest
import torch

from lightning_nas.errors import ConfigError
from lightning_nas.predictors.autoencoder import ArchitectureAutoEncoder


def test_codes_have_one_norm_and_only_values_that_exist_are_decoded() -> None:
    autoencoder = ArchitectureAutoEncoder((2, 5, 3), width=8, code=4, layers=1, heads=2)
    choices = torch.stack([torch.randint(n, (50,)) for n in (2, 5, 3)], 1)
    codes = autoencoder.encode(choices)
    torch.testing.assert_close(codes.norm(dim=1), torch.full((50,), 2.0), rtol=1e-3, atol=0)
    logits = autoencoder.decode(torch.randn(200, 4) * 5)
    assert logits.shape == (200, 3, 5)
    assert (logits.argmax(2) < torch.tensor([2, 5, 3])).all()
    assert not torch.equal(autoencoder.encode(choices[:, [0, 1, 2]]), autoencoder.encode(choices.flip(0)))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"width": 8, "heads": 3}, "width is 8; it must be divisible by heads, 3"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"layers": 0}, "layers is 0"),
        ({"num_values": (2, 0)}, r"num_values is \(2, 0\)"),
    ],
)
def test_wrong_numbers_are_named(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        ArchitectureAutoEncoder(**{"num_values": (2, 2), **options})
