"""The report of a made-up run folder as a page."""

import json
import math
import re
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot
import pytest
import torch

from lightning_nas.errors import ArchitectureError, ArtifactError
from lightning_nas.files.artifacts import write_json, write_tensors
from lightning_nas.report.front import Front
from lightning_nas.report.page import write_report
from tests.report.pages import EARLIER_ERRORS, EVIL, FIDELITY, SUMMARY, Page, log, small, whole, with_results
from tests.report.test_front import POINTS, results


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report of a run folder with everything."""
    return write_report(with_results(whole(tmp_path_factory.mktemp("run")))).read_text()


def written(folder: Path) -> Page:
    """What a browser sees of a folder's report."""
    return Page(write_report(folder).read_text())


def test_whole_report(report: str) -> None:
    page = Page(report)
    for words in (
        "98.89% test accuracy in 1 min 31 s",
        "Better than the standard network, but cannot be told apart from the best of 3 random networks on these test",
        "alone is right on 12 test images, the other one on 1, and 347 are ties. The found network is better "
        "(p = 0.003, exact McNemar's test).",
        "Proxy uncertain The proxy may rank architectures no better than chance: tau 0.46 (95% interval 0.12 to 0.70), "
        "and its first choice of 3 costs 1.23 points of accuracy.",
        f"ResNet of equal parameters was left out. It would be {EVIL}.",
        f"{EVIL} , taken for b (97%)",
        "Accuracy by class, the lowest first; dots on an axis from 0% to 100%",
        f"class recognized 95% interval test images {EVIL} 66.7% 3",
        "Searched on 100 distilled images instead of 1,437",
        "The found network is 1.89 percentage points better than the mean of 3 random ones.",
        "0 of 3 random networks have a higher test accuracy.",
        "183,402",
        "9.21 M",
        "1,003",
        "60.5",
        "E1, edges nothing decided 0 of 0 decided 1 (1 tie) up to 64",
        "E2, operations 50.0% 9% to 91% 1 of 2 decided 1 up to 1,024",
        "with 95% confidence",
        "operation from 0 normal 1 skip_connect sep_conv_3x3 0.0123 ± 0.0034 differs",
        "operation from c k-1 normal 1 skip_connect sep_conv_3x3 undecided",
        "inputs normal 1 c k-2 , 0 c k-2 , c k-1 0.0000 ± 0.0000 tie",
        "E1 is the share of nodes with more than two inputs",
        "Values that are not finite and were left out: 1.",
        "seed 7",
        "two cores",
        "812 MB",
        "sep_conv_3x3', 0), ('sep_conv_3x3', 1)",
    ):
        assert words in page.text, words
    assert page.text.count(EVIL) >= 5
    assert "The run folder has no" not in page.text
    # two costs, a ranking, two cells, the losses of all networks, two cell types of alphas, five panels of curves
    assert sum(tag == "svg" for tag, _ in page.tags) == 13
    assert sum(tag == "img" for tag, _ in page.tags) == 4  # two mistakes among them
    anchors = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    identities = [f"#{attributes['id']}" for _, attributes in page.tags if "id" in attributes]
    assert set(anchors) <= set(identities)
    assert all("scope" in attributes for tag, attributes in page.tags if tag == "th")
    tables = sum(tag == "table" for tag, _ in page.tags)
    assert tables == sum(tag == "caption" for tag, _ in page.tags) > 5


def test_report_is_self_contained(report: str) -> None:
    page = Page(report)
    assert not [tag for tag, _ in page.tags if tag in ("script", "link", "iframe", "object", "base")]
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href", "xlink:href", "action"):
                assert (value or "").startswith(("data:image/png;base64,", "#"))
        if tag == "img":
            assert attributes["alt"]
        if tag == "svg":
            assert attributes["role"] == "img"
            assert attributes["aria-label"]
    assert "http" not in report.replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert "@import" not in report
    assert re.findall(r"url\((?!#)", report) == []
    identities = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(identities) == len(set(identities))


