"""Steps with the guard against one module per operation, whose unused weights optimizers skip."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from lightning_nas.spaces.convert import from_per_edge, to_per_edge
from lightning_nas.spaces.darts.space import DARTSSpace
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from lightning_nas.spaces.supernet import Mixture
from lightning_nas.supernets.unused_weights import UnusedWeightGuard

SMALL: list[Any] = [
    NASBench201Space(channels=2, cells_per_stage=1),
    DARTSSpace(nodes=2, channels=2, cells=3, operations=("none", "skip_connect", "sep_conv_3x3", "dil_conv_3x3")),
]


@pytest.mark.parametrize("space", SMALL, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("kind", ["SGD", "fused SGD", "AdamW"])
def test_steps_are_those_of_one_module_an_operation(space: Any, kind: str) -> None:
    torch.manual_seed(0)
    supernet = space.supernet(num_classes=3, image_shape=(3, 8, 8)).double()
    make = {
        "SGD": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.1),
        "fused SGD": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.1, fused=True),
        # AdamW counts steps per tensor, not per operation; with both betas at 0 the count does not matter
        "AdamW": lambda p: torch.optim.AdamW(p, 0.01, betas=(0.0, 0.0), weight_decay=0.1),
    }[kind]
    optimizer = make(supernet.parameters())
    values = dict(supernet.named_parameters())
    # one tensor per operation
    single = {n: v.detach().requires_grad_() for n, v in to_per_edge(supernet, values).items()}
    # fused SGD does not accept parameters that never had a gradient
    own = make(list(single.values())) if "fused" not in kind else torch.optim.SGD(single.values(), 0.1, 0.9, 0, 0.1)
    untouched = UnusedWeightGuard(supernet)
    generator = torch.Generator().manual_seed(0)
    seen = 0
    for _ in range(8):
        images, labels = torch.randn(4, 3, 8, 8, dtype=torch.float64), torch.randint(3, (4,))
        optimizer.zero_grad()
        path = space.to_path(space.sample(generator))
        path = {n: Mixture(m.operations.double(), m.edges.double(), m.active) for n, m in path.items()}
        F.cross_entropy(supernet(images, path), labels).backward()
        gradients = {n: p.grad if p.grad is not None else torch.zeros_like(p) for n, p in supernet.named_parameters()}
        for name, gradient in to_per_edge(supernet, gradients).items():
            seen += not gradient.any()
            single[name].grad = gradient if gradient.any() else None
        own.step()
        untouched.before_step(optimizer)
        optimizer.step()
        untouched.after_step(optimizer)
        moved = to_per_edge(supernet, {n: p.detach() for n, p in supernet.named_parameters()})
        for name, value in single.items():
            torch.testing.assert_close(moved[name], value.detach(), rtol=0, atol=1e-12)
    assert seen > 8


def test_without_it_they_are_not() -> None:
    torch.manual_seed(0)
    supernet = SMALL[0].supernet(num_classes=3, image_shape=(3, 8, 8))
    optimizer = torch.optim.SGD(supernet.parameters(), 0.1, weight_decay=0.1)
    before = to_per_edge(supernet)
    path = SMALL[0].parse("|nor_conv_3x3~0|+|none~0|none~1|+|none~0|none~1|nor_conv_1x1~2|")
    F.cross_entropy(supernet(torch.randn(4, 3, 8, 8), SMALL[0].to_path(path)), torch.randint(3, (4,))).backward()
    optimizer.step()
    assert not torch.equal(
        to_per_edge(supernet)["cells.0.edges.2<-0.3.op.1.weight"], before["cells.0.edges.2<-0.3.op.1.weight"]
    )
    from_per_edge(before, supernet)
