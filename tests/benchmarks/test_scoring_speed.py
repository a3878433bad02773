"""Scores of several paths at once, in a tiny setting, and the settings of the page of results."""

from collections.abc import Callable
from typing import Any

from benchmarks.scoring_speed import SETTINGS, Scoring, Setting, arguments_of, main


def test_paths_score_the_same_at_once(last: Callable[[], dict[str, Any]]) -> None:
    main(["--paths=2", "--together", "1", "2", "--rounds=1", "--children"])
    found = last()
    assert list(found) == ["setting", "children", "ratios", "milliseconds", "operations", "max_difference"]
    assert (found["setting"], found["children"]) == ("small", True)
    assert list(found["ratios"]) == ["1", "2"]
    assert list(found["milliseconds"]) == list(found["operations"]) == ["one by one", "1", "2"]
    assert found["max_difference"] < 1e-4
    assert found["operations"]["2"] < found["operations"]["one by one"]


def test_settings_are_those_of_the_page_of_results() -> None:
    assert {name: (s.channels, s.cells, s.side, s.images) for name, s in SETTINGS.items()} == {
        "small": (8, 1, 8, 500),
        "medium": (8, 1, 16, 500),
        "large": (16, 5, 32, 256),
    }
    assert arguments_of([]).together == [1, 2, 4, 8, 16]
    scoring = Scoring(Setting(4, 1, 8, 500), 3, "cpu", children=False)
    (images, labels), *others = scoring.held
    assert (images.shape, len(labels), others, len(scoring.paths)) == ((500, 3, 8, 8), 500, [], 3)
    assert scoring.calibration.shape == (256, 3, 8, 8)
