"""Limits on cost for a whole study, and what counts as its best architectures."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from lightning_nas.compare.config import TruthSettings, datasets, parse, truth
from lightning_nas.compare.limits import limited
from lightning_nas.compare.main import Study
from lightning_nas.compare.results import Truth
from lightning_nas.errors import ConfigError
from lightning_nas.tables.nasbench201 import NASBench201Table
from lightning_nas.tables.synthetic import write_nasbench201


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("table") / "table.npz"
    write_nasbench201(path)
    return {"class_path": "NASBench201Table", "init_args": {"path": str(path)}}


def config(table: dict[str, Any], **more: Any) -> dict[str, Any]:
    study = {"truth": {"table": table, "column": "cifar10_test_200"}, "entries": {"a": {"config": "a.yaml"}}}
    return {**study, **more}


def test_values_and_quantiles_reach_the_truth_and_every_search(table: dict[str, Any]) -> None:
    values = NASBench201Table(table["init_args"]["path"]).column("cifar10_params")
    shared = {"model": {"init_args": {"evaluator": {"init_args": {"cost_columns": ["cifar10_val_200"]}}, "budget": 3}}}
    found = limited(config(table, shared=shared), ["cifar10_params=q0.25", "cifar10_val_200=1e3"])
    bounds = {"cifar10_params": float(np.quantile(values, 0.25)), "cifar10_val_200": 1000.0}
    settings = truth(found)
    assert settings is not None
    assert settings.constraints == bounds
    arguments = found["shared"]["model"]["init_args"]
    assert (arguments["constraints"], arguments["budget"]) == (bounds, 3)
    assert arguments["evaluator"]["init_args"]["cost_columns"] == ["cifar10_val_200", "cifar10_params"]


def test_every_data_set_gets_the_limits_beside_its_own(table: dict[str, Any]) -> None:
    sets = {"x": {}, "y": {"truth": {"constraints": {"cifar10_val_200": 5.0}}}, "z": None}
    found = limited(config(table, datasets=sets), ["cifar10_params=7"])
    settings = {name: truth(each) for name, each in datasets(found).items()}
    assert {name: each and dict(each.constraints) for name, each in settings.items()} == {
        "x": {"cifar10_params": 7.0},
        "y": {"cifar10_val_200": 5.0, "cifar10_params": 7.0},
    }
    assert limited(config(table), []) == config(table)


def own(bound: float) -> dict[str, Any]:
    return {"constraints": {"cifar10_params": bound}}


def test_the_lowest_of_several_limits_on_a_column_counts(table: dict[str, Any]) -> None:
    sets = {
        "weaker": {"truth": own(1e9), "shared": {"model": {"init_args": own(1e9)}}},
        "stronger": {"truth": own(5.0), "shared": {"model": {"init_args": own(5.0)}}},
        "search": {"shared": {"model": {"init_args": own(6.0)}}},
    }
    bound = float(np.quantile(NASBench201Table(table["init_args"]["path"]).column("cifar10_params"), 0.25))
    for limits in (["cifar10_params=q0.25"], ["cifar10_params=q0.25", "cifar10_params=1e8"]):
        found = datasets(limited(config(table, datasets=sets), limits))
        judged = {name: dict(each["truth"]["constraints"]) for name, each in found.items()}
        assert judged == {name: each["shared"]["model"]["init_args"]["constraints"] for name, each in found.items()}
        kept = {"weaker": bound, "stronger": 5.0, "search": 6.0}
        assert judged == {name: {"cifar10_params": each} for name, each in kept.items()}


def study(table: dict[str, Any], folder: Path, entry: dict[str, Any]) -> Study:
    entries = {"same": {"config": "evolve/random_search"}, "other": entry}
    shared = {"model": {"init_args": {"evaluator": {"init_args": {"table": table}}, "final_evaluator": None}}}
    content = {**config(table, shared=shared), "entries": entries, "seeds": 1}
    (folder / "study.yaml").write_text(yaml.safe_dump(content))
    args = ["--config", str(folder / "study.yaml"), "--output_dir", str(folder / "out")]
    return Study.open(parse([*args, "--limit", "cifar10_params=q0.25", "--limit", "cifar10_params=50000"]))


def test_entries_may_have_stronger_constraints(table: dict[str, Any], tmp_path: Path) -> None:
    own = {"config": "evolve/random_search", "model": {"init_args": {"constraints": {"cifar10_params": 10.0}}}}
    runs = study(table, tmp_path, own).runs
    kept = {run.entry: run.pipeline().stages[0].config["model"]["init_args"]["constraints"] for run in runs}
    assert kept["other"] == {"cifar10_params": 10.0}
    assert 10 < kept["same"]["cifar10_params"] <= 50000


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (
            {"config": "evolve/random_search", "model": {"init_args": {"constraints": {"cifar10_params": 1e9}}}},
            r"other, seed 0 has cifar10_params: 1000000000\.0",
        ),
        (
            {"stages": {"search": {"config": "evolve/random_search"}}},
            "other, seed 0 has no constraint on cifar10_params",
        ),
        (
            {
                "stages": {
                    "first": {"config": "evolve/random_search", "model": {"init_args": own(1.0)}},
                    "last": {"config": "evolve/random_search", "model": {"init_args": own(1e9)}},
                }
            },
            r"other, seed 0 has cifar10_params: 1000000000\.0",
        ),
    ],
)
def test_searches_that_would_not_keep_a_limit_are_refused(
    table: dict[str, Any], tmp_path: Path, entry: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ConfigError, match=rf"--limit asks for cifar10_params .* {reason}.*--entries\.other null"):
        study(table, tmp_path, entry)


@pytest.mark.parametrize("limit", ["cifar10_params", "=3", "a=q0", "a=q1.5", "a=-1", "a=many", "a=inf", "a=q"])
def test_wrong_limits_are_refused(table: dict[str, Any], limit: str) -> None:
    with pytest.raises(ConfigError, match=r"--limit is .* NAME=VALUE .*q0\.5"):
        limited(config(table), [limit])


def test_numbers_that_yaml_reads_as_text_are_numbers(table: dict[str, Any]) -> None:
    found = truth({"truth": {"table": table, "column": "cifar10_test_200", "constraints": {"cifar10_params": "1e6"}}})
    assert found is not None
    assert found.constraints == {"cifar10_params": 1e6}


@pytest.mark.parametrize("bound", ["q0.5", "${arguments.bound}", -1.0, None, True])
def test_constraints_of_a_study_are_numbers(table: dict[str, Any], bound: Any) -> None:
    constraints = {"constraints": {"cifar10_params": bound}}
    with pytest.raises(ConfigError, match=r"truth\.constraints is .* --limit cifar10_params=q0\.5"):
        truth({"truth": {"table": table, "column": "cifar10_test_200", **constraints}})
    with pytest.raises(ConfigError, match=r"shared\.model\.init_args\.constraints is .* --limit cifar10_params=q0\.5"):
        limited(config(table, shared={"model": {"init_args": constraints}}), ["cifar10_params=7"])


def test_limits_need_a_truth_with_their_column(table: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="--limit a=1 needs a study with a truth"):
        limited({"entries": {}}, ["a=1"])
    with pytest.raises(ConfigError, match="no column 'weight'"):
        limited(config(table), ["weight=q0.5"])


def test_all_architectures_that_are_equally_good_count_as_best(tmp_path: Path) -> None:
    write_nasbench201(tmp_path / "table.npz")
    with np.load(tmp_path / "table.npz") as file:
        arrays = dict(file)
    seen = arrays["cifar10_val_200"].mean(axis=1)
    seen = np.minimum(seen, np.sort(seen)[-5])
    np.savez(tmp_path / "table.npz", **{**arrays, "cifar10_val_200": seen})
    source = {"class_path": "NASBench201Table", "init_args": {"path": str(tmp_path / "table.npz")}}
    found = Truth(TruthSettings(source, "cifar10_test_200", "cifar10_val_200", {}))
    ties = np.flatnonzero(seen == seen.max()).tolist()
    assert len(ties) == 5
    assert found.optima == set(ties)
    assert {found.seen_rank(row) for row in ties} == {1}
    assert found.seen_rank(int(seen.argmin())) == 1 + int((seen > seen.min()).sum())
    assert Truth(TruthSettings(source, "cifar10_test_200", None, {})).optima == frozenset()
