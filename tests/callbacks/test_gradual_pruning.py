"""GOLD-NAS: which operations are removed, which stay, and how the weight of the cost changes."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_nas.callbacks.gradual_pruning import GradualPruning
from lightning_nas.differentiable.discretization.sigmoid_score import SigmoidScore
from lightning_nas.differentiable.hypergradient.one_level import OneLevel
from lightning_nas.differentiable.regularization.expected_cost import ExpectedCost
from lightning_nas.differentiable.relaxation.sigmoid import Sigmoid
from lightning_nas.errors import ConfigError
from lightning_nas.metrics.cost import parameters
from lightning_nas.spaces.artifact import load_architecture
from lightning_nas.spaces.darts.space import DARTSSpace
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from lightning_nas.tasks.bilevel import BilevelTask
from tests.callbacks.test_p_darts import fit, make
from tests.helpers import quiet_trainer

OPERATIONS = ("skip_connect", "nor_conv_1x1", "nor_conv_3x3")


def search(folder: Path, space: Any = None, **options: Any) -> BilevelTask:
    space = space or NASBench201Space(operations=OPERATIONS, channels=2, cells_per_stage=1)
    defaults = {"regularizers": [ExpectedCost(weight=0.1)], "hypergradient": OneLevel(), "discretizer": SigmoidScore()}
    defaults |= {"alpha_optimizer": lambda p: torch.optim.SGD(p, lr=0.0), "warmup_epochs": 0, "alpha_scale": 0.0}
    return make(folder, space=space, relaxation=Sigmoid(), **{**defaults, **options})


def weigh(task: BilevelTask, name: str, values: dict[tuple[int, int], float]) -> None:
    """Set the alphas so that the sigmoids have these values; those of all others are 0.5."""
    with torch.no_grad():
        for at, factor in values.items():
            task.model.alphas[name][at] = torch.tensor(factor).logit()


def test_what_has_the_smallest_share_of_its_node_goes_first(tmp_path: Path) -> None:
    """Three, six and nine operations enter the three nodes."""
    task = search(tmp_path)
    # shares: 0.008, which goes at once; then 0.019, 0.029, 0.034 (alpha -2, whose sigmoid is above 0.05), 0.038, 0.072
    weak = {(1, 0): 0.02, (0, 1): 0.01, (3, 1): 0.1, (4, 2): float(torch.tensor(-2.0).sigmoid()), (0, 0): 0.02}
    weigh(task, "cell", {**weak, (5, 0): 0.25})
    before, numbers = parameters(task.model.supernet), []

    class Watch(GradualPruning):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            super().on_train_epoch_end(trainer, pl_module)
            written = json.loads((tmp_path / "series.json").read_text())["series"]
            assert [point["epoch"] for point in written] == [0, 1][: trainer.current_epoch + 1]
            numbers.append(((~pl_module.model.space.allowed["cell"]).nonzero().tolist(), task.regularizers[0].weight))  # type: ignore[attr-defined]

    pruning = Watch(max_removed=2, growth=2.0, increment=0.01, images=8)
    fit(task, pruning, max_epochs=4)
    gone = [each for each, _ in numbers]
    assert gone[0] == [[0, 1], [1, 0], [3, 1]]
    assert gone[1] == [[0, 0], [0, 1], [1, 0], [3, 1], [4, 2]]
    assert gone[2] == gone[3] == gone[1]
    # enough are removed twice, which halves the weight; then none, and it grows by a step that doubles
    assert [weight for _, weight in numbers] == pytest.approx([0.05, 0.025, 0.025 + 0.02, 0.025 + 0.02 + 0.04])
    # in three cells with 2, 4 and 8 channels, the 1x1 of two edges and the 3x3 of one were removed
    assert parameters(task.model.supernet) == before - (4 + 16 + 64) * (1 + 1 + 9)
    moved, left = task.trainer.optimizers[0], {id(p) for p in task.model.supernet.parameters()}
    assert {id(p) for group in moved.param_groups for p in group["params"]} == left
    assert {id(p) for p in moved.state} == left
    held = sum(state["momentum_buffer"].numel() for state in moved.state.values())
    assert held == parameters(task.model.supernet)
    series = json.loads((tmp_path / "series.json").read_text())["series"]
    assert [point["operations"] for point in series] == [15, 13]
    assert [point["epoch"] for point in series] == [0, 1]
    assert series[-1]["parameters"] == parameters(task.model.supernet)
    assert all(0 < point["loss"] < 10 and 0 <= point["accuracy"] <= 1 for point in series)
    assert load_architecture(tmp_path / "architecture.json").choices[0] == 2
    assert task.outputs["series"] == [tmp_path / "series.json"]
    assert task.outputs["architecture"]


def test_no_node_of_darts_loses_its_inputs(tmp_path: Path) -> None:
    space = DARTSSpace(nodes=2, channels=2, cells=3, operations=("skip_connect", "sep_conv_3x3"))
    task = search(tmp_path, space)
    for name in ("normal", "reduce"):
        weigh(task, name, {(edge, operation): 0.01 for edge in range(5) for operation in range(2)})
    fit(task, GradualPruning(threshold=1.0, max_removed=100, images=0), max_epochs=2)
    for mask in task.model.space.allowed.values():
        edges = mask.any(1)
        assert (int(edges[:2].sum()), int(edges[2:].sum())) == (2, 2)
        assert int(mask.sum()) == 4
    assert task.found is not None


def test_a_search_ends_where_little_enough_is_left(tmp_path: Path) -> None:
    task = search(tmp_path)
    weigh(task, "cell", {(edge, 0): 0.01 + edge / 1000 for edge in range(6)})
    fit(task, GradualPruning(at_once=0.0, max_removed=4, stop_at=13, images=0), max_epochs=9)
    assert int(task.model.space.allowed["cell"].sum()) == 13
    assert task.trainer.current_epoch == 2


def test_a_search_that_had_ended_ends_at_once(tmp_path: Path) -> None:
    ends = []
    for path in (None, tmp_path / "epoch=1.ckpt"):
        task = search(tmp_path)
        weigh(task, "cell", {(edge, 0): 0.01 for edge in range(6)})
        keep = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1, enable_version_counter=False)
        pruning = GradualPruning(at_once=0.0, max_removed=4, stop_at=13, images=8)
        fit(task, pruning, keep, max_epochs=9, path=path, enable_checkpointing=True)
        assert task.trainer.current_epoch == 2
        state = {name: value.clone() for name, value in task.state_dict().items()}
        ends.append((state, pruning.series, (tmp_path / "series.json").read_text(), set(task.outputs)))
    for name, value in ends[0][0].items():
        assert torch.equal(value, ends[1][0][name]), name
    assert ends[0][1:] == ends[1][1:]


def test_the_weight_rests_when_nothing_more_can_go(tmp_path: Path) -> None:
    task = search(tmp_path)
    weigh(task, "cell", {(edge, operation): 0.01 for edge in range(6) for operation in range(3)})
    pruning = GradualPruning(threshold=1.0, min_removed=1, max_removed=9, growth=2.0, increment=1.0, images=0)
    fit(task, pruning, max_epochs=5)
    assert int(task.model.space.allowed["cell"].sum()) == 6
    # nine are removed, then the three others; a weight that kept growing would end above 2
    assert task.regularizers[0].weight == 0.1 / 4  # type: ignore[attr-defined]


def test_the_cost_drives_factors_below_the_threshold(tmp_path: Path) -> None:
    options: dict[str, Any] = {"alpha_optimizer": lambda p: torch.optim.Adam(p, lr=1.0)}
    task = search(tmp_path, regularizers=[ExpectedCost(weight=5.0, mu=1e4)], **options)
    fit(task, GradualPruning(max_removed=100, images=0), max_epochs=8)
    # the most expensive operation goes from every edge, the cheapest from none
    kept = task.model.space.allowed["cell"]
    assert not kept[:, 2].any()
    assert kept[:, 0].all()


@pytest.mark.parametrize(("options", "epochs"), [({"max_epochs": 1}, [0, 0]), ({"max_epochs": 3}, [1, 2])])
def test_a_short_search_is_pruned_as_often_as_a_long_one(
    options: dict[str, int], epochs: list[int], tmp_path: Path
) -> None:
    """Two batches make an epoch, so that half of the search is over within an epoch."""
    task = search(tmp_path)
    weigh(task, "cell", {(0, 0): 0.01, (1, 1): 0.02, (2, 2): 0.03})
    pruning, seen = GradualPruning(at_once=0.0, max_removed=1, growth=2.0, images=0, times=2), []

    class Watch(Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            seen.append(int((~pl_module.model.space.allowed["cell"]).sum()))

    fit(task, pruning, Watch(), **options)
    steps = 2 * options["max_epochs"]
    assert seen == [0] * (steps // 2) + [1] * (steps - steps // 2)
    assert [point["epoch"] for point in pruning.series] == epochs
    assert [point["operations"] for point in pruning.series] == [17, 16]
    assert task.regularizers[0].weight == pytest.approx(0.1 / 4)  # type: ignore[attr-defined]


def test_pruning_a_number_of_times_needs_the_number_of_steps(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="times is 0; it must be at least 1"):
        GradualPruning(times=0)
    task, pruning = search(tmp_path), GradualPruning(images=0, times=3)
    task.trainer = trainer = quiet_trainer(max_epochs=3)
    with pytest.raises(ConfigError, match="times is 3, but GradualPruning does not know the number of steps"):
        pruning.on_train_start(trainer, task)  # which data without a length never tell it


@pytest.mark.parametrize("times", [None, 5])
def test_a_resumed_run_equals_one_without_a_stop(times: int | None, tmp_path: Path) -> None:
    def made(folder: Path) -> tuple[BilevelTask, GradualPruning]:
        options: dict[str, Any] = {"alpha_optimizer": lambda p: torch.optim.Adam(p, lr=1.0)}
        task = search(folder, regularizers=[ExpectedCost(weight=5.0, mu=1e4)], **options)
        return task, GradualPruning(at_once=0.0, max_removed=2, growth=1.5, images=8, times=times)

    whole, pruning = made(tmp_path / "whole")

    def saved() -> ModelCheckpoint:
        return ModelCheckpoint(dirpath=tmp_path / "saved", save_top_k=-1, filename="{epoch}")

    fit(whole, pruning, saved(), max_epochs=6, enable_checkpointing=True)
    assert len(pruning.series) >= 3
    again, resumed = made(tmp_path / "again")
    fit(again, resumed, saved(), max_epochs=6, path=tmp_path / "saved" / "epoch=2.ckpt", enable_checkpointing=True)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert resumed.series == pruning.series
    assert again.regularizers[0].weight == whole.regularizers[0].weight  # type: ignore[attr-defined]
    read = [json.loads((tmp_path / at / "series.json").read_text())["series"] for at in ("whole", "again")]
    assert read[0] == read[1]


def test_what_cannot_be_pruned_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="max_removed is 2; it must be at least min_removed, 3"):
        GradualPruning(min_removed=3, max_removed=2)
    with pytest.raises(ConfigError, match="at_once is 0.1; it must be at most threshold, 0.05"):
        GradualPruning(at_once=0.1)
    with pytest.raises(ConfigError, match="one ExpectedCost among the regularizers"):
        fit(search(tmp_path, regularizers=[]), GradualPruning(images=0))
    for stop_at in (18, 5):
        with pytest.raises(
            ConfigError, match=f"stop_at is {stop_at}, but of the 18 .* 6 cannot be removed. Set it from 6 to 17"
        ):
            fit(search(tmp_path), GradualPruning(stop_at=stop_at, images=0))
    with_none = NASBench201Space(operations=("none", *OPERATIONS), channels=2, cells_per_stage=1)
    with pytest.raises(ConfigError, match="Leave none out"):
        fit(search(tmp_path, with_none), GradualPruning(images=0))
