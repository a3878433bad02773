"""The lists of components name every public class of every family, with its arguments."""

import inspect

import pytest

from lightning_nas.__main__ import main
from lightning_nas.cli.components import FAMILIES, arguments
from lightning_nas.data import DigitsDataModule
from lightning_nas.strategies import RandomSearch, RegularizedEvolution


def listed(args: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    main(["components", *args])
    return capsys.readouterr().out


def test_every_public_component_is_listed_with_its_first_line(capsys: pytest.CaptureFixture[str]) -> None:
    lines = listed([], capsys).splitlines()
    found = {line.split()[0]: line.split(maxsplit=1)[1] for line in lines if line.startswith("  ")}
    for package in FAMILIES:
        assert any(line.startswith(f"{package.__name__.rpartition('.')[2]}: ") for line in lines)
        for kind in (getattr(package, name) for name in package.__all__):
            if inspect.isclass(kind) and not inspect.isabstract(kind):
                assert found[kind.__name__].endswith("."), kind
    assert "Discretizer" not in found


def test_a_family_is_listed_with_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    lines = listed(["strategies"], capsys).splitlines()
    place = next(i for i, line in enumerate(lines) if line.startswith("  RegularizedEvolution  "))
    assert lines[place + 1].split() == ["population_size=50,", "tournament_size=10"]
    assert max(len(line) for line in lines if line.startswith("    ")) <= 118


def test_a_base_class_is_listed_with_what_derives_from_it(capsys: pytest.CaptureFixture[str]) -> None:
    output = listed(["Strategy"], capsys)
    assert output.startswith("Strategy: ")
    assert "  RandomSearch  " in output
    assert "QueryHistory" not in output


def test_a_class_is_described_with_types(capsys: pytest.CaptureFixture[str]) -> None:
    output = listed(["RegularizedEvolution"], capsys)
    assert "--population_size" in output
    assert "type: int" in output


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("strategy", "'strategy' is neither a family nor a class. Did you mean Strategy"),
        ("strategi", "Did you mean strategies"),
        ("DARTSpace", "Did you mean DARTSSpace"),
        ("RunConfig", "RunConfig cannot be made by a configuration: "),
    ],
)
def test_what_there_is_not_is_refused(name: str, said: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["components", name])
    assert said in str(ended.value)


def test_arguments_include_those_that_are_passed_on() -> None:
    assert arguments(RegularizedEvolution) == {"population_size": "50", "tournament_size": "10"}
    assert arguments(RandomSearch) == {}
    assert {"batch_size", "validation_fraction"} <= arguments(DigitsDataModule).keys()
