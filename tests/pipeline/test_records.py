"""A pipeline goes on with what its stages have used: elsewhere, but with nothing replaced."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lightning_nas.__main__ import main
from lightning_nas.callbacks.run_folder import claim
from lightning_nas.cli import lightning
from lightning_nas.distill.images import PlainImages
from lightning_nas.distill.proxy import Proxy
from lightning_nas.files.artifacts import read_json, write_bytes, write_json
from lightning_nas.pipeline import main as entry
from lightning_nas.pipeline import records, run
from tests.helpers import started
from tests.pipeline.test_run import FEW, arguments
from tests.tiny import arrays


class KilledError(Exception):
    """The pipeline was killed."""


class Stages:
    """Takes the place of the stages: every fit writes a checkpoint and its artifacts.

    Args:
        killed: Stage that is killed after its first checkpoint; None for none.
    """

    def __init__(self, killed: str | None) -> None:
        self.killed = killed
        self.ran: list[tuple[str, str, bool]] = []

    def __call__(self, args: list[str]) -> None:
        """Run a stage."""
        path = Path(args[2])
        config = yaml.safe_load(path.read_text())
        self.ran.append((args[0], path.stem, "--ckpt_path" in args))
        arguments = config["model"]["init_args"]
        write_bytes(path.parent / path.stem / "checkpoints" / "last.ckpt", path.stem.encode())
        if path.stem == self.killed:
            raise KilledError
        names = {"distill": ["proxy.safetensors", "proxy.json"], "search": ["architecture.json"]}.get(path.stem, [])
        if names and args[0] == "fit":
            claim(Path(arguments["output_dir"]), names, args[args.index("--run_folder.run") + 1])
        if path.stem == "distill":
            scheme = started(PlainImages(8), torch.randn(48, 3, 8, 8), torch.arange(48) % 3)
            proxy = Proxy(scheme, ["0", "1", "2"], [0.5] * 3, [0.2] * 3, {})
            proxy.save(Path(arguments["output_dir"]) / "proxy.safetensors")
        if path.stem == "search":
            write_bytes(Path(arguments["output_dir"]) / "architecture.json", b"found")
        if "write_to" in arguments:
            described = Path(arguments["write_to"]).with_suffix(".json")
            write_json(described, {**read_json(described, repair=""), "fidelity": 1})


@pytest.fixture
def start(quick: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Stages]:
    """Starts the pipeline on an npz file, without export and report."""
    arrays(quick / "images.npz")
    monkeypatch.setattr(run, "summarize", lambda *args: {})
    monkeypatch.setattr(run, "write_report", lambda *args: None)
    monkeypatch.setattr(run, "result", lambda *args: "")
    monkeypatch.setattr(entry, "table", lambda *args: "")
    monkeypatch.setattr(entry, "verdict", lambda *args: "")
    monkeypatch.setattr(run, "compare", lambda *args: None)
    monkeypatch.setattr(run, "evidence", lambda *args: {})
    monkeypatch.setattr(run.Pipeline, "_export", lambda self, *args: {})

    def begin(run_dir: Path, killed: str | None = None, said: str | None = None, **changes: Any) -> Stages:
        stages = Stages(killed)
        monkeypatch.setattr(lightning, "run", stages)
        data = {"data__class_path": "ArrayDataModule", "data__path": "images.npz", **FEW}
        changes = {**data, "stages__train__random_architectures": 0, **changes}
        if killed or said:
            with pytest.raises(KilledError if killed else SystemExit, match=said):
                main(["pipeline", *arguments(run_dir, **changes)])
        else:
            main(["pipeline", *arguments(run_dir, **changes)])
        return stages

    return begin


def test_a_finished_run_records_what_it_used(start: Callable[..., Stages], quick: Path) -> None:
    run_dir = quick / "run"
    start(run_dir)
    done = {name: json.loads((run_dir / name / "done.json").read_text()) for name in ("distill", "fidelity", "train")}
    assert set(done["distill"]["inputs"]) == {"images.npz"}
    assert set(done["distill"]["outputs"]) == {"distill/checkpoints/last.ckpt", "proxy.safetensors", "proxy.json"}
    assert set(done["fidelity"]["inputs"]) == {"images.npz", "proxy.safetensors"}
    assert {"proxy.safetensors", "proxy.json"} <= set(done["fidelity"]["outputs"])
    assert set(done["train"]["inputs"]) == {"images.npz", "architecture.json"}
    assert set(done["train"]["versions"]) == {"lightning_nas", "torch", "lightning", "torchvision"}
    assert start(run_dir).ran == []


@pytest.mark.parametrize("killed", ["distill", "fidelity", "search", "train"])
@pytest.mark.parametrize("moved", [False, True])
def test_a_killed_run_goes_on_wherever_its_folder_is(
    killed: str, moved: bool, start: Callable[..., Stages], quick: Path
) -> None:
    run_dir = quick / "run"
    start(run_dir, killed=killed)
    if moved:
        shutil.copytree(run_dir, quick / "copy")
        shutil.rmtree(run_dir)
        run_dir = quick / "copy"
    ran = start(run_dir).ran
    assert ran[0] == ("fit", killed, True)
    stages = ["distill", "fidelity", "search", "train"]
    assert [name for command, name, _ in ran if command == "fit"] == stages[stages.index(killed) :]
    assert all(str(run_dir) in (run_dir / f"{name}.yaml").read_text() for name in ("distill", "train"))


REPLACED = {
    "images.npz": "search",
    "run/proxy.safetensors": "search",
    "run/proxy.json": "search",
    "run/architecture.json": "train",
    "run/distill/checkpoints/last.ckpt": "search",
}


@pytest.mark.parametrize("name", REPLACED)
def test_what_was_replaced_is_named(name: str, start: Callable[..., Stages], quick: Path) -> None:
    start(quick / "run", killed=REPLACED[name])
    before = (quick / name).read_bytes()
    (quick / name).write_bytes(before[:-1] + b"x")
    shown = name.removeprefix("run/")
    said = rf"{shown} has changed since stage \w+ used it.*Restore it, or use another --run_dir"
    assert start(quick / "run", said=said).ran == []
    (quick / name).unlink()
    start(quick / "run", said=f"{shown} is missing since" if name != "images.npz" else "is missing since")
    (quick / name).write_bytes(before)
    assert start(quick / "run").ran


def test_data_in_a_folder_are_compared_by_content(quick: Path) -> None:
    for name in ("a", "b"):
        write_bytes(quick / "data" / name / "0.png", name.encode())
    first = records.digest_of(quick / "data", quick / "data" / "run")
    write_bytes(quick / "data" / ".hidden", b"")
    write_bytes(quick / "data" / "run" / "log", b"")
    assert records.digest_of(quick / "data", quick / "data" / "run") == first
    write_bytes(quick / "data" / "a" / "0.png", b"b")  # labels that were swapped
    write_bytes(quick / "data" / "b" / "0.png", b"a")
    assert records.digest_of(quick / "data", quick / "data" / "run") != first


@pytest.mark.parametrize("at", [0, 150_000, 299_999])
def test_of_large_data_the_ends_of_files_count(at: int, quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytearray(300_000)
    write_bytes(quick / "data" / "a.bin", content)
    write_bytes(quick / "data" / "b.bin", b"")
    whole = records.digest_of(quick / "data", quick / "run")
    content[at] = 1
    write_bytes(quick / "data" / "a.bin", content)
    assert records.digest_of(quick / "data", quick / "run") != whole
    monkeypatch.setattr(records, "LARGEST", 299_999)
    changed = records.digest_of(quick / "data", quick / "run")
    write_bytes(quick / "data" / "a.bin", bytes(300_000))
    assert (records.digest_of(quick / "data", quick / "run") == changed) == (at == 150_000)
    write_bytes(quick / "data" / "c.bin", b"")
    assert records.digest_of(quick / "data", quick / "run") != changed


def test_other_versions_are_refused(start: Callable[..., Stages], quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start(quick / "run", killed="search")
    now = records.versions()
    monkeypatch.setattr(records, "versions", lambda: {**now, "torch": "9.9"})
    start(quick / "run", said=rf"Stage distill ran with torch {now['torch'].split('+')[0]}.*now 9\.9")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("distill/done.json", b"{", r"done\.json is not a complete JSON file.*Delete it to run stage distill again"),
        ("distill/done.json", b'{"schema": 1}', r"done\.json is damaged \(KeyError"),
        ("distill/done.json", b'{"schema": 1, "run": "x", "versions": [], "inputs": {}}', r"is damaged \(TypeError"),
        ("search/begun.json", b"\xff", r"begun\.json is not a complete JSON file"),
        ("distill.yaml", b"\xff\xfe", r"distill\.yaml is not valid YAML"),
        ("distill.yaml", b"[]", r"distill\.yaml must hold a mapping"),
        ("distill.yaml", b"trainer: 5", r"distill\.yaml is of a run with another configuration"),
    ],
)
def test_damaged_records_are_refused(
    name: str, content: bytes, said: str, start: Callable[..., Stages], quick: Path
) -> None:
    start(quick / "run", killed="search")
    (quick / "run" / name).write_bytes(content)
    start(quick / "run", said=said)


def test_a_stage_without_a_checkpoint_may_begin_with_other_data(start: Callable[..., Stages], quick: Path) -> None:
    start(quick / "run", killed="distill")
    (quick / "run" / "distill" / "checkpoints" / "last.ckpt").unlink()
    arrays(quick / "images.npz", per_class=17)
    assert start(quick / "run").ran[0] == ("fit", "distill", False)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"test/accuracy\nabc\n", b"test/accuracy\n7\n", b"a\0b"])
def test_a_damaged_log_is_refused(content: bytes, quick: Path) -> None:
    from lightning_nas.errors import NASError
    from lightning_nas.pipeline.summary import tested_accuracy

    write_bytes(quick / "train" / "version_0" / "metrics.csv", content)
    with pytest.raises(NASError, match=r"metrics\.csv is damaged|No test accuracy"):
        tested_accuracy(quick / "train")
