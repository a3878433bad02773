"""The configuration of a study, and what is refused before the first run."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_nas.compare.config import Metric, datasets, metric, parse, seeds, truth
from lightning_nas.errors import ConfigError, NASError

STUDY: dict[str, Any] = {
    "seeds": 2,
    "arguments": {"table": "nasbench201.npz"},
    "baseline": "random",
    "truth": {
        "table": {"class_path": "NASBench201Table", "init_args": {"path": "${arguments.table}"}},
        "column": "${dataset}_test_200",
    },
    "datasets": {"cifar10": {}, "cifar100": {"budget": {"queries": 7}}},
    "entries": {"random": "random.yaml", "local": {"config": ["local.yaml"], "budget": {"seconds": 5}}},
}


def study(tmp_path: Path, *args: str, **changes: Any) -> dict[str, Any]:
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({**STUDY, **changes}))
    return parse(["--config", str(path), *args]).config


def test_the_command_line_changes_the_file(tmp_path: Path) -> None:
    changes = ["--table", "other.npz", "--seeds", "[3, 5]", "--entries.local", "null", "--baseline=null"]
    found = study(tmp_path, *changes, "--entries.random.trainer.max_epochs", "4")
    assert seeds(found) == [3, 5]
    assert found["entries"] == {"random": {"config": "random.yaml", "trainer": {"max_epochs": 4}}}
    assert found["arguments"] == {"table": "other.npz"}
    assert study(tmp_path, "--entries.new", "other.yaml")["entries"]["new"] == {"config": "other.yaml"}
    assert parse(["--config", "compare/digits"]).name == "digits"


def test_data_sets_change_the_study(tmp_path: Path) -> None:
    found = datasets(study(tmp_path))
    assert list(found) == ["cifar10", "cifar100"]
    settings = [truth(each) for each in found.values()]
    assert [each and each.column for each in settings] == ["cifar10_test_200", "cifar100_test_200"]
    assert [each and each.table["init_args"] for each in settings] == [{"path": "nasbench201.npz"}] * 2
    assert [each.get("budget") for each in found.values()] == [None, {"queries": 7}]
    assert list(datasets(study(tmp_path, datasets=None))) == [""]
    assert list(datasets(study(tmp_path, "--datasets.cifar10", "null"))) == ["cifar100"]


def test_metrics() -> None:
    assert metric({}) == metric({"metric": "test/accuracy"}) == Metric("test/accuracy", 100.0, "%")
    assert metric({"metric": "macs"}) == Metric("macs")
    assert metric({"metric": {"name": "test/loss", "lower": True}}) == Metric("test/loss", lower=True)


WRONG = {
    "unknown key": ({"seed": 1}, "Did you mean seeds"),
    "no entries": ({"entries": None}, "entries is None"),
    "all entries left out": ({"entries": {"random": None}}, "no entries left"),
    "entry of nothing": ({"entries": {"random": {"trainer": {}}}}, "entries.random is"),
    "entry of two kinds": ({"entries": {"random": {"config": "a", "stages": {}}}}, "one of 'config'"),
    "name that is a path": ({"entries": {"random": "a", "a/b": "a"}}, "'a/b' is no name"),
    "data set that is a path": ({"datasets": {"..": {}}}, "'..' is no name"),
    "no data sets left": ({"datasets": {"cifar10": None}}, "At least one must be left"),
    "data set of text": ({"datasets": {"cifar10": "cifar10"}}, "must map the names of data sets"),
    "budget of a chain": ({"entries": {"random": {"stages": {}, "budget": {"steps": 1}}}}, "several stages"),
    "budget of another kind": ({"budget": {"hours": 1}}, "seconds, steps, queries"),
    "budget of none": ({"budget": {"queries": 0}}, "budget.queries"),
    "budget as text": ({"budget": {"seconds": "1 h"}}, "positive integer"),
    "no seeds": ({"seeds": 0}, "seeds is 0"),
    "equal seeds": ({"seeds": [1, 1]}, "seeds is"),
    "seeds as text": ({"seeds": "3"}, "seeds is '3'"),
    "baseline that is no entry": ({"baseline": "randm"}, "Did you mean random"),
    "columns as text": ({"columns": "macs"}, "columns is 'macs'"),
    "metric with another key": ({"metric": {"name": "a", "better": "lower"}}, "metric is"),
    "truth without a column": ({"truth": {"table": {}}}, "truth is"),
    "truth of text": ({"truth": "nasbench201.npz"}, "truth is"),
    "arguments that are a list": ({"arguments": ["a"]}, "arguments is"),
    "interpolation of nothing": ({"truth": {"table": {}, "column": "${argument.x}"}}, "cannot be resolved"),
    "imports of a number": ({"imports": 3}, "imports is 3"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_work_is_refused(name: str, tmp_path: Path) -> None:
    changes, said = WRONG[name]
    with pytest.raises(ConfigError, match=r"[\w{.]") as raised:
        study(tmp_path, **changes)
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--workers", "0"], "workers is 0"),
        (["--workers", "two"], "invalid int value"),
        (["--entries.random.trainer.max_epochs"], "not pairs"),
        (["--sedes", "3"], "Did you mean seeds"),
        (["--seeds", "["], "not a valid YAML value"),
    ],
)
def test_wrong_options_are_refused(args: list[str], said: str, tmp_path: Path) -> None:
    with pytest.raises(NASError) as raised:
        study(tmp_path, *args)
    assert said in str(raised.value)
