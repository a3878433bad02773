"""The rank-fidelity gate: figures of known rankings, files, thresholds, faults, and a run that goes on."""

import json
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Trainer

from lightning_nas.architecture import Architecture
from lightning_nas.cli.lightning import run
from lightning_nas.data.architectures import ArchitecturesDataModule
from lightning_nas.distill.images import RandomSubset
from lightning_nas.distill.proxy import Proxy
from lightning_nas.errors import (
    ArtifactError,
    CheckpointError,
    ConfigError,
    DataError,
    FidelityError,
    TrainingError,
)
from lightning_nas.evaluation.base import Evaluation, Evaluator
from lightning_nas.files.artifacts import read_json
from lightning_nas.metrics.ranking import bootstrap_interval
from lightning_nas.pipeline.config import merge
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from lightning_nas.tasks.fidelity import FidelityTask
from tests.helpers import started

HERE = "tests.tasks.test_fidelity"
OTHERS = ("schema", "lightning_nas", "results", "failures")
"""Keys of ``fidelity.json`` that ``proxy.json`` doesn't get."""
DIGITS = {"class_path": "lightning_nas.data.images.DigitsDataModule"}


class Known(Evaluator):
    """Objectives that are a function of the architecture.

    Args:
        values: By the number of 3x3 convolutions of a cell.
        objective: Their name.
        fail_at: Call at which the machine fails.
        seed: A seed, which nothing follows.
    """

    def __init__(
        self,
        values: list[float] | None = None,
        objective: str = "accuracy",
        fail_at: int | None = None,
        seed: int | None = None,
    ) -> None:
        self.seed = seed
        self.values = values or [i / 10 for i in range(7)]
        self.objective = objective
        self.fail_at = fail_at
        self.calls = 0

    def evaluate(self, architectures: Sequence[Architecture]) -> list[Evaluation]:
        self.calls += 1
        if self.calls == self.fail_at:
            raise DataError("the disk is gone")  # not of this evaluation alone
        return [Evaluation({self.objective: self.values[a.choices.count(3)]}) for a in architectures]


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_nas.tasks.fidelity.bootstrap_interval", partial(bootstrap_interval, samples=20))


def known(**arguments: Any) -> dict[str, Any]:
    return {"class_path": f"{HERE}.Known", "init_args": arguments}


def fit(*args: str, count: int = 6, data: Any = None, trainer: Any = None, **model: Any) -> Any:
    """``lightning-nas fit`` on cells of NAS-Bench-201; returns the task."""
    space = {"class_path": "lightning_nas.spaces.nasbench201.space.NASBench201Space"}
    architectures = {
        "class_path": "lightning_nas.data.architectures.ArchitecturesDataModule",
        "init_args": {"space": space, "count": count},
    }
    arguments = {"proxy": known(), "reference": known(), "objective": "accuracy", "output_dir": "out", **model}
    quiet = {"accelerator": "cpu", "devices": 1, "enable_progress_bar": False, "enable_model_summary": False}
    keep = {"class_path": "ModelCheckpoint", "init_args": {"dirpath": "kept", "filename": "last"}}
    config = {
        "model": {"class_path": "lightning_nas.tasks.fidelity.FidelityTask", "init_args": arguments},
        "data": merge(architectures, data or {}),
        "trainer": {**quiet, "max_epochs": 1, "log_every_n_steps": 1, "callbacks": [keep], **(trainer or {})},
    }
    Path("run.yaml").write_text(yaml.safe_dump(config))
    return run(["fit", "--config", "run.yaml", "--run_folder.overwrite", "true", *args]).model


def written(folder: str = "out") -> dict[str, Any]:
    return read_json(Path(folder) / "fidelity.json", repair="")


def digits_proxy(folder: str = ".") -> Path:
    images, labels = torch.randn(40, 1, 8, 8), torch.arange(40) % 10
    scheme = started(RandomSubset(4), images, labels)
    return Proxy(scheme, [str(i) for i in range(10)], [0.3], [0.4], {"matcher": "mine"}).save(
        Path(folder) / "proxy.safetensors"
    )


# Architectures as data.


def test_architectures_differ_come_in_one_order_and_more_of_them_begin_alike() -> None:
    data = ArchitecturesDataModule(NASBench201Space(), count=20, seed=3)
    served = list(data.train_dataloader())
    assert (
        served
        == data.architectures
        == list(ArchitecturesDataModule(NASBench201Space(), count=20, seed=3).train_dataloader())
    )
    assert len({NASBench201Space().key(a) for a in served}) == 20
    assert ArchitecturesDataModule(NASBench201Space(), count=30, seed=3).architectures[:20] == served
    assert ArchitecturesDataModule(NASBench201Space(), count=20, seed=4).architectures != served


