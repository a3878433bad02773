"""The report of a made-up run folder, and its pictures."""

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_nas.errors import ArchitectureError, ArtifactError
from lightning_nas.files.artifacts import write_json, write_tensors
from lightning_nas.report import sections
from lightning_nas.report.curves import panel, read_curves
from lightning_nas.report.draw import draw_alphas, draw_cell, draw_curves, draw_images, png_data_uri, svg
from lightning_nas.report.layout import layers, place
from lightning_nas.report.page import write_report
from lightning_nas.report.run import read_run
from lightning_nas.spaces.base import Graph
from lightning_nas.spaces.darts.space import DARTSSpace
from tests.genotypes import DARTS_V2

EVIL = '<script>alert("1")</script>'
SUMMARY: dict[str, Any] = {
    "run_dir": "runs/first",
    "date": "2026-11-22T16:20:03+00:00",
    "command": f"lightning-nas pipeline --name {EVIL}",
    "hardware": "two cores",
    "versions": {"torch": "2.6.0", EVIL: "1"},
    "seed": 7,
    "stages": [{"name": "search", "seconds": 60.5}, {"name": "train", "seconds": 30.25}],
    "seconds_total": 90.75,
    "proxy_images": 100,
    "source_images": 1437,
    "parameters": 183402,
    "macs": 9213440,
    "test_accuracy": 0.9889,
    "random_test_accuracy": 0.97,
    "random_test_accuracy_std": 0.01,
    "random_test_accuracies": [0.96, 0.97, 0.98],
    "random_parameters": [1001, 1002, 1003],
    "genotype": DARTS_V2 + EVIL,
    "selection_errors": {
        "edges": {"rate": None, "errors": 0, "count": 0},
        "operations": {"rate": 0.5, "errors": 1, "count": 2},
        "details": [
            {"kind": "operations", "cell": "normal", "node": 1, "edge": 4, "chosen": ["skip_connect"],
             "reference": ["sep_conv_3x3"], "wrong": True},
            {"kind": "edges", "cell": "normal", "node": 1, "edge": None, "chosen": ["0", "2"],
             "reference": ["0", "2"], "wrong": False},
            {"cell": EVIL, "node": EVIL, "chosen": [EVIL], "reference": [3], "wrong": False},
        ],
    },
    "export_difference": 0.0,
    "peak_memory_mb": 812.4,
}  # fmt: skip
ESSENTIAL = [
    "seed",
    "stages",
    "proxy_images",
    "source_images",
    "parameters",
    "macs",
    "test_accuracy",
    "random_test_accuracy",
]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report of a run folder with everything."""
    return write_report(fill(tmp_path_factory.mktemp("run"))).read_text()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with everything."""
    return fill(tmp_path)


def fill(tmp_path: Path) -> Path:
    write_json(tmp_path / "summary.json", SUMMARY)
    DARTSSpace.parse(DARTS_V2).save(tmp_path / "architecture.json")
    write_json(tmp_path / "proxy.json", {"class_names": [EVIL, "b"]})
    history = torch.linspace(0, 1, 3 * 14 * 8).view(3, 14, 8)
    write_tensors(tmp_path / "alphas.safetensors", {"normal": history, "reduce": history.flip(1)})
    images = torch.linspace(0, 1, 2 * 3 * 64).view(2, 3, 1, 8, 8)
    write_tensors(tmp_path / "pictures.safetensors", {"proxy": images, "real": images[:, :2]})
    log(tmp_path / "search", 0, "epoch,step,search/loss,train/accuracy,train/loss\n0,3,2.3,0.1,2.2\n1,7,2.1,0.3,2.0\n")
    log(tmp_path / "train", 0, "epoch,step,train/loss\n0,3,inf\n1,7,1.5\n")
    log(tmp_path / "train", 1, "epoch,step,test/accuracy,test/loss\n0,0,0.9889,0.03\n")
    return tmp_path


def log(stage: Path, version: int, text: str) -> None:
    folder = stage / f"version_{version}"
    folder.mkdir(parents=True)
    (folder / "metrics.csv").write_text(text)


class Page(HTMLParser):
    """Checks that every element is closed, and collects what a browser would act on."""

    VOID = ("meta", "img", "br", "path", "use", "rect")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)


