"""GM-NAS: gradients by hand, the two parts of a supernet, chains of splits."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_nas.callbacks.step_seed import StepSeed
from lightning_nas.data.halves import HalvesDataModule
from lightning_nas.data.images import DigitsDataModule
from lightning_nas.differentiable.discretization.softmax_score import SoftmaxScore
from lightning_nas.errors import ArtifactError, ConfigError
from lightning_nas.spaces.convert import to_per_edge
from lightning_nas.spaces.darts.space import DARTSSpace
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from lightning_nas.spaces.supernet import Mixture
from lightning_nas.supernets.artifact import TrainedSupernet
from lightning_nas.tasks.split import SplitTask
from tests.callbacks.test_p_darts import fit, make
from tests.helpers import FixedHalves, quiet_trainer

pytestmark = pytest.mark.filterwarnings("ignore:.*returned `None`.*")

SPACES: dict[str, Any] = {
    "darts": lambda: DARTSSpace(
        nodes=2, channels=2, cells=3, operations=("skip_connect", "sep_conv_3x3", "dil_conv_3x3")
    ),
    "nasbench201": lambda: NASBench201Space(channels=2, cells_per_stage=1),
}


@pytest.fixture(params=list(SPACES))
def searched(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, str]:
    space = SPACES[request.param]()
    fit(make(tmp_path / "search", space=space, discretizer=SoftmaxScore(), write_supernet=True), max_epochs=2)
    return space, str(tmp_path / "search" / "supernet.safetensors")


def split(space: Any, supernet: str, folder: Path, cells_only: bool = True, **options: Any) -> SplitTask:
    sizes: dict[str, Any] = {"num_classes": 3, "image_shape": (3, 8, 8), "output_dir": str(folder)}
    task = SplitTask(space, supernet_path=supernet, cells_only=cells_only, **sizes)
    fit(task, max_epochs=1, **options)  # type: ignore[arg-type]
    return task


@pytest.mark.parametrize("cells_only", [True, False])
def test_the_disagreement_is_that_of_gradients_by_hand(
    searched: tuple[Any, str], tmp_path: Path, cells_only: bool
) -> None:
    """Stem, last batch norm and classifier count only if that is asked for."""
    space, supernet = searched
    task = split(space, supernet, tmp_path / "split", cells_only, precision="64-true")
    loaded = TrainedSupernet.load(supernet).network.double().train()
    ones = torch.ones(space.edges, dtype=torch.float64)
    alphas = {n: torch.tensor(v).double() for n, v in TrainedSupernet.load(supernet).info["alphas"].items()}
    mixtures = {name: Mixture(a.softmax(1), ones) for name, a in alphas.items()}
    batches = list(FixedHalves(batches=2, dtype=torch.float32).train_dataloader())
    cell, edge = space.cell_types[0], 1
    operations = space.allowed[cell][edge].nonzero().flatten().tolist()
    total = torch.zeros(len(operations), len(operations), dtype=torch.float64)
    for batch, _, _ in batches:
        images, labels = batch["train"][0].double(), batch["train"][1]
        gradients = []
        for operation in operations:
            factors = mixtures[cell].operations.clone()
            factors[edge] = F.one_hot(torch.tensor(operation), len(space.operations)).double()
            loaded.zero_grad()
            logits = loaded(images, {**mixtures, cell: Mixture(factors, ones)})
            F.cross_entropy(logits, labels).backward()
            grads = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in loaded.named_parameters()}
            public = to_per_edge(loaded, grads)  # type: ignore[arg-type]
            mark = {"normal": f"._ops.{edge}._ops.", "cell": ".edges.2<-0."}[cell]
            reductions = {i for i, each in enumerate(loaded.cells) if getattr(each, "reduction", False)}  # type: ignore[arg-type]
            others = [
                g.flatten()
                for name, g in public.items()
                if (name.startswith("cells.") or not cells_only)
                and not (mark in name and int(name.split(".")[1]) not in reductions)
            ]
            assert len(others) < len(public)
            assert any(not name.startswith("cells.") for name in public)
            gradients.append(torch.cat(others).double())
        for i, g in enumerate(gradients):
            for j, h in enumerate(gradients):
                total[i, j] += 1 - torch.dot(g, h) / (g.norm() * h.norm())
    found = task.sums[cell][edge][operations][:, operations]
    assert torch.allclose(found, total, atol=1e-9)
    assert float(found.max()) > 0.01


def test_the_parts_are_the_whole_without_the_other_group(searched: tuple[Any, str], tmp_path: Path) -> None:
    space, supernet = searched
    split(space, supernet, tmp_path / "split")
    told = json.loads((tmp_path / "split" / "split.json").read_text())
    assert told["score"] == max(each["score"] for each in told["edges"])
    cell, edge = told["cell"], told["edge"]
    names = [space.operations[o] for o in space.allowed[cell][edge].nonzero().flatten().tolist()]
    assert sorted(sum(told["groups"], [])) == sorted(names)
    whole = TrainedSupernet.load(supernet)
    images = torch.randn(4, 3, 8, 8)
    for i, group in enumerate(told["groups"]):
        part = TrainedSupernet.load(tmp_path / "split" / f"supernet_{i}.safetensors")
        assert isinstance(part.space, type(space))
        kept = part.space.allowed[cell][edge]
        assert [name for name, on in zip(space.operations, kept.tolist(), strict=True) if on] == [
            name for name in space.operations if name in group
        ]
        others = torch.arange(space.edges) != edge
        assert torch.equal(part.space.allowed[cell][others], space.allowed[cell][others])
        factors = {name: torch.rand(space.edges, len(space.operations)) for name in space.cell_types}
        factors[cell][edge, ~kept] = 0.0
        mixtures = {name: Mixture(each, torch.ones(space.edges)) for name, each in factors.items()}
        logits = [each.network.eval()(images, mixtures) for each in (whole, part)]
        assert torch.allclose(*logits, atol=1e-5)


def test_two_splits_are_four_parts_of_the_space(tmp_path: Path) -> None:
    space = SPACES["nasbench201"]()
    fit(make(tmp_path, space=space, discretizer=SoftmaxScore(), write_supernet=True), max_epochs=1)
    split(space, str(tmp_path / "supernet.safetensors"), tmp_path / "a")
    sizes, edges = [], set()
    for i in (0, 1):
        given = yaml.safe_load((tmp_path / "a" / f"search_{i}.yaml").read_text())["model"]["init_args"]
        narrowed = NASBench201Space(**given["space"]["init_args"])
        # a search continues in one part, and its supernet is split again
        trained = make(
            tmp_path / f"b{i}",
            space=narrowed,
            supernet_path=given["supernet_path"],
            discretizer=SoftmaxScore(),
            write_supernet=True,
        )
        fit(trained, max_epochs=1)
        task = split(narrowed, str(tmp_path / f"b{i}" / "supernet.safetensors"), tmp_path / f"c{i}")
        assert task.split is not None
        edges.add(task.split[1])
        for j in (0, 1):
            leaf = TrainedSupernet.load(tmp_path / f"c{i}" / f"supernet_{j}.safetensors").space
            assert isinstance(leaf, NASBench201Space)
            sizes.append(int(leaf.allowed["cell"].sum(1).prod()))
    first = json.loads((tmp_path / "a" / "split.json").read_text())["edge"]
    assert first not in edges
    assert sum(sizes) == 5**6
    assert len(sizes) == 4


def test_a_resumed_split_equals_one_without_a_stop(tmp_path: Path) -> None:
    space = SPACES["nasbench201"]()
    network = space.supernet(num_classes=10, image_shape=(1, 8, 8))
    info = {"alphas": {"cell": torch.randn(6, 5).tolist()}, "edge_alphas": {}}
    supernet = str(TrainedSupernet(network, space, (1, 8, 8), 10, info).save(tmp_path / "supernet.safetensors"))

    def run(name: str, path: Path | None = None) -> SplitTask:
        task = SplitTask(space, supernet_path=supernet, output_dir=str(tmp_path / name), image_shape=(1, 8, 8))
        saved = ModelCheckpoint(tmp_path / name, filename="{step}", save_top_k=-1, every_n_train_steps=1)
        options: dict[str, Any] = {"max_epochs": 1, "limit_train_batches": 3, "enable_checkpointing": True}
        trainer = quiet_trainer(callbacks=[StepSeed(), saved], **options)
        trainer.fit(task, datamodule=HalvesDataModule(DigitsDataModule(), batch_size=16), ckpt_path=path)
        return task

    whole = run("whole")
    again = run("again", tmp_path / "whole" / "step=1.ckpt")
    assert torch.equal(again.sums["cell"], whole.sums["cell"])
    files = [tmp_path / at / "split.json" for at in ("whole", "again")]
    assert files[0].read_text() == files[1].read_text()


def test_what_cannot_be_split_is_refused(tmp_path: Path) -> None:
    space = NASBench201Space(operations=("skip_connect", "nor_conv_1x1"), channels=2, cells_per_stage=1)
    single = torch.tensor([[True, False]] * 6)
    fit(
        make(tmp_path, space=space.restrict({"cell": single}), discretizer=SoftmaxScore(), write_supernet=True),
        max_epochs=1,
    )
    sizes: dict[str, Any] = {"num_classes": 3, "image_shape": (3, 8, 8)}
    with pytest.raises(ConfigError, match="no edge has more than one operation"):
        SplitTask(space.restrict({"cell": single}), supernet_path=str(tmp_path / "supernet.safetensors"), **sizes)
    few = DARTSSpace(nodes=1, operations=("none", "skip_connect", "sep_conv_3x3"), channels=2, cells=3)
    fit(make(tmp_path, space=few, discretizer=SoftmaxScore(), write_supernet=True), max_epochs=1)
    with pytest.raises(ConfigError, match="could be none alone"):
        SplitTask(few, supernet_path=str(tmp_path / "supernet.safetensors"), **sizes)
    fit(
        make(tmp_path, space=space.restrict({"cell": single}), discretizer=SoftmaxScore(), write_supernet=True),
        max_epochs=1,
    )
    with pytest.raises(ArtifactError, match="lacks weights"):
        SplitTask(space, supernet_path=str(tmp_path / "supernet.safetensors"), **sizes)
