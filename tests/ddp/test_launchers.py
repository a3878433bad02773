"""Whole runs on two devices and on two machines, as far as one machine can show it."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from lightning_nas.files.artifacts import read_tensors
from lightning_nas.spaces.artifact import load_architecture
from tests.conftest import ROOT
from tests.pipeline.test_run import arguments

TWO = {
    "stages.train.random_architectures": 0,
    "stages.train.baselines": "[]",
    "trainer.accelerator": "cpu",
    "trainer.devices": 2,
    "trainer.strategy": "ddp",
    "stages.distill.trainer.devices": 1,
    "stages.distill.trainer.strategy": "auto",
    "stages.search.data.init_args.batch_size": 16,
}


def environment() -> dict[str, str]:
    """One thread per process, and no variables of a launcher."""
    mine = {k: v for k, v in os.environ.items() if not k.startswith(("MASTER_", "LOCAL_", "NODE_", "WORLD_"))}
    return {**mine, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("two") / "run"
    args = arguments(run_dir, **TWO)
    done = subprocess.run(
        [sys.executable, "-m", "lightning_nas", "pipeline", *args],
        env=environment(),
        cwd=run_dir.parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return run_dir


@pytest.mark.slow
def test_two_devices_make_one_run_folder(finished: Path) -> None:
    assert [p.name for p in finished.parent.iterdir()] == ["run"]
    for stage in ("distill", "search", "train"):
        versions = sorted(p.name for p in (finished / stage).glob("version_*"))
        assert versions == (["version_0", "version_1"] if stage == "train" else ["version_0"])  # fit and test
        assert (finished / stage / "checkpoints" / "last.ckpt").is_file()
    assert all(
        (finished / name).is_file() for name in ("architecture.json", "network.py", "summary.json", "report.html")
    )


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.mark.slow
def test_two_machines_search_as_two_devices_of_one(finished: Path, tmp_path: Path) -> None:
    """Two agents of torchrun that share nothing but an address and a port, as on two machines."""
    port = str(free_port())
    agents = []
    for node in ("0", "1"):
        launch = ["--nnodes", "2", "--node_rank", node, "--nproc_per_node", "1", "--master_addr", "127.0.0.1"]
        search = ["fit", "--config", str(finished / "search.yaml"), "--model.output_dir", str(tmp_path / "out")]
        trainer = ["--trainer.num_nodes", "2", "--trainer.devices", "1", "--trainer.logger", "false"]
        callbacks = ["--trainer.callbacks", "null", "--trainer.enable_checkpointing", "false"]
        command = ["-m", "torch.distributed.run", *launch, "--master_port", port, "-m", "lightning_nas", *search]
        agents.append(
            subprocess.Popen(
                [sys.executable, *command, *trainer, *callbacks],
                env=environment(),
                cwd=tmp_path,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    said = [agent.communicate(timeout=300)[0] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], "\n".join(said)
    (out,) = tmp_path.glob("out/architecture.json")
    assert load_architecture(out) == load_architecture(finished / "architecture.json")
    one, two = (read_tensors(p / "alphas.safetensors", repair="") for p in (finished, out.parent))
    assert all(torch.equal(one[name], two[name]) for name in (*one, *two))


def children(pid: int) -> list[int]:
    """Child processes of a process."""
    found = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in found.read_text().split()] if found.is_file() else []


def running(pid: int) -> bool:
    """Whether a process still runs; a finished one may stay listed for a while."""
    listed = Path(f"/proc/{pid}/stat")
    return listed.is_file() and listed.read_text().rsplit(")", 1)[1].split()[0] not in ("Z", "X")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks for processes in /proc")
def test_a_signal_to_one_of_two_processes_stops_both_with_a_checkpoint(finished: Path, tmp_path: Path) -> None:
    keep = tmp_path / "kept"
    callback = f"[{{class_path: ModelCheckpoint, init_args: {{dirpath: {keep}, filename: last}}}}]"
    args = ["--config", str(finished / "search.yaml"), "--model.output_dir", str(tmp_path), "--trainer.logger", "false"]
    long = ["--trainer.max_epochs", "100000", "--trainer.callbacks", callback]
    command = [sys.executable, "-m", "lightning_nas", "fit", *args, *long]
    run = subprocess.Popen(command, env=environment(), cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 200
        while not (keep / "last.ckpt").is_file() and run.poll() is None and time.monotonic() < until:
            time.sleep(0.1)
        (other,) = children(run.pid)
        run.send_signal(signal.SIGTERM)
        said = run.communicate(timeout=100)[1].decode()
    finally:
        run.kill()
    assert run.returncode == 143, said
    until = time.monotonic() + 60
    while running(other) and time.monotonic() < until:
        time.sleep(0.1)
    assert not running(other)
    assert said.count("Go on with: lightning-nas fit ") == 1
    saved = torch.load(keep / "last.ckpt", weights_only=True)
    assert all(bool(value.isfinite().all()) for value in saved["state_dict"].values())