def test_whole_report(report: str) -> None:
    page = Page(report)
    for words in (
        "98.89 % test accuracy in 1 min 31 s",
        "Searched on 100 distilled images instead of 1,437",
        "The found network is 1.89 points better than the mean of 3 random ones.",
        "0 of 3 random networks have a higher test accuracy.",
        "183,402",
        "9.21 M",
        "1,003",
        "60.5",
        "nothing to decide",
        "1 of 2",
        "operation from 0 normal 1 skip_connect sep_conv_3x3 differs",
        "inputs normal 1 c k-2 , 0 c k-2 , 0 agrees",
        "E1 is the share of nodes with more than two inputs",
        "1 values were not finite",
        "seed 7",
        "two cores",
        "812 MB",
        "sep_conv_3x3', 0), ('sep_conv_3x3', 1)",
    ):
        assert words in page.text, words
    assert page.text.count(EVIL) >= 5
    assert "The run folder has no" not in page.text
    # two cells, two cell types of alphas, three panels of curves
    assert sum(tag == "svg" for tag, _ in page.tags) == 7
    assert sum(tag == "img" for tag, _ in page.tags) == 2


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


def test_the_same_folder_makes_the_same_report(run: Path, report: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib
    import matplotlib.pyplot

    before = dict(matplotlib.rcParams)
    monkeypatch.setattr(matplotlib.pyplot, "figure", pytest.fail)
    path = write_report(run)
    assert path == run / "report.html"
    assert path.read_text().partition("</title>")[2] == report.partition("</title>")[2]
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize(
    ("random", "accuracies", "spread", "words", "kind"),
    [
        (0.99, [0.99, 0.99], 0.0, "The random networks win: the found network is 0.11 points worse", "lose"),
        (0.99, [0.98, 1.0], 0.01, "within the random networks' own standard deviation (1.00 points)", "lose"),
        (0.98, [0.9700, 0.99], 0.005, "1 of 2 random networks has a higher test accuracy.", ""),
        (0.98, [0.98], None, "One random network is too few to tell this from chance.", ""),
        (0.9889, [], None, "The found network is exactly as good as the mean of random ones.", ""),
        (0.5, [0.5, 0.5], 0.0, "48.89 points better", "win"),
        (None, [], None, "No random architectures were trained", None),
    ],
)
def test_comparison_is_plain_whoever_wins(
    run: Path, random: float | None, accuracies: list[float], spread: float | None, words: str, kind: str | None
) -> None:
    content = {
        **SUMMARY,
        "random_test_accuracy": random,
        "random_test_accuracies": accuracies,
        "random_test_accuracy_std": spread,
    }
    write_json(run / "summary.json", content)
    text = sections.comparison(read_run(run))
    assert words in Page(text).text
    assert (f'class="verdict {kind}"' in text) == (kind is not None)


FIDELITY = {
    "kendall_tau": 0.4567,
    "interval": [0.1234, 0.7],
    **{"regret": 0.0123, "regret_points": 1.23, "best_truth": 0.75, "mean_truth": 0.7, "architectures": 3},
    "informative_only": True,
    "objective": "loss",
    "threshold": 0.2,
}
RESULTS = [{"proxy": 1.0 + i, "truth": 0.75 - 0.05 * i} for i in range(3)]


@pytest.mark.parametrize(
    ("changes", "words", "kind"),
    [
        ({}, "Kendall's tau 0.46, 95 % interval 0.12 to 0.70", ""),
        ({}, "1.23 points less accurate than the best of them (75.00 %); on average they have 70.00 %", ""),
        ({}, "The threshold is 0.2: passed. So few architectures are informative only", ""),
        ({"threshold": 0.5}, "The threshold is 0.5: not reached.", " lose"),
        ({"kendall_tau": None, "interval": [None, None]}, "Kendall's tau not defined: the order of 3 random", " lose"),
        ({"kendall_tau": -0.1, "threshold": None}, "Kendall's tau -0.10", ""),
    ],
)
def test_how_far_the_proxy_can_be_trusted(run: Path, changes: dict[str, Any], words: str, kind: str) -> None:
    write_json(run / "summary.json", {**SUMMARY, "fidelity": {**FIDELITY, **changes}})
    write_json(run / "fidelity.json", {"results": RESULTS})
    text = sections.fidelity(read_run(run))
    assert words in Page(text).text
    assert f'class="verdict{kind}"' in text
    assert text.count("<svg") == 1


def test_a_check_of_the_proxy_is_shown_as_far_as_its_files_are_there(run: Path) -> None:
    assert sections.fidelity(read_run(run)) == ""
    write_json(run / "summary.json", {**SUMMARY, "fidelity": FIDELITY})
    for results in (None, {"results": [{"proxy": "a"}]}, {"results": [{"proxy": math.nan, "truth": 1}]}):
        if results is not None:
            write_json(run / "fidelity.json", results)
        found = read_run(run)
        assert "The run folder has no usable fidelity.json" in Page(sections.fidelity(found)).text
        assert "tau 0.46 3 architectures, informative only" in Page(sections.cards(found)).text


def test_optional_parts_may_be_missing(run: Path) -> None:
    for name in ("alphas.safetensors", "pictures.safetensors", "proxy.json"):
        (run / name).unlink()
    for name in ("search", "train"):
        for path in (run / name).glob("*/*"):
            path.unlink()
    kept = {key: SUMMARY[key] for key in ESSENTIAL} | {"proxy_images": None, "source_images": None}
    write_json(run / "summary.json", kept)
    page = Page(write_report(run).read_text())
    for words in (
        "The run folder has no alphas.safetensors.",
        "The run folder has no pictures.safetensors.",
        "The run folder has no metrics.csv of any stage.",
        "Selection errors were not measured in this run.",
        "summary.json does not tell: date, hardware, versions, run folder, command.",
        "Images searched on all",
        "Genotype(normal=",
    ):
        assert words in page.text, words


def test_broken_optional_parts_are_named(run: Path) -> None:
    (run / "alphas.safetensors").write_bytes(b"broken")
    write_tensors(run / "pictures.safetensors", {"proxy": torch.rand(2, 3, 1, 8, 8), "real": torch.rand(8, 8)})
    log(run / "other", 0, "epoch,step,temperature\n0,1,3\n")
    page = Page(write_report(run).read_text())
    for words in (
        "alphas.safetensors is no complete safetensors file.",
        "pictures.safetensors holds tensors of another shape",
        "This stage logged no loss and no accuracy.",
    ):
        assert words in page.text, words


def test_random_stages_are_folded(run: Path) -> None:
    log(run / "random_0", 0, "epoch,step,train/loss\n0,3,2\n1,7,1.5\n")
    text = sections.curves(read_run(run))
    assert text.index("Random architectures</summary>") < text.index("<h3>random_0</h3>")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        *(({key: None}, f"'{key}'") for key in ("seed", "stages", "parameters", "macs", "test_accuracy")),
        ({"test_accuracy": "high"}, "'test_accuracy' is 'high'"),
        ({"parameters": True}, "'parameters' is True"),
        ({"stages": [{"name": "search"}]}, "'name' or 'seconds'"),
        ({"random_test_accuracies": ["a"]}, "other things than numbers"),
        ({"selection_errors": {"edges": 3}}, "'selection_errors'"),
        ({"fidelity": 1}, "'fidelity' is 1"),
        ({"fidelity": {"kendall_tau": 1}}, "'fidelity' is not what"),
        ({"fidelity": {**FIDELITY, "interval": [None, 1]}}, "'fidelity' is not what"),
        ({"fidelity": {**FIDELITY, "regret": "a"}}, "'fidelity' is not what"),
        ({"selection_errors": {**SUMMARY["selection_errors"], "details": [{"cell": 1}]}}, "'selection_errors'"),
    ],
)
def test_broken_summary(run: Path, entries: dict[str, Any], message: str) -> None:
    write_json(run / "summary.json", {**SUMMARY, **entries})
    with pytest.raises(ArtifactError, match=message):
        write_report(run)
    assert not (run / "report.html").exists()


