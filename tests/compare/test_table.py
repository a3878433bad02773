"""The table of a study in all its forms."""

import csv
import io
from pathlib import Path

from lightning_nas.compare import table
from lightning_nas.compare.config import TEST_ACCURACY, Metric
from lightning_nas.compare.results import Result
from lightning_nas.compare.runs import Run


def result(entry: str, seed: int, value: float, dataset: str = "", **more: object) -> Result:
    run = Run("study", entry, dataset, seed, {}, Path(), Path(), False)
    return Result(run, value, seconds=float(seed), **more)  # type: ignore[arg-type]


RESULTS = [
    *(result("plain", seed, 90.0 + seed, rank=10 * seed) for seed in range(7)),
    *(result("50%_better", seed, 91.0 + 2 * seed, rank=seed, columns={"macs": 5e6}) for seed in range(7)),
]


def test_figures_of_an_entry() -> None:
    plain, better = table.rows(RESULTS, "plain")
    assert plain.difference is None
    assert (plain.spread.mean, plain.median_rank, plain.seconds, plain.seconds_most) == (93.0, 30.0, 3.0, 6.0)
    assert better.difference is not None
    assert (better.difference.wins, better.difference.mean, better.difference.p) == (7, 4.0, 2 / 2**7)


def test_rows_are_those_of_data_sets() -> None:
    both = [result("a", 0, 1.0, "x"), result("a", 0, 2.0, "y"), result("b", 0, 3.0, "x"), result("b", 0, 5.0, "y")]
    found = table.rows(both, "a")
    assert [(row.dataset, row.entry) for row in found] == [("x", "a"), ("x", "b"), ("y", "a"), ("y", "b")]
    assert [row.difference and row.difference.mean for row in found] == [None, 2.0, None, 3.0]
    assert table.cells(found, Metric("loss"), "a")[0][:4] == ["data", "entry", "seeds", "loss"]


def test_texts_escape_and_leave_out_empty_columns() -> None:
    found = table.rows(RESULTS, "plain")
    lines = table.cells(found, TEST_ACCURACY, "plain")
    assert lines[0] == [
        *("entry", "seeds", "test/accuracy, %", "worst", "median rank", "minus plain, 95 % interval"),
        *("wins/ties/losses", "p (n)", "seconds"),
    ]
    assert lines[2][-2] == "0.016 (n = 7)"
    assert "50\\%\\_better & 7 & 97.00 $\\pm$ 4.32" in table.latex(lines)
    assert table.latex(lines).count("\\\\") == 3
    assert table.markdown(lines).splitlines()[1] == "|" + "---|" * 9
    assert {len(line) for line in table.text(lines).splitlines()} == {len(table.text(lines).splitlines()[0])}
    (*_, last) = csv.DictReader(io.StringIO(table.as_csv([row.flat() for row in found])))
    assert (last["entry"], last["mean"], last["median_rank"], last["macs"]) == ("50%_better", "97.0", "3", "5000000.0")


def test_no_p_value_without_its_n() -> None:
    found = table.rows([each for each in RESULTS if each.run.seed < 3], "plain")
    assert table.cells(found, TEST_ACCURACY, "plain")[2][-2] == "n = 3: too few"
    said = "\n".join(table.notes(TEST_ACCURACY, "plain", found))
    assert "over n pairs" in said
    assert "bootstrap resamples of the seeds" in said
    assert "not corrected for 1 comparisons" in "\n".join(
        table.notes(TEST_ACCURACY, "plain", table.rows(RESULTS, "plain"))
    )


def test_selection_errors_of_all_seeds_are_added_up() -> None:
    def errors(wrong: int, decided: int, count: int, images: int) -> dict[str, int]:
        return {"errors": wrong, "decided": decided, "ties": 0, "count": count, "images": images}

    none = errors(0, 0, 0, 0)
    measured = [{"edges": none, "operations": errors(n, 4, 6, 512 * n)} for n in (1, 2)]
    found = table.rows(
        [
            *(result("a", seed, 90.0, selection=each) for seed, each in enumerate(measured)),
            result("b", 0, 91.0, selection={"edges": none, "operations": errors(0, 0, 6, 2048)}),
            result("c", 0, 92.0),
        ],
        None,
    )
    head, *lines = table.cells(found, TEST_ACCURACY, None)
    assert "E1" not in head  # nothing to decide
    assert [line[head.index("E2")] for line in lines] == [
        *("0.38 [0.14, 0.69], 8 of 12 decided on 1,024", "0 of 6 decided on 2,048", ""),
    ]
    flat = found[0].flat()
    assert (flat["selection_errors_operations_errors"], flat["selection_errors_operations_undecided"]) == (3, 4)
    assert "Wilson" in table.notes(TEST_ACCURACY, None, found)[-1]
    assert not any("Wilson" in each for each in table.notes(TEST_ACCURACY, None, found[2:]))


def test_what_queries_say_is_qualified() -> None:
    known: dict[str, object] = {"rank": 3, "queries": 10}
    found = table.rows(
        [
            *(
                result("same", seed, 90.0, seen_rank=1, found=True, queries_to_best=4, trajectory="a", **known)
                for seed in range(3)
            ),
            result("other", 0, 90.0, seen_rank=2, found=True, queries_to_best=4, trajectory="a", **known),
            result("other", 1, 91.0, seen_rank=5, found=False, queries_to_best=10, trajectory="b", **known),
        ],
        None,
    )
    same, other = found
    assert (same.distinct, same.censored, same.median_seen_rank) == (1, 0, 1)
    assert (other.distinct, other.censored, other.median_seen_rank, other.found) == (2, 1, 3.5, 0.5)
    lines = table.cells(found, TEST_ACCURACY, None)
    columns = {name: [line[i] for line in lines[1:]] for i, name in enumerate(lines[0])}
    assert columns["seeds"] == ["3 (1 distinct)", "2"]
    assert columns["to the best"] == ["4.0", "≥ 7.0"]
    assert columns["rank as seen"] == ["1", "3.5"]
    said = "\n".join(table.notes(TEST_ACCURACY, None, found))
    for word in (
        "≥: runs that did not find it",
        "distinct: number of different",
        "equal ones included",
        "rank as seen",
    ):
        assert word in said
    assert "distinct" not in "\n".join(table.notes(TEST_ACCURACY, None, [other]))
    assert "≥:" not in "\n".join(table.notes(TEST_ACCURACY, None, [same]))
    assert "$\\geq$ 7.0" in table.latex(lines)
    assert (same.flat()["distinct"], other.flat()["censored"]) == (1, 1)
