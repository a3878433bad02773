"""The page of a study, its verdicts and its pictures."""

from lightning_nas.compare import table
from lightning_nas.compare.config import TEST_ACCURACY
from lightning_nas.compare.figures import by_entry, draw_curves, draw_points
from lightning_nas.compare.page import page, verdict
from lightning_nas.compare.results import Result
from tests.compare.test_table import RESULTS, result


def kinds(results: list[Result]) -> list[str]:
    said = [verdict(row, "a", TEST_ACCURACY) for row in table.rows(results, "a")]
    return [f"{each.kind}: {each.text}" for each in said if each is not None]


def results(gains: list[float]) -> list[Result]:
    pairs = [(result("a", seed, 90.0), result("b", seed, 90.0 + gain)) for seed, gain in enumerate(gains)]
    return [each for pair in pairs for each in pair]


def test_a_verdict_says_no_more_than_the_seeds_show() -> None:
    assert kinds(results([1.0, 2.0, 3.0, 1.5, 2.5, 3.5])) == [
        "win: b is 2.25 percentage points better than a (95 % interval of the difference 1.58 to 2.92; won 6, "
        "tied 0 and lost 0 of 6 pairs of seeds; p = 0.031, n = 6)."
    ]
    assert kinds(results([-1.0, -2.0, -3.0, -1.5, -2.5, -3.5]))[0].startswith(
        "lose: b is 2.25 percentage points worse than a"
    )
    (few,) = kinds(results([1.0, 2.0, 3.0]))
    assert few.startswith(": b is 2.00 percentage points better than a")
    assert few.endswith("Fewer than 6 pairs differ: too few for a test.")
    (apart,) = kinds(results([1.0, -2.0, 3.0]))
    assert apart == ": b and a cannot be told apart: won 2, tied 0 and lost 1 of 3 pairs of seeds."
    assert kinds(results([1.0]))[0].startswith(": b and a cannot be told apart")


def test_the_page_holds_everything_and_escapes_names() -> None:
    found = [*RESULTS, result("<b>", 0, 95.0, architecture="|<i>~0|")]
    rows = table.rows(found, "plain")
    notes = table.notes(TEST_ACCURACY, "plain", rows)
    content = {"study": "<s>", "baseline": "plain", "missing": 2, "command": "lightning-nas compare", "notes": notes}
    html = page(content, rows, found, TEST_ACCURACY)
    assert "<b>" not in html.replace("<b>seed</b>", "")
    assert "&lt;s&gt;: 3 entries, 1 to 7 seeds each" in html
    assert "|&lt;i&gt;~0|" in html
    assert "2 of 17 runs are missing" in html
    assert "50%_better has the best mean, 97 %. 50%_better is 4.00 percentage points better than plain" in html
    assert "<li>&lt;b&gt; and plain cannot be told apart: won 1, tied 0 and lost 0 of 1 pairs of seeds.</li>" in html
    assert "<script" not in html
    assert html.count("<svg") == 1


def test_pictures_of_points_and_curves() -> None:
    rows = table.rows(RESULTS, "plain")
    axes = draw_points(rows, TEST_ACCURACY).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["plain", "50%_better"]
    curves = [result("a", 0, 1.0, curve=[0.1, 0.5, 0.9]), result("a", 1, 1.0, curve=[0.2, 0.4]), result("b", 0, 1.0)]
    assert list(by_entry(curves)) == ["a"]
    (line,) = draw_curves(by_entry(curves), "accuracy").axes[0].lines
    assert list(line.get_ydata()) == [0.15000000000000002, 0.45, 0.65]
