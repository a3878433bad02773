"""The auto-encoder of architectures."""

from typing import Any

import pytest
import torch

from lightning_nas.errors import ConfigError
from lightning_nas.predictors.autoencoder import ArchitectureAutoEncoder
from lightning_nas.spaces.nasbench101.space import NASBench101Space


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
    "tokens", [None, [[4], [0, 2], [3, 1]], NASBench101Space().tokens], ids=["each", "some", "101"]
)
def test_a_token_holds_all_of_its_choices(tokens: Any) -> None:
    sizes = (2, 5, 3, 2, 4) if tokens is None or len(tokens) == 3 else NASBench101Space().num_values
    torch.manual_seed(0)
    autoencoder = ArchitectureAutoEncoder(sizes, tokens=tokens, width=8, code=4, heads=2)
    choices = torch.stack([torch.randint(n, (30,)) for n in sizes], 1)
    codes = autoencoder.encode(choices)
    seen = []
    for place, size in enumerate(sizes):
        changed = choices.clone()
        changed[:, place] = (changed[:, place] + 1) % size
        assert not torch.isclose(autoencoder.encode(changed), codes).all(1).any()
        logits = autoencoder.decode(codes)[0, place, :size]
        # the outputs of a choice are its own
        (slope,) = torch.autograd.grad(logits.sum(), autoencoder.output.bias)
        token = next(i for i, each in enumerate(tokens or [[i] for i in range(len(sizes))]) if place in each)
        seen += [(token, output) for output in slope.nonzero().flatten().tolist()]
    assert len(seen) == len(set(seen)) == sum(sizes)


def test_every_cell_of_nas_bench_101_can_be_decoded_to_itself() -> None:
    space, generator = NASBench101Space(), torch.Generator().manual_seed(0)
    choices = torch.tensor([space.sample(generator).choices for _ in range(20)])
    torch.manual_seed(0)
    autoencoder = ArchitectureAutoEncoder(space.num_values, tokens=space.tokens, width=32)
    optimizer = torch.optim.AdamW(autoencoder.parameters(), 5e-3)
    for _ in range(200):
        loss = autoencoder.reconstruction_loss(autoencoder.encode(choices), choices)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert torch.equal(autoencoder.decode(autoencoder.encode(choices)).argmax(2), choices)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"width": 8, "heads": 3}, "width is 8; it must be divisible by heads, 3"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"layers": 0}, "layers is 0"),
        ({"num_values": (2, 0)}, r"num_values is \(2, 0\)"),
        ({"tokens": [[0]]}, r"tokens is \[\[0\]\]; every place from 0 to 1 must be in one token"),
        ({"tokens": [[0, 1], [1]]}, "must be in one token"),
        ({"tokens": [[0, 1], []]}, "no token may be empty"),
    ],
)
def test_wrong_numbers_are_named(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        ArchitectureAutoEncoder(**{"num_values": (2, 2), **options})
