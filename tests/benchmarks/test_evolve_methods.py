"""NEvoNAS, pEvoNAS and DC-NAS on supernets, in a tiny setting."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.evolve import arguments_of, made, main, smaller
from benchmarks.evolve_methods import CLUSTERS, COMPARED, METHODS, PUBLISHED, short_steps
from lightning_nas.errors import DataError
from tests.benchmarks.settings import TINY_EVOLUTION

FOUND = {"accuracy", "median_rank", "queries"}


def options_of(images: Path, tables: Path, *more: str) -> list[str]:
    return [f"--data={images}", f"--tables={tables}", *TINY_EVOLUTION, *more]


@pytest.mark.slow
def test_nevonas(images: Path, tables: Path, last: Callable[[], dict[str, Any]]) -> None:
    main(options_of(images, tables, "--method=nevonas", "--generations=2"))
    found = last()
    names = {"NEvoNAS", "novelty alone", "DC-NAS", "random search", "NEvoNAS that trains it"}
    rows = {f"supernet, {name}" for name in names}
    assert set(found) == {"method", "seeds", "feasible", "published", "seconds", *rows}
    assert found["published"] == PUBLISHED
    for row in rows:
        assert set(found[row]) == FOUND
        assert 1 <= found[row]["median_rank"] <= found["feasible"] == 4**6
        assert 1 <= found[row]["queries"] <= 8


@pytest.mark.slow
def test_pevonas(images: Path, tables: Path, last: Callable[[], dict[str, Any]]) -> None:
    main(options_of(images, tables, "--method=pevonas", "--population=5"))
    found = last()
    assert found["steps_a_link"] == 1
    chains = ["4", "3, inherited", "2, inherited", "3, new", "2, new"]
    assert {name for name in found if isinstance(found[name], dict)} == {
        *chains,
        "2, new, space of inherited",
        *(f"unshrunk, in {link}" for link in (4, 3, 2)),
    }
    for name in chains:
        assert set(found[name]) >= {"local_tau", "global_tau", "accuracy", "rank", "queries", "space_mean"}
    assert {f"{name}_{kind}_gain" for name in COMPARED for kind in ("local", "global")} <= set(found)
    # a narrower space has no better best cell
    assert (
        found["4"]["space_best"][0] >= found["3, inherited"]["space_best"][0] >= found["2, inherited"]["space_best"][0]
    )


def test_dcnas(images: Path, tables: Path, last: Callable[[], dict[str, Any]]) -> None:
    given = options_of(images, tables, "--method=dcnas", "--architectures=20", "--resamples=50")
    main(given)
    found = last()
    assert (found["steps"], found["clusters"], found["architectures"]) == (2, CLUSTERS, 20)
    for kind in ("changes", "choices"):
        assert set(found[kind]) == {"all", "within", "gain"}
        assert len(found[kind]["gain"]) == 4
    with pytest.raises(DataError, match="There are 144 training images; 192 are needed"):
        main([*given, "--brief_steps=3"])


def test_the_setting_is_that_of_the_page_of_results(images: Path, tables: Path) -> None:
    options = arguments_of(["--method=pevonas", f"--data={images}", f"--tables={tables}", "--architectures=50"])
    smaller(str(images), tables / "smaller.npz", options.images)
    bench = made(options, tables)
    assert short_steps(bench) == 300  # a tenth of the steps of a supernet
    assert options.brief_steps == 40
    assert {name: len(cells) for name, cells in bench.sets.items()} == {"global": 50, "local": 50}
    assert set(METHODS) == {"nevonas", "pevonas", "dcnas"}
