"""Made-up run folders, and what a browser would see of a page."""

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import torch

from lightning_nas.files.artifacts import write_json, write_tensors
from lightning_nas.spaces.darts.space import DARTSSpace
from lightning_nas.spaces.nasbench201.space import NASBench201Space
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
    "compared_stages": ["random_0", "random_1", "random_2"],
    "test_accuracy": 0.9889,
    "test_accuracies": [0.9889],
    "random_test_accuracy": 0.97,
    "random_test_accuracy_std": 0.01,
    "random_test_accuracies": [0.96, 0.97, 0.98],
    "random_parameters": [1001, 1002, 1003],
    "random_macs": [2001, 2002, 2003],
    "baselines": [
        {"name": "resnet_macs", "label": "ResNet-8 of width 11, equal MACs", "test_accuracy": 0.975,
         "test_accuracies": [0.975], "parameters": 9004, "macs": 9004321},
    ],
    "baselines_left_out": [
        {"name": "resnet_parameters", "label": "ResNet of equal parameters", "reason": f"It would be {EVIL}."},
    ],
    "genotype": DARTS_V2 + EVIL,
    "selection_errors": {
        "edges": {"rate": None, "low": None, "high": None, "errors": 0, "decided": 0, "ties": 1, "count": 1,
                  "images": 64, "undecided": 1},
        "operations": {"rate": 0.5, "low": 0.0945, "high": 0.9055, "errors": 1, "decided": 2, "ties": 0, "count": 3,
                       "images": 1024, "undecided": 1},
        "confidence": 0.95,
        "details": [
            {"kind": "operations", "cell": "normal", "node": 1, "edge": 4, "chosen": ["skip_connect"],
             "reference": ["sep_conv_3x3"], "decided": True, "tie": False, "images": 128, "lead": 0.0123,
             "error": 0.0034, "wrong": True},
            {"kind": "operations", "cell": "normal", "node": 1, "edge": 3, "chosen": ["skip_connect"],
             "reference": ["sep_conv_3x3"], "decided": False, "tie": False, "images": 1024, "lead": 0.0001,
             "error": None, "wrong": False},
            {"kind": "edges", "cell": "normal", "node": 1, "edge": None, "chosen": ["0", "2"],
             "reference": ["0", "1"], "decided": False, "tie": True, "images": 64, "lead": 0.0, "error": 0.0,
             "wrong": False},
            {"cell": EVIL, "node": EVIL, "chosen": [EVIL], "reference": [3], "wrong": False},
        ],
    },
    "export_difference": 0.0,
    "peak_memory_mb": 812.4,
}  # fmt: skip
EARLIER_ERRORS: dict[str, Any] = {
    "edges": {"rate": None, "errors": 0, "count": 0},
    "operations": {"rate": 0.5, "errors": 1, "count": 2},
    "details": [
        {"kind": "operations", "cell": "normal", "node": 1, "edge": 4, "chosen": ["skip_connect"],
         "reference": ["sep_conv_3x3"], "wrong": True},
        {"kind": "edges", "cell": "normal", "node": 1, "edge": None, "chosen": ["0", "2"],
         "reference": ["0", "2"], "wrong": False},
    ],
}  # fmt: skip
"""Selection errors as versions wrote them that did not tell undecided decisions apart."""

FIDELITY = {
    "kendall_tau": 0.4567,
    "interval": [0.1234, 0.7],
    **{"regret": 0.0123, "regret_points": 1.23, "best_truth": 0.75, "mean_truth": 0.7, "architectures": 3},
    "informative_only": True,
    "objective": "loss",
    "threshold": 0.2,
}


def small(folder: Path, **changes: Any) -> Path:
    """A run folder with only what must be there, and one cell."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "summary.json", {**SUMMARY, **changes})
    NASBench201Space().architecture([3, 0, 1, 2, 3, 4]).save(folder / "architecture.json")
    return folder


def whole(folder: Path) -> Path:
    """A run folder with everything."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "summary.json", SUMMARY)
    DARTSSpace.parse(DARTS_V2).save(folder / "architecture.json")
    write_json(folder / "proxy.json", {"class_names": [EVIL, "b"]})
    history = torch.linspace(0, 1, 3 * 14 * 8).view(3, 14, 8)
    write_tensors(folder / "alphas.safetensors", {"normal": history, "reduce": history.flip(1)})
    images = torch.linspace(0, 1, 2 * 3 * 64).view(2, 3, 1, 8, 8)
    write_tensors(folder / "pictures.safetensors", {"proxy": images, "real": images[:, :2]})
    log(folder / "search", 0, "epoch,step,search/loss,train/accuracy,train/loss\n0,3,2.3,0.1,2.2\n1,7,2.1,0.3,2.0\n")
    log(folder / "train", 0, "epoch,step,train/loss\n0,3,inf\n1,7,1.5\n")
    log(folder / "train", 1, "epoch,step,test/accuracy,test/loss\n0,0,0.9889,0.03\n")
    return folder


def with_results(folder: Path) -> Path:
    """A run folder to which the results of every test image are added."""
    comparisons = [
        {"kind": "random", "name": "random_2", "label": "random architecture 2", "test_accuracy": 0.98,
         **{"better": 6, "worse": 3, "ties": 351, "p": 0.508, "verdict": "equal"}},
        {"kind": "standard", "name": "resnet_macs", "label": f"ResNet {EVIL}", "test_accuracy": 0.975,
         **{"better": 12, "worse": 1, "ties": 347, "p": 0.0034, "verdict": "better"}},
    ]  # fmt: skip
    content = {**SUMMARY, "test_images": 6, "class_names": [EVIL, "b"], "comparisons": comparisons}
    write_json(folder / "summary.json", {**content, "fidelity": FIDELITY})
    write_json(folder / "fidelity.json", {"results": [{"proxy": 1.0 + i, "truth": 0.75 - 0.05 * i} for i in range(3)]})
    tensors = {
        "labels": torch.tensor([0, 0, 1, 1, 1, 0]),
        "predicted": torch.tensor([0, 1, 1, 0, 1, 0]),
        "confidence": torch.tensor([0.9, 0.97, 0.8, 0.6, 0.7, 1.0]),
        "mistakes": torch.tensor([1, 3]),
        "pictures": torch.arange(2 * 64, dtype=torch.uint8).view(2, 1, 8, 8),
    }
    write_tensors(folder / "train" / "test_images.safetensors", tensors)
    for name, last in (("random_0", 1.9), ("resnet_macs", 1.7)):
        log(folder / name, 0, f"epoch,step,train/loss\n0,3,2.5\n1,7,{last}\n")
    return folder


def log(stage: Path, version: int, text: str) -> None:
    """What Lightning's ``CSVLogger`` writes."""
    folder = stage / f"version_{version}"
    folder.mkdir(parents=True)
    (folder / "metrics.csv").write_text(text)


class Page(HTMLParser):
    """Checks that every element is closed, and collects what a browser would act on."""

    VOID = ("meta", "img")

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
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)