def test_a_loader_of_architectures_goes_on_where_it_stopped() -> None:
    data = ArchitecturesDataModule(NASBench201Space(), count=5)
    first = data.train_dataloader()
    batches = iter(first)
    next(batches)
    next(batches)
    rest = data.train_dataloader()
    rest.load_state_dict(first.state_dict())
    assert list(rest) == data.architectures[2:]


def test_a_space_that_is_too_small_is_refused() -> None:
    small = NASBench201Space(operations=("none", "nor_conv_3x3"))
    assert len(ArchitecturesDataModule(small, count=64).architectures) == 64
    with pytest.raises(ConfigError, match=r"gave 64 different architectures in 6500 draws, but count is 65"):
        ArchitecturesDataModule(small, count=65).setup("fit")
    with pytest.raises(ConfigError, match="at least 2"):
        ArchitecturesDataModule(small, count=1)


# Figures of known rankings.


def test_equal_rankings_agree_and_are_written() -> None:
    task = fit()
    found = written()
    assert found["kendall_tau"] == pytest.approx(1)
    assert found["interval"] == pytest.approx([1, 1])
    assert found["regret"] == found["regret_points"] == 0
    assert (found["architectures"], found["informative_only"], found["passed"]) == (6, True, None)
    space = NASBench201Space()
    drawn = ArchitecturesDataModule(space, count=6).architectures
    assert [row["architecture"] for row in found["results"]] == [space.text(a) for a in drawn]
    truths = [a.choices.count(3) / 10 for a in drawn]
    assert [(row["proxy"], row["truth"]) for row in found["results"]] == [(t, t) for t in truths]
    assert (found["best_truth"], found["mean_truth"]) == (max(truths), pytest.approx(sum(truths) / 6))
    assert task.outputs == {"fidelity": [Path("out/fidelity.json")]}
    (curves,) = Path("lightning_logs").glob("**/metrics.csv")
    rows = curves.read_text().splitlines()
    assert rows[0].split(",") == ["epoch", "proxy", "regret", "step", "tau", "truth"]
    assert len(rows) == 7


def test_lower_is_better_for_a_loss_alone() -> None:
    rising = [0.1 * i for i in range(7)]
    fit(proxy=known(values=rising, objective="search/loss"), objective="search/loss")
    found = written()
    assert found["kendall_tau"] == pytest.approx(-1)
    truths = [row["truth"] for row in found["results"]]
    assert found["regret"] == pytest.approx(max(truths) - min(truths))
    assert found["regret_points"] == pytest.approx(100 * found["regret"])


def test_scores_without_an_order_have_no_tau_and_reach_no_threshold() -> None:
    with pytest.warns(
        UserWarning,
        match="undefined, because all results of the proxy or all of the reference are equal, the threshold",
    ):
        fit(proxy=known(values=[0.5] * 7), threshold=-1.0)
    found = written()
    assert (found["kendall_tau"], found["interval"], found["passed"]) == (None, [None, None], False)
    truths = [row["truth"] for row in found["results"]]
    assert found["regret"] == pytest.approx(max(truths) - sum(truths) / 6)


def test_the_result_is_put_into_the_proxy_and_all_else_stays() -> None:
    path = digits_proxy()
    before = json.loads(Path("proxy.json").read_text())
    task = fit(write_to=str(path), threshold=0.5)
    after = json.loads(Path("proxy.json").read_text())
    found = written()
    assert after.pop("fidelity") == {k: v for k, v in found.items() if k not in OTHERS}
    assert after == before
    assert found["passed"] is True
    assert Proxy.load(path).info["fidelity"]["kendall_tau"] == found["kendall_tau"]
    assert task.inputs == {"proxy": [path, path.with_suffix(".json")]} == {"proxy": task.outputs["proxy"]}


def test_below_the_threshold_a_warning_says_what_was_measured_and_what_to_do() -> None:
    wrong = known(values=[-i for i in range(7)])
    with pytest.warns(
        UserWarning, match=r"tau over 6 .* -1\.000 \(95 % interval -1\.000 to -1\.000\).* 0\.2\. Distill"
    ):
        fit(proxy=wrong, threshold=0.2)
    assert written()["passed"] is False


def test_a_stop_comes_after_everything_is_written_and_needs_no_second_evaluation() -> None:
    path = digits_proxy()
    wrong = {"proxy": known(values=[-i for i in range(7)]), "threshold": 0.2, "write_to": str(path)}
    with pytest.raises(FidelityError, match="search on real images instead"):
        fit(**wrong, stop=True)
    assert written()["passed"] is False
    assert "fidelity" in Proxy.load(path).info
    Path("out/fidelity.json").unlink()
    wrong["proxy"]["init_args"]["fail_at"] = 1
    with pytest.raises(FidelityError):
        fit("--ckpt_path", "kept/last.ckpt", **wrong, stop=True)
    assert written()["architectures"] == 6