@pytest.mark.slow
def test_the_same_folder_makes_the_same_report(tmp_path: Path, report: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = dict(matplotlib.rcParams)
    monkeypatch.setattr(matplotlib.pyplot, "figure", pytest.fail)
    path = write_report(with_results(whole(tmp_path)))
    assert path == tmp_path / "report.html"
    assert path.read_text().partition("</title>")[2] == report.partition("</title>")[2]
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize(
    ("random", "accuracies", "spread", "words", "kind"),
    [
        (0.99, [0.99, 0.99], 0.0, "The found network is 0.11 percentage points worse", "lose"),
        (0.99, [0.98, 1.0], 0.01, "within one standard deviation of the random networks (1.00 points)", "lose"),
        (0.98, [0.9700, 0.99], 0.005, "1 of 2 random networks has a higher test accuracy.", ""),
        (0.98, [0.98], None, "One random network is too few to tell this from chance.", ""),
        (0.9889, [], None, "The found network is exactly as good as the mean of random ones.", ""),
        (0.5, [0.5, 0.5], 0.0, "48.89 percentage points better", "win"),
        (None, [], None, "No random architectures were trained", None),
    ],
)
def test_comparison_is_plain_whoever_wins(
    tmp_path: Path, random: float | None, accuracies: list[float], spread: float | None, words: str, kind: str | None
) -> None:
    page = written(
        small(
            tmp_path,
            random_test_accuracy=random,
            random_test_accuracies=accuracies,
            random_test_accuracy_std=spread,
        )
    )
    assert words in page.text
    verdicts = [a["class"] for _, a in page.tags if (a.get("class") or "").startswith("verdict")]
    assert [verdict.split()[1:] for verdict in verdicts if verdict] == ([] if kind is None else [kind.split()])


@pytest.mark.parametrize(
    ("founds", "randoms", "words", "kind"),
    [
        (
            [0.97, 0.98],
            [[0.90, 0.91], [0.92, 0.93], [0.91, 0.92]],
            "standard error of the difference over seeds is 0.58",
            ["win"],
        ),
        ([0.90, 0.98], [[0.90, 0.91], [0.92, 0.99], [0.91, 0.92]], ", so that it may be chance", []),
    ],
)
def test_several_seeds_say_whether_it_is_chance(
    tmp_path: Path, founds: list[float], randoms: list[list[float]], words: str, kind: list[str]
) -> None:
    means = [sum(each) / 2 for each in randoms]
    page = written(
        small(
            tmp_path,
            test_accuracy=sum(founds) / 2,
            test_accuracies=founds,
            random_test_accuracy=sum(means) / 3,
            random_test_accuracies=means,
            random_test_accuracies_by_seed=randoms,
            random_parameters=[],
        )
    )
    assert words in page.text
    verdicts = [a["class"] for _, a in page.tags if (a.get("class") or "").startswith("verdict")]
    assert verdicts[0].split()[1:] == kind


RESULTS = [{"proxy": 1.0 + i, "truth": 0.75 - 0.05 * i} for i in range(3)]


@pytest.mark.parametrize(
    ("changes", "words", "kind"),
    [
        ({}, "Kendall's tau is 0.46 (95% interval 0.12 to 0.70) between the ranking of 3 random", ""),
        ({}, "1.23 percentage points less accurate than the best of them (75.00%); their mean accuracy is 70.00%.", ""),
        ({}, "The threshold of 0.2 is reached. With so few architectures, this is informative only", ""),
        ({"threshold": 0.5}, "The threshold of 0.5 is not reached.", " lose"),
        ({"kendall_tau": None, "interval": [None, None]}, "Kendall's tau is undefined between the ranking", " lose"),
        ({"kendall_tau": -0.1, "threshold": None}, "Kendall's tau is -0.10", " lose"),
        ({"informative_only": False}, "Kendall's tau is 0.46", " win"),
    ],
)
def test_how_far_the_proxy_can_be_trusted(tmp_path: Path, changes: dict[str, Any], words: str, kind: str) -> None:
    small(tmp_path, random_test_accuracy=None, fidelity={**FIDELITY, **changes})
    write_json(tmp_path / "fidelity.json", {"results": RESULTS})
    text = write_report(tmp_path).read_text()
    assert words in Page(text).text
    assert f'class="verdict{kind}"' in text
    assert text.count("Reference accuracy over loss on the proxy") == 1


def test_a_check_of_the_proxy_is_shown_as_far_as_its_files_are_there(tmp_path: Path) -> None:
    assert "Can the proxy be trusted?" not in written(small(tmp_path)).text
    small(tmp_path, fidelity=FIDELITY)
    for content in (None, {"results": [{"proxy": "a"}]}, {"results": [{"proxy": math.nan, "truth": 1}]}):
        if content is not None:
            write_json(tmp_path / "fidelity.json", content)
        page = written(tmp_path)
        assert "The run folder has no usable fidelity.json" in page.text
        assert "tau 0.46 3 architectures, informative only" in page.text


def test_optional_parts_may_be_missing(tmp_path: Path) -> None:
    needed = ["seed", "stages", "parameters", "macs", "test_accuracy", "random_test_accuracy"]
    small(tmp_path)
    write_json(tmp_path / "summary.json", {key: SUMMARY[key] for key in needed})
    page = written(tmp_path)
    for words in (
        "The run folder has no alphas.safetensors.",
        "The run folder has no pictures.safetensors.",
        "The run folder has no metrics.csv of any stage.",
        "Selection errors were not measured in this run.",
        "summary.json does not contain: date, hardware, versions, run folder, command.",
        "Images searched on all",
        "~0|+|",
    ):
        assert words in page.text, words


def test_selection_errors_of_an_earlier_version_are_shown_as_they_were(tmp_path: Path) -> None:
    page = Page(write_report(small(tmp_path, selection_errors=EARLIER_ERRORS)).read_text())
    for words in ("E1, edges nothing to decide 0 of 0", "E2, operations 50.0% 1 of 2", "of an earlier version"):
        assert words in page.text, words
    for words in ("undecided", "up to", "lead"):
        assert words not in page.text, words


def test_broken_optional_parts_are_named(tmp_path: Path) -> None:
    small(tmp_path)
    (tmp_path / "alphas.safetensors").write_bytes(b"broken")
    write_tensors(tmp_path / "pictures.safetensors", {"proxy": torch.rand(2, 3, 1, 8, 8), "real": torch.rand(8, 8)})
    log(tmp_path / "other", 0, "epoch,step,temperature\n0,1,3\n")
    page = written(tmp_path)
    for words in (
        "alphas.safetensors is not a complete safetensors file.",
        "pictures.safetensors contains tensors that are empty or do not have 5 dimensions.",
        "This stage logged neither a loss nor an accuracy.",
    ):
        assert words in page.text, words


def test_alphas_are_those_of_the_search_whatever_its_stage_is_called(tmp_path: Path) -> None:
    (small(tmp_path) / "first").mkdir()
    write_tensors(tmp_path / "first" / "alphas.safetensors", {"cell": torch.rand(2, 6, 5)})
    page = write_report(tmp_path).read_text()
    assert 'aria-label="cell: weights of the operations over 2 epochs' in page
    (tmp_path / "first" / "alphas.safetensors").write_bytes(b"broken")
    assert "alphas.safetensors is not a complete safetensors file." in written(tmp_path).text


def test_latencies_are_drawn_where_they_were_measured(tmp_path: Path) -> None:
    assert "Test accuracy over milliseconds" not in write_report(small(tmp_path / "plain")).read_text()
    latencies = {"latency_ms": 0.42, "random_latencies_ms": [0.5, 1.25, 0.75]}
    page = write_report(small(tmp_path / "timed", **latencies)).read_text()
    assert "Test accuracy over milliseconds per image, as measured. found network: 98.89% at 0.42;" in page
    assert "random 1: 97.00% at 1.25" in page
    assert page.count("Test accuracy over") == 3


def test_random_stages_are_folded(tmp_path: Path) -> None:
    for stage in ("random_0", "train"):
        log(small(tmp_path) / stage, 0, "epoch,step,train/loss\n0,3,2\n1,7,1.5\n")
    text = write_report(tmp_path).read_text()
    assert (
        text.index("<h3>train</h3>")
        < text.index("Random architectures and standard networks</summary>")
        < text.index("<h3>random_0</h3>")
    )


def test_the_health_of_a_search_is_shown_where_it_was_watched(tmp_path: Path) -> None:
    rows = "".join(f"{i},{i + 1},2.0,{value}\n" for i, value in enumerate((0.125, 0.5, 0.25)))
    log(small(tmp_path) / "search", 0, f"epoch,step,train/loss,health/skip_normal\n{rows}")
    text = write_report(tmp_path).read_text()
    health = text[text.index("<h2>Health of the search</h2>") : text.index("<h2>How to reproduce")]
    assert health.count("<figure>") == 1
    assert "train/loss" not in health
    numbers = "".join(f'<td class="number">{value}</td>' for value in (0.125, 0.25, 0.5))
    assert f"<td>skip_normal</td>{numbers}" in health
    assert "Health" not in written(small(tmp_path / "other")).text


def test_missing_required_files(tmp_path: Path) -> None:
    run = small(tmp_path, macs="many")
    with pytest.raises(ArtifactError, match="'macs' is 'many'"):
        write_report(run)
    small(run)
    (run / "summary.json").rename(run / "kept.json")
    with pytest.raises(ArtifactError, match=r"summary\.json does not exist"):
        write_report(run)
    (run / "kept.json").rename(run / "summary.json")
    content = json.loads((run / "architecture.json").read_text())
    write_json(run / "architecture.json", {**content, "choices": [9] * 6})
    with pytest.raises(ArchitectureError, match=r"architecture\.json"):
        write_report(run)
    (run / "architecture.json").unlink()
    with pytest.raises(ArtifactError, match=r"architecture\.json does not exist"):
        write_report(run)
    assert not (run / "report.html").exists()


def searched(folder: Path, rows: list[tuple[float, ...]]) -> Front:
    """What a search leaves."""
    found = results("accuracy", rows, ("parameters",))
    front = Front(found, "accuracy", ["parameters"])
    best = found[front.chosen]
    told = {"objective": "accuracy", "objectives": dict(best[1].objectives), "queries": len(found)}
    best[0].save(folder / "architecture.json", **told)
    write_json(folder / "history.json", {**told, "strategy": "NSGA2 & <b>"})
    write_json(folder / "front.json", front.to_dict())
    return front


def test_the_report_of_a_search_has_its_front(tmp_path: Path) -> None:
    front = searched(tmp_path, POINTS)
    (tmp_path / "metrics.csv").write_text("step,epoch,best/accuracy,diversity\n0,0,0.8,0.7\n1,0,0.9,0.5\n")
    page = write_report(tmp_path).read_text()
    assert "Best accuracy 0.9 after 5 queries" in page
    assert "NSGA2 &amp; &lt;b&gt;" in page
    assert "Of 5 evaluated architectures, 3 are on the\nPareto front" in page
    places = [page.index(f"<td>{row['architecture']}</td>") for row in front.rows()]
    assert places == sorted(places)
    assert 'aria-label="accuracy over parameters of all evaluated architectures, with their front"' in page
    assert 'aria-label="diversity of the stage search by step: diversity ends at 0.5"' in page
    (tmp_path / "front.json").unlink()
    content = json.loads((tmp_path / "history.json").read_text())
    failed = {"query": 3, "architecture": "|<b>~0|", "reason": "nan"}
    write_json(tmp_path / "history.json", {**content, "queries": 6, "failures": [failed]})
    page = write_report(tmp_path).read_text()
    assert "Pareto" not in page
    assert "Best accuracy 0.9 after 6 queries, 1 of which failed" in page


def test_a_long_front_is_cut_and_a_broken_file_is_named(tmp_path: Path) -> None:
    searched(tmp_path, [(i / 100, float(i)) for i in range(53)])
    page = write_report(tmp_path).read_text()
    assert "3 more are in front.json." in page
    assert page.count("|</td>") == 50
    (tmp_path / "front.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"front\.json"):
        write_report(tmp_path)
    (tmp_path / "front.json").unlink()
    content = json.loads((tmp_path / "history.json").read_text())
    write_json(tmp_path / "history.json", {**content, "objectives": {}})
    with pytest.raises(ArtifactError, match=r"history\.json is not what a search writes"):
        write_report(tmp_path)
