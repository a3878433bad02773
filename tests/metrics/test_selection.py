import copy
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_nas.differentiable.discretization.base import Discretizer
from lightning_nas.differentiable.discretization.joint_score import JointScore
from lightning_nas.differentiable.discretization.softmax_score import SoftmaxScore
from lightning_nas.differentiable.model import SearchModel
from lightning_nas.metrics.selection import SelectionErrors, selection_errors
from lightning_nas.spaces.darts.space import DARTSSpace
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from lightning_nas.spaces.supernet import Entry, Mixture, Supernet

SPACE = DARTSSpace(nodes=2)
IMAGES = 64
Losses = Callable[[Mapping[str, Mixture], int], torch.Tensor]


def case() -> torch.Tensor:
    """Edge A (row 2) is strong in all operations, so its softmax is flat; edge B (row 4) is weak with one winner."""
    alphas = torch.full((SPACE.edges, 8), -3.0)
    alphas[2] = torch.tensor([1.9, 1.9, 1.9, 1.9, 2.0, 1.9, 1.9, 1.9])
    alphas[0, 2] = alphas[1, 5] = 0.0
    alphas[3, 1] = 1.0
    alphas[4, 3] = 0.5
    return alphas


def strength_loss(alphas: torch.Tensor, noise: float = 0.0) -> Losses:
    """A supernet that loses by the raw strength of whatever is removed: the reference is known.

    With noise, the loss of a removal differs from image to image by that much, in a way of its own.
    """
    strength = alphas.exp()

    def losses(mixtures: Mapping[str, Mixture], batch: int) -> torch.Tensor:
        loss = -sum(float((strength * (m.operations != 0)).sum()) for m in mixtures.values())
        removed = "".join(str(int(x)) for m in mixtures.values() for x in (m.operations != 0).flatten())
        generator = torch.Generator().manual_seed(zlib.crc32(f"{removed} {batch}".encode()))
        return loss + noise * torch.randn(IMAGES, generator=generator)

    return losses


def measured(
    space: DARTSSpace, discretizer: Discretizer, losses: Losses, batches: int = 1, **options: Any
) -> SelectionErrors:
    """Selection errors of a discretizer in the case above."""
    both = {"normal": case(), "reduce": case()}
    mixtures = {name: Mixture(alphas.softmax(1), torch.ones(len(alphas))) for name, alphas in both.items()}
    return selection_errors(
        space, discretizer.discretize(both, {}, space), mixtures, losses, batches=batches, **options
    )


def test_the_detector_flags_the_edge_that_the_softmax_hides() -> None:
    errors = measured(SPACE, SoftmaxScore(), strength_loss(case()))
    # the second node has three inputs and so a choice; the first has two and none
    assert [(s.cell, s.node, s.chosen, s.reference) for s in errors.of("edges")] == [
        ("normal", 1, ("1", "2"), ("0", "1")),
        ("reduce", 1, ("1", "2"), ("0", "1")),
    ]
    assert errors.rate("edges") == 1.0
    right = measured(SPACE, JointScore(), strength_loss(case()))
    assert right.rate("edges") == 0.0
    assert right.rate("operations") == 0.0
    assert right.to_dict()["edges"] == {
        **{"rate": 0.0, "low": 0.0, "high": pytest.approx(0.6576, abs=1e-4), "errors": 0, "decided": 2},
        **{"ties": 0, "count": 2, "images": IMAGES, "undecided": 0},
    }


def test_operation_errors_count_the_kept_edges() -> None:
    # the supernet misses another operation than the alphas choose
    errors = measured(SPACE, SoftmaxScore(), strength_loss(case().roll(1, dims=1)))
    assert errors.rate("operations") == 1.0
    assert len(errors.of("operations")) == 2 * 2 * 2


def test_a_space_without_a_choice_of_inputs_has_no_edge_errors() -> None:
    class KeepsAll(DARTSSpace):
        inputs_kept = None  # type: ignore[assignment]

    errors = measured(KeepsAll(nodes=2), SoftmaxScore(), strength_loss(case()))
    assert errors.rate("edges") is None
    assert errors.to_dict()["edges"] == {
        **{"rate": None, "low": None, "high": None, "errors": 0, "decided": 0},
        **{"ties": 0, "count": 0, "images": 0, "undecided": 0},
    }
    assert errors.rate("operations") is not None


def test_what_is_within_the_noise_is_undecided_and_no_error() -> None:
    clear = measured(SPACE, SoftmaxScore(), strength_loss(case(), noise=0.01), batches=16)
    noisy = measured(SPACE, SoftmaxScore(), strength_loss(case(), noise=100.0), batches=16)
    for kind in ("edges", "operations"):
        assert clear.rate(kind) == measured(SPACE, SoftmaxScore(), strength_loss(case())).rate(kind)
        found = noisy.to_dict()[kind]
        assert (found["rate"], found["errors"], found["decided"], found["ties"]) == (None, 0, 0, 0)
        assert found["undecided"] == found["count"] > 0
        assert found["images"] == 16 * IMAGES
    for each in clear.selections:
        assert each.error is not None
        assert each.lead is not None
        assert 0 < each.error < each.lead
        assert each.images == IMAGES  # a clear case takes a single batch


def test_more_images_decide_more() -> None:
    few, many = (measured(SPACE, SoftmaxScore(), strength_loss(case(), noise=10.0), n) for n in (1, 64))
    assert sum(each.decided for each in few.selections) < sum(each.decided for each in many.selections)