# A control.


@pytest.mark.parametrize(
    ("proxy", "control", "better", "said"),
    [
        (
            [0, 1, 2, 3, 4, 5, 6],
            [6, 5, 4, 3, 2, 1, 0],
            "proxy",
            "1.00 on the proxy and -1.00 on its control .* better.",
        ),
        ([6, 5, 4, 3, 2, 1, 0], [0, 1, 2, 3, 4, 5, 6], "control", "search on the control instead"),
        ([0, 1, 2, 3, 4, 5, 6], [0, 1, 2, 3, 4, 5, 6], "neither", "difference 0.00, 95 % interval 0.00 to 0.00"),
        ([0] * 7, [0, 1, 2, 3, 4, 5, 6], "neither", "undefined on the proxy and 1.00"),
    ],
)
def test_a_control_says_which_of_the_two_ranks_better(
    proxy: list[int], control: list[int], better: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages: list[str] = []
    for name in ("rank_zero_warn", "rank_zero_info"):
        monkeypatch.setattr(f"lightning_nas.tasks.fidelity.{name}", messages.append)
    fit(proxy=known(values=proxy), control=known(values=control))
    found = written()
    assert found["control"]["better"] == better
    assert {row["control"] for row in found["results"]} <= {float(v) for v in control}
    (message,) = messages
    assert re.search(said, message)
    if better != "neither":
        sign = 1 if better == "proxy" else -1
        assert found["control"]["kendall_tau"] == pytest.approx(-sign)
        assert found["control"]["difference"] == pytest.approx(2 * sign)
        assert found["control"]["difference_interval"] == pytest.approx([2 * sign] * 2)


def test_the_difference_to_the_control_is_of_the_same_architectures() -> None:
    """Two rankings that err alike: each tau is uncertain, their difference is not."""
    values = [3, 0, 1, 2, 4, 5, 6]
    with pytest.warns(UserWarning, match="does not show that either ranks better"):
        fit(proxy=known(values=values), control=known(values=[10 * v for v in values]), count=12)
    found = written()
    assert found["control"]["difference_interval"] == [0, 0]
    assert found["interval"] == found["control"]["interval"]
    assert found["interval"][0] < found["interval"][1]


def test_a_checkpoint_without_a_control_is_refused_by_a_run_with_one() -> None:
    task = FidelityTask(Known(), reference=Known(), control=Known())
    with pytest.raises(CheckpointError, match="results of 2 evaluators, this run has 3"):
        task.on_load_checkpoint({"results": [], "failures": [], "evaluators": [{}, {}]})


# Going on.


@pytest.mark.slow
def test_a_run_that_fails_in_the_middle_goes_on_and_ends_as_an_uninterrupted_one() -> None:
    digits_proxy()
    short = {"steps": 2, "batch_size": 16, "channels": 4, "cells": 1}
    distilled = {
        "class_path": "lightning_nas.distill.data_module.DistilledDataModule",
        "init_args": {
            "proxy_path": "proxy.safetensors",
            "held_out": {**DIGITS, "init_args": {"validation_fraction": 0.05}},
        },
    }
    halves = {"class_path": "lightning_nas.data.halves.HalvesDataModule", "init_args": {"data": DIGITS}}
    training = "lightning_nas.evaluation.short_training.ShortTraining"
    model = {
        "proxy": {"class_path": training, "init_args": {"data": distilled, **short}},
        "reference": {"class_path": training, "init_args": {"data": halves, "seed": 1, **short}},
        "objective": "loss",
    }
    fit(**model, count=4)
    whole = written()

    with pytest.MonkeyPatch.context() as patch:
        from lightning_nas.evaluation.short_training import ShortTraining

        evaluate, calls = ShortTraining.evaluate, []

        def failing(self: ShortTraining, architectures: Sequence[Architecture]) -> list[Evaluation]:
            calls.append(1)
            if len(calls) == 6:  # the reference, for the third
                raise DataError("the disk is gone")  # not of this evaluation alone
            return evaluate(self, architectures)

        patch.setattr(ShortTraining, "evaluate", failing)
        with pytest.raises(DataError, match="the disk is gone"):
            fit("--preemption.every_n_batches", "1", **{**model, "output_dir": "second"}, count=4)
        assert not Path("second/fidelity.json").exists()
        fit("--ckpt_path", "kept/last.ckpt", **{**model, "output_dir": "second"}, count=4)
    assert len(calls) == 6 + 4  # only the last two were left
    again = written("second")
    for found in (whole, again):
        for row in (found, *found["results"]):
            assert row.pop("proxy_seconds") > 0
            assert row.pop("truth_seconds") > 0
    assert again == whole
    assert len({row["proxy"] for row in whole["results"]}) == 4


def test_a_checkpoint_of_other_architectures_is_refused() -> None:
    fit()
    with pytest.raises(CheckpointError, match="results of 6 architectures"):
        fit("--ckpt_path", "kept/last.ckpt", data={"init_args": {"seed": 1}})


# Faults.


@pytest.mark.slow
def test_what_cannot_work_is_said_before_anything_is_evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = {"proxy": known(fail_at=1)}
    with pytest.raises(ConfigError, match="stop needs a threshold"):
        FidelityTask(Known(), reference=Known(), stop=True)
    with pytest.raises(ArtifactError, match=r"nowhere\.json does not exist\. Distill first"):
        fit(**broken, write_to="nowhere.safetensors")
    with pytest.raises(ConfigError, match="max_epochs is 2"):
        fit("--trainer.max_epochs", "2", **broken)
    with pytest.raises(ConfigError, match="precision 64-true"):
        fit("--trainer.precision", "64-true", **broken)
    for name, seeds in (("Proxy", (1, 2, 1)), ("Control", (1, 2, 2))):
        proxy, control, reference = (known(seed=seed) for seed in seeds)
        with pytest.raises(ConfigError, match=f"{name} and reference both have the seed"):
            fit(proxy=proxy, control=control, reference=reference)
    balanced = {
        "class_path": "ClassBalancedDataModule",
        "init_args": {"data": DIGITS},
    }
    with pytest.raises(ConfigError, match="it got ClassBalancedDataModule"):
        fit(**broken, data=balanced)
    monkeypatch.setattr(Trainer, "world_size", 2)
    with pytest.raises(ConfigError, match="There are 2 processes"):
        fit(**broken)


class Failing(Known):
    """Fails in three ways at some of its calls."""

    def evaluate(self, architectures: Sequence[Architecture]) -> list[Evaluation]:
        (found,) = super().evaluate(architectures)
        if self.calls == 2:
            raise RuntimeError("out of\nmemory")
        if self.calls == 3:
            return [Evaluation.failed("a worker is lost")]
        return [Evaluation({self.objective: float("nan")}) if self.calls == 5 else found]


FAILING = {"class_path": f"{HERE}.Failing", "init_args": {"values": [0.0] * 7}}


@pytest.mark.parametrize("side", ["proxy", "reference"])
def test_failed_evaluations_are_left_out_with_their_reasons(side: str) -> None:
    with pytest.warns(UserWarning, match=r"3 of 8 evaluations failed .*: The accuracy is nan; a finite"):
        task = fit("--preemption.every_n_batches", "1", count=8, **{side: FAILING})
    found = written()
    assert (found["architectures"], found["failed"], len(found["results"])) == (5, 3, 5)
    assert [each["reason"] for each in found["failures"]] == [
        "RuntimeError: out of memory",
        "a worker is lost",
        "The accuracy is nan; a finite number was expected.",
    ]
    assert {each["evaluator"] for each in found["failures"]} == {f"{side} (Failing)"}
    assert len({each["architecture"] for each in (*found["results"], *found["failures"])}) == 8
    assert task.trainer.global_step == 8
    # a run that goes on knows them
    with pytest.warns(UserWarning, match="3 of 8 evaluations failed"):
        again = fit("--ckpt_path", "kept/last.ckpt", count=8, **{side: FAILING})
    assert again.failures == found["failures"]


def test_a_run_ends_after_too_many_failures() -> None:
    said = r"2 of 3 evaluations failed \(max_failures is 1\)\. The last one was of \|.*\| by the proxy \(Failing\): a w"
    with pytest.raises(TrainingError, match=said):
        fit(proxy=FAILING, max_failures=1)
    with pytest.raises(ConfigError, match="max_failures is -1"):
        FidelityTask(Known(), reference=Known(), max_failures=-1)
    with pytest.raises(TrainingError, match=r"6 of 6 evaluations failed .* is nan; .* There is nothing to rank"):
        fit(reference=known(values=[float("nan")] * 7))


def test_an_objective_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match=r"proxy \(Known\) gives \['accuracy'\], not 'loss'"):
        fit(objective="loss")


def test_one_architecture_is_no_ranking() -> None:
    with pytest.raises(DataError, match="two or more"):
        fit(trainer={"limit_train_batches": 0.2})  # jsonargparse takes 1 for 1.0
