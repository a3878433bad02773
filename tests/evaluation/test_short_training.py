"""Short trainings against a loop that is written out."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from lightning_nas.data.augmentation import Augmentation, RandomCrop, RandomFlip
from lightning_nas.data.halves import HalvesDataModule
from lightning_nas.data.images import DigitsDataModule
from lightning_nas.data.splits import derived_seed
from lightning_nas.errors import ConfigError, DataError
from lightning_nas.evaluation.executors import Serial
from lightning_nas.evaluation.parallel import Parallel
from lightning_nas.evaluation.short_training import ShortTraining
from lightning_nas.spaces.darts.space import DARTSSpace
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from tests.helpers import FixedHalves
from tests.waits import Waits

SPACE = DARTSSpace(nodes=2)


def data() -> FixedHalves:
    return FixedHalves(batches=3, batch_size=4, dtype=torch.float32)


def test_the_score_is_that_of_a_loop_written_out() -> None:
    architecture = SPACE.sample(torch.Generator().manual_seed(2))
    evaluator = ShortTraining(data(), steps=4, batch_size=4, channels=4, cells=3, learning_rate=0.05, seed=3)
    (found,) = evaluator.evaluate([architecture])
    torch.manual_seed(3)
    network = SPACE.network(architecture, num_classes=3, image_shape=(3, 8, 8), channels=4, cells=3)
    generator = torch.Generator().manual_seed(3)
    images, labels = data().fixed_batch("train", 12, 3)
    optimizer = torch.optim.SGD(network.parameters(), 0.05, momentum=0.9, weight_decay=5e-4, nesterov=True)
    order: list[int] = []
    for step in range(4):
        if len(order) < 4:
            order = torch.randperm(12, generator=generator).tolist()
        batch, order = order[:4], order[4:]
        optimizer.param_groups[0]["lr"] = 0.05 * (1 + torch.cos(torch.tensor(torch.pi * step / 4)).item()) / 2
        optimizer.zero_grad()
        F.cross_entropy(network(images[batch]), labels[batch]).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
    images, labels = data().fixed_batch("search", 12, 3)
    with torch.no_grad():
        logits = network(images)
    assert found.objectives["loss"] == pytest.approx(float(F.cross_entropy(logits, labels)), abs=1e-5)
    assert found.objectives["accuracy"] == pytest.approx(float((logits.argmax(1) == labels).float().mean()))
    assert found.cost["parameters"] == sum(p.numel() for p in network.parameters())


def test_all_get_the_same_seed_and_batches_and_the_global_generator_is_left_alone() -> None:
    a, b = (SPACE.sample(torch.Generator().manual_seed(i)) for i in range(2))
    evaluator = ShortTraining(data(), steps=2, batch_size=4, channels=4, cells=3)
    before = torch.get_rng_state()
    first = evaluator.evaluate([a, b, a])
    assert torch.equal(before, torch.get_rng_state())
    assert first[0].objectives == first[2].objectives != first[1].objectives


@pytest.mark.parametrize("online", [False, True])
def test_the_steps_of_a_training_do_not_wait_for_a_gpu(online: bool) -> None:
    architecture = SPACE.sample(torch.Generator().manual_seed(2))
    found = []
    for steps in (2, 7):
        augmentations: list[Augmentation] = [RandomCrop(1), RandomFlip()]
        evaluator = ShortTraining(
            data(), steps=steps, batch_size=4, channels=4, cells=3, online=online, augmentations=augmentations
        )
        with Waits(iter([])) as waits:
            evaluator.evaluate([architecture])
        found.append(waits.found)
    copied = [place for place in found[0] if place.startswith("copy to the device in evaluation/short_training.py")]
    assert copied  # the images are followed
    assert found[0] == found[1]


def test_images_can_be_made_smaller() -> None:
    evaluator = ShortTraining(data(), steps=1, batch_size=4, channels=4, cells=3, image_size=4)
    (found,) = evaluator.evaluate([SPACE.largest()])
    assert found.objectives["loss"] > 0


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="steps"):
        ShortTraining(data(), steps=0)
    with pytest.raises(DataError, match="fewer than a batch of 64"):
        ShortTraining(data(), batch_size=64).evaluate([SPACE.largest()])


def test_it_trains_on_the_train_half_of_real_images_and_learns() -> None:
    halves = HalvesDataModule(DigitsDataModule(), batch_size=32)
    (untrained,) = ShortTraining(halves, steps=1, channels=4, cells=3).evaluate([SPACE.largest()])
    (trained,) = ShortTraining(halves, steps=60, channels=4, cells=3).evaluate([SPACE.largest()])
    assert trained.objectives["accuracy"] > 0.8 > untrained.objectives["accuracy"]


def test_rounds_of_short_trainings_have_their_own_length_and_seeds() -> None:
    def trained(**options: Any) -> ShortTraining:
        halves = HalvesDataModule(DigitsDataModule(), batch_size=32)
        return ShortTraining(halves, batch_size=8, channels=4, cells=1, seed=3, **options)

    cell = NASBench201Space().architecture([3, 1, 3, 1, 3, 1])
    rounds = trained(steps=[2, 3], repeats=[1, 2])
    first = rounds.evaluate([cell])[0].objectives
    assert first == trained(steps=2).evaluate([cell])[0].objectives
    rounds.begin(1)
    assert rounds.version == 1
    second = rounds.evaluate([cell])[0].objectives
    assert second == Parallel(rounds, Serial()).evaluate([cell])[0].objectives
    rounds.begin(2)
    third = rounds.evaluate([cell])[0].objectives
    assert len({each["loss"] for each in (first, second, third)}) == 3
    single = []
    for i in range(2):
        alone = trained(steps=3)
        with torch.random.fork_rng():
            network = alone.train(cell, derived_seed(rounds.seed, "round", 1, i))
        single.append(alone.score(network)["loss"])
    assert second["loss"] == pytest.approx(sum(single) / 2, abs=1e-7)
    with pytest.raises(ConfigError, match=r"repeats is \[0\]"):
        trained(repeats=0)


def test_online_scores_are_those_of_the_batches_before_they_are_learned() -> None:
    evaluator = ShortTraining(data(), steps=5, batch_size=4, channels=4, cells=3, learning_rate=0.05, online=True)
    (found,) = evaluator.evaluate([SPACE.largest()])
    losses, hits = [], []
    torch.manual_seed(0)
    network = SPACE.network(SPACE.largest(), num_classes=3, image_shape=(3, 8, 8), channels=4, cells=3)
    generator = torch.Generator().manual_seed(0)
    images, labels = data().fixed_batch("train", 12, 0)
    optimizer = torch.optim.SGD(network.parameters(), 0.05, momentum=0.9, weight_decay=5e-4, nesterov=True)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 5)
    order: list[int] = []
    for _ in range(5):
        if len(order) < 4:
            order = torch.randperm(12, generator=generator).tolist()
        batch, order = order[:4], order[4:]
        logits = network(images[batch])
        loss = F.cross_entropy(logits, labels[batch])
        losses.append(loss.item())
        hits.append(float((logits.argmax(1) == labels[batch]).float().mean()))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        scheduler.step()
    assert found.objectives["loss"] == pytest.approx(sum(losses[2:]) / 3, abs=1e-5)
    assert found.objectives["accuracy"] == pytest.approx(sum(hits[2:]) / 3)


@pytest.mark.parametrize("online", [False, True])
def test_trainings_may_be_restricted_to_random_classes(online: bool) -> None:
    def trained(seed: int, **options: Any) -> ShortTraining:
        halves = HalvesDataModule(DigitsDataModule(), batch_size=32)
        return ShortTraining(halves, steps=20, channels=4, cells=1, seed=seed, online=online, **options)

    cell = NASBench201Space().largest()
    (all_classes,), (two,), (others,) = (
        trained(seed, classes=classes).evaluate([cell]) for seed, classes in ((1, None), (1, 2), (2, 2))
    )
    assert two.objectives["accuracy"] > 0.8 > all_classes.objectives["accuracy"]
    assert two.objectives["loss"] != others.objectives["loss"]
    assert two.cost["parameters"] < all_classes.cost["parameters"]  # fewer outputs
    assert trained(1, classes=10).evaluate([cell])[0].objectives == all_classes.objectives
    with pytest.raises(ConfigError, match="classes is 1"):
        trained(1, classes=1)
