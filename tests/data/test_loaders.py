"""Loaders: the order, the share of each process, and where the images are."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lightning_nas.data.loaders import loader
from lightning_nas.data.sets import ImageSet
from lightning_nas.data.splits import derived_seed
from lightning_nas.errors import ConfigError, DataError
from tests.data.fake import Recorder, module
from tests.helpers import quiet_trainer


class Process(SimpleNamespace):
    """What a loader asks of a trainer."""

    def __init__(self, rank: int, world: int, device: str = "cpu") -> None:
        strategy = SimpleNamespace(root_device=torch.device(device))
        fit_loop = SimpleNamespace(epoch_progress=SimpleNamespace(current=SimpleNamespace(processed=0)))
        super().__init__(global_rank=rank, world_size=world, strategy=strategy, fit_loop=fit_loop)


def numbered(n: int) -> ImageSet:
    """Images whose label is their index."""
    return ImageSet(torch.zeros(n, 1, 2, 2, dtype=torch.uint8), torch.arange(n))


def order(n: int, batch_size: int, rank: int = 0, world: int = 1, epoch: int = 0, **options: Any) -> list[list[int]]:
    """The labels of the batches of one process, ``numbered``."""
    given = {"seed": 5, "shuffle": True, "drop_last": True, "num_workers": 0, **options}
    made = loader(numbered(n), batch_size, Process(rank, world), **given)  # type: ignore[arg-type]  # all it needs
    made.sampler.set_epoch(epoch)  # type: ignore[attr-defined]  # always a DistributedSampler
    return [labels.tolist() for _, labels in made]


def test_order_depends_on_seed_and_epoch_alone() -> None:
    first = order(23, 4)
    assert first == order(23, 4)
    assert [len(batch) for batch in first] == [4] * 5
    flat = [label for batch in first for label in batch]
    assert len(set(flat)) == 20
    assert first != order(23, 4, epoch=1)
    assert first != order(23, 4, seed=6)
    # neighbouring seeds of one user must not repeat each other's epochs
    a, b = derived_seed(0, "train"), derived_seed(1, "train")
    assert order(23, 4, seed=a, epoch=1) != order(23, 4, seed=b, epoch=0)


def test_loaders_draw_no_global_random_numbers() -> None:
    state = torch.get_rng_state()
    order(23, 4)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(("n", "world"), [(24, 2), (25, 2), (31, 3)])
def test_processes_share_the_global_batch_of_one(n: int, world: int) -> None:
    for epoch in (0, 1):
        whole = order(n, 4 * world, epoch=epoch)
        parts = [order(n, 4, rank, world, epoch) for rank in range(world)]
        together = [sorted(sum(batches, [])) for batches in zip(*parts, strict=True)]
        assert together == [sorted(batch) for batch in whole]


@pytest.mark.parametrize(("n", "world"), [(7, 1), (7, 2), (10, 3)])
def test_each_test_image_is_on_one_process_once(n: int, world: int) -> None:
    parts = [order(n, 3, rank, world, shuffle=False, drop_last=False) for rank in range(world)]
    assert sorted(label for part in parts for batch in part for label in batch) == list(range(n))


def test_processes_validate_the_same_number_of_batches(tmp_path: Path) -> None:
    lengths = []
    for rank in range(2):
        # 9 images: 4 each, not 5 and 4
        data = module(tmp_path, train=31, validation_fraction=0.3, batch_size=2)
        data.trainer = Process(rank, 2)  # type: ignore[assignment]  # all that it needs
        lengths.append([len(labels) for _, labels in data.val_dataloader()])
    assert lengths == [[2, 2], [2, 2]]


def test_small_sets_move_to_a_gpu_and_need_no_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    moves: list[str] = []
    monkeypatch.setattr(ImageSet, "to", lambda self, device: moves.append(device.type))
    options: dict[str, Any] = {"seed": 0, "shuffle": False, "drop_last": False, "num_workers": 2}
    made = [loader(numbered(8), 2, Process(0, 1, device), **options) for device in ("cuda", "cpu")]  # type: ignore[arg-type]
    assert moves == ["cuda", "cpu"]
    assert [m.num_workers for m in made] == [0, 2]
    assert not made[0].pin_memory
    monkeypatch.setattr("lightning_nas.data.loaders.IN_MEMORY", 10)
    large = loader(numbered(8), 2, Process(0, 1, "cuda"), **options)  # type: ignore[arg-type]  # all it needs
    assert (moves[-1], large.num_workers, large.pin_memory) == ("cpu", 2, True)


class Counter(Recorder):
    """Writes down what its process has seen."""

    def on_train_end(self) -> None:
        """The sizes of the training batches, and how many batches were validated."""
        sizes = [len(batch[1]) for _, _, batch in self.seen["train"]]
        Path(f"fit{self.global_rank}.txt").write_text(f"{sizes}, {len(self.seen['val'])}")

    def on_test_end(self) -> None:
        """The labels, batch by batch."""
        Path(f"test{self.global_rank}.txt").write_text(str([y.tolist() for _, y in self.seen["test"]]))


@pytest.mark.skipif(not hasattr(os, "fork") or torch.cuda.is_available(), reason="fork must come before CUDA")
def test_two_processes_test_every_image_once(tmp_path: Path) -> None:
    data = module(tmp_path, train=31, batch_size=3, validation_fraction=0.3)
    options: dict[str, Any] = {"strategy": "ddp_fork", "devices": 2, "num_sanity_val_steps": 0}
    try:
        quiet_trainer(max_epochs=1, **options).fit(Counter(), data)
        quiet_trainer(**options).test(Counter(), data, verbose=False)
    finally:
        os.environ.pop("MASTER_PORT", None)  # Lightning leaves it behind
    # 22 training images make 3 batches of 3 on each of two processes; 8 of 9 validation images 2 batches
    assert [Path(f"fit{rank}.txt").read_text() for rank in range(2)] == ["[3, 3, 3], 2"] * 2
    assert [Path(f"test{rank}.txt").read_text() for rank in range(2)] == ["[[0, 2, 1], [0]]", "[[1, 0, 2]]"]


def test_too_few_images_for_the_processes() -> None:
    class Process:
        """What a loader asks of a trainer."""

        global_rank, world_size = 0, 4

    images = ImageSet(torch.zeros(11, 1, 2, 2, dtype=torch.uint8), torch.arange(11) % 2)
    options: dict[str, Any] = {"seed": 0, "shuffle": True, "num_workers": 0}
    with pytest.raises(DataError, match=r"search half has 11 images for 4 process\(es\).*of 3 each.*at most 2"):
        loader(images, 3, Process(), drop_last=True, name="search half", **options)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="drop_last=True"):
        loader(images, 3, None, drop_last=False, **options)