def test_missing_required_files(run: Path) -> None:
    (run / "summary.json").rename(run / "kept.json")
    with pytest.raises(ArtifactError, match=r"summary\.json does not exist"):
        write_report(run)
    (run / "kept.json").rename(run / "summary.json")
    content = json.loads((run / "architecture.json").read_text())
    write_json(run / "architecture.json", {**content, "choices": [0, 0] * 16})
    with pytest.raises(ArchitectureError, match=r"architecture\.json"):
        write_report(run)
    (run / "architecture.json").unlink()
    with pytest.raises(ArtifactError, match=r"architecture\.json does not exist"):
        write_report(run)


# Curves.


def test_resumed_versions_are_one_run(tmp_path: Path) -> None:
    log(tmp_path, 2, "epoch,step,train/loss\n2,12,7\n3,16,6\n")
    log(tmp_path, 10, "epoch,step,train/loss\n4,20,5\n")
    # the last epoch of the first version was lost, and its last row was never finished
    log(tmp_path, 1, "epoch,step,train/loss,extra\n0,4,9,\n1,8,8,\n2,12,100,\n3,1")
    curves = read_curves(tmp_path)
    assert [tuple(point) for point in curves["train/loss"]] == [
        (0, 4, 9),
        (1, 8, 8),
        (2, 12, 7),
        (3, 16, 6),
        (4, 20, 5),
    ]
    assert set(curves) == {"train/loss"}