def test_progress_counts_all_removals() -> None:
    seen: list[tuple[int, int]] = []
    losses = strength_loss(case(), noise=1.0)
    measured(SPACE, SoftmaxScore(), losses, batches=4, progress=lambda *numbers: seen.append(numbers))
    removals = 2 * (3 + 4 * 7)  # a node of three inputs, and four edges of seven operations, in two cells
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (removals, removals)
    assert {total for _, total in seen} == {removals}
    assert len({done for done, _ in seen}) > 4


# A supernet that is known: an operation adds its strength to the margin by which the label is told.


class Known(Supernet):
    """An operation adds the first column of an image, which tells the label, and noise from a column of its own."""

    def __init__(self, strengths: torch.Tensor) -> None:
        super().__init__()
        self.cells = nn.ModuleList()
        self.scale = nn.Parameter(torch.ones(()))
        self.strengths = strengths

    def forward(self, x: torch.Tensor, mixtures: Mapping[str, Mixture]) -> torch.Tensor:
        factors = mixtures["cell"].operations
        told = x[:, :, 0, 0] * (self.strengths * factors).sum()
        logits: torch.Tensor = self.scale * (told + x[:, :, 0, 1:] @ factors.sum(0))
        return logits

    def per_edge(self) -> Iterator[Entry]:
        yield from ()

    def owner(self, public: str) -> None:
        return None


def known(strengths: torch.Tensor, noise: float, preferred: float = 0.0) -> SelectionErrors:
    """Selection errors of a search whose alphas may prefer the third operation of every edge."""

    class KnownSpace(NASBench201Space):
        def supernet(self, **_: Any) -> Known:
            return Known(strengths)

    model = SearchModel(KnownSpace(), SoftmaxScore(), num_classes=3, image_shape=(3, 1, 6), alpha_scale=0.0)
    with torch.no_grad():
        model.alphas["cell"][:, 2] = preferred
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(3, (1024,), generator=generator)
    images = noise * torch.randn(1024, 3, 1, 6, generator=generator)
    images[:, :, 0, 0] = F.one_hot(labels, 3).float()
    return model.selection_errors(images, labels)


def test_a_supernet_whose_operations_differ_by_construction_has_no_errors() -> None:
    strengths = torch.full((6, 5), 0.2)
    strengths[:, 2] = 0.6
    found = known(strengths, noise=0.25, preferred=0.1).summary("operations")
    assert (found["rate"], found["errors"], found["decided"], found["undecided"]) == (0.0, 0, 6, 0)
    assert found["images"] < 1024
    strengths[:3] = strengths[:3].roll(1, dims=1)  # three edges need the fourth operation
    assert known(strengths, noise=0.25, preferred=0.1).summary("operations")["rate"] == 0.5


def test_a_supernet_of_equal_operations_is_undecided_everywhere() -> None:
    none = {"rate": None, "low": None, "high": None, "errors": 0, "decided": 0, "count": 6, "undecided": 6}
    # operations that are equal on the average of many images, and those that are equal on every image
    assert known(torch.full((6, 5), 0.2), noise=0.25).summary("operations") == {**none, "ties": 0, "images": 1024}
    assert known(torch.full((6, 5), 0.2), noise=0.0).summary("operations") == {**none, "ties": 6, "images": 64}


def test_removals_agree_with_a_loop_over_them_by_hand() -> None:
    """Every decision, its lead and its error, from one pass of the supernet per removal and batch."""
    torch.manual_seed(0)
    space = DARTSSpace(nodes=2, channels=4, cells=3, operations=["none", "skip_connect", "sep_conv_3x3"])
    model = SearchModel(space, SoftmaxScore(), num_classes=3, image_shape=(3, 8, 8), alpha_scale=2.0).double()
    labels = torch.randint(3, (256,))
    images = torch.randn(256, 3, 8, 8, dtype=torch.float64) + F.one_hot(labels, 3)[:, :, None, None]
    optimizer = torch.optim.SGD(model.supernet.parameters(), lr=0.1)
    for _ in range(10):
        optimizer.zero_grad()
        F.cross_entropy(model(images[:64]), labels[:64]).backward()
        optimizer.step()
    supernet, mixtures = copy.deepcopy(model.supernet).train(), model.mixtures()

    @torch.no_grad()
    def losses(cell: str, edge: int, operation: int | slice, count: int) -> torch.Tensor:
        factors = mixtures[cell].operations.clone()
        factors[edge, operation] = 0
        changed = {**mixtures, cell: Mixture(factors, mixtures[cell].edges)}
        batches = zip(images[:count].split(64), labels[:count].split(64), strict=True)
        return torch.cat([F.cross_entropy(supernet(x, changed), y, reduction="none") for x, y in batches])

    errors = model.selection_errors(images, labels)
    assert {each.decided for each in errors.selections} == {True, False}
    for each in errors.selections:
        if each.kind == "edges":
            found = {str(i): losses(each.cell, 2 + i, slice(None), each.images) for i in range(3)}
        else:
            assert each.edge is not None
            found = {
                name: losses(each.cell, each.edge, i, each.images)
                for i, name in enumerate(space.operations)
                if name != "none"
            }
        order = sorted(found, key=lambda name: -float(found[name].mean()))
        kept = len(each.chosen)
        assert set(each.reference) == set(order[:kept])
        lead = found[order[kept - 1]] - found[order[kept]]
        assert each.lead == pytest.approx(float(lead.mean()), rel=1e-9)
        assert each.error == pytest.approx(float(lead.std()) / each.images**0.5, rel=1e-9)
        assert each.wrong == (each.decided and set(each.chosen) != set(order[:kept]))