def test_a_later_test_leaves_the_training_alone(tmp_path: Path) -> None:
    log(tmp_path, 0, "epoch,step,train/loss\n0,4,9\n1,8,8\n")
    log(tmp_path, 1, "epoch,step,test/loss\n0,0,3\n")
    shown = panel(read_curves(tmp_path), "loss")
    assert shown is not None
    assert shown.series == {"train/loss": [(1, 9), (2, 8)]}
    assert (shown.xlabel, shown.log, shown.skipped) == ("epoch", False, 0)


def test_panel_of_steps(tmp_path: Path) -> None:
    log(tmp_path, 0, "epoch,step,a/loss_step,a/loss_epoch,b/loss\n0,1,9,,\n0,2,8,,nan\n0,2,,8.5,0.1\n")
    shown = panel(read_curves(tmp_path), "loss")
    assert shown is not None
    assert shown.series == {"a/loss_epoch": [(2, 8.5)], "b/loss": [(2, 0.1)]}
    assert (shown.xlabel, shown.log, shown.skipped) == ("step", True, 1)
    assert panel(read_curves(tmp_path), "accuracy") is None


def test_file_that_is_no_csv(tmp_path: Path) -> None:
    log(tmp_path, 0, "epoch,step,loss\n" + "9" * 200_000)
    with pytest.raises(ArtifactError, match=r"metrics\.csv is no CSV"):
        read_curves(tmp_path)


# Pictures.


def graphs(space: DARTSSpace, count: int) -> list[Graph]:
    generator = torch.Generator().manual_seed(3)
    return [graph for _ in range(count) for graph in space.graphs(space.sample(generator))]


@pytest.mark.parametrize("nodes", [1, 4, 6])
def test_nothing_overlaps_in_a_layout(nodes: int) -> None:
    for graph in graphs(DARTSSpace(nodes=nodes), 3):
        layout = place(graph)
        assert layout == place(graph)
        things = [(2 * layer, 2 * layer, y) for layer, y in zip(layout.layers, layout.nodes, strict=True)]
        for (source, target, _), y in zip(graph.edges, layout.edges, strict=True):
            things.append((2 * layout.layers[source] + 1, 2 * layout.layers[target] - 1, y))
        for i, (first, last, y) in enumerate(things):
            for other_first, other_last, other_y in things[:i]:
                assert max(first, other_first) > min(last, other_last) or abs(y - other_y) >= 1


def test_layers_are_longest_paths() -> None:
    assert layers(Graph("g", ("a", "b", "c", "d"), ((0, 1, "x"), (0, 2, "x"), (1, 2, "x"), (0, 3, "")))) == (0, 1, 2, 1)


def test_labels_of_a_cell_do_not_touch() -> None:
    for graph in graphs(DARTSSpace(), 2):
        figure = draw_cell(graph)
        figure.canvas.draw()
        boxes = [text.get_window_extent() for text in figure.axes[0].texts]
        assert len(boxes) >= len(graph.nodes) + sum(bool(label) for _, _, label in graph.edges)
        for i, box in enumerate(boxes):
            assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
            assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1
            assert not [other for other in boxes[:i] if box.overlaps(other)]


def test_small_and_odd_pictures() -> None:
    graph = Graph("one $ <b>", ("a$", "b"), ((0, 1, "a_very_long_operation_with_$_inside"),))
    assert "<b>" not in svg(draw_cell(graph), "a <b>")
    long = [(i, math.sin(i)) for i in range(5000)]
    figure = draw_curves({"long": long, "one": [(3, 1.0)]}, "loss")
    assert len(figure.axes[0].lines[0].get_xdata()) <= 400
    assert draw_curves({"a": [(1, 1.0), (2, 1e-6)]}, "loss", log=True).axes[0].get_yscale() == "log"
    draw_curves({}, "loss")
    assert svg(draw_alphas(torch.rand(1, 2, 10))).startswith("<svg ")
    for shape in ((2, 3, 200, 100), (1, 1, 8, 8), (0, 1, 8, 8), (3, 5, 40, 40)):
        assert png_data_uri(draw_images([("a", torch.rand(shape)), ("b" * 40, torch.rand(shape))])).startswith(
            "data:image/png;base64,iVBOR"
        )
    draw_images([])


def test_images_are_shown_as_they_are(tmp_path: Path) -> None:
    import base64
    import io

    from matplotlib.image import imread

    red, blue = torch.tensor([1.0, 0, 0]), torch.tensor([0, 0, 1.0])
    image = torch.stack([red, blue])[None, :, :, None].permute(0, 2, 1, 3).expand(1, 3, 2, 2)
    uri = png_data_uri(draw_images([("", image)]))
    pixels = torch.from_numpy(imread(io.BytesIO(base64.b64decode(uri.split(",")[1]))))[..., :3]
    assert torch.equal(pixels[5, 30], red)
    assert torch.equal(pixels[60, 30], blue)
