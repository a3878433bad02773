"""Small valid files of every kind, and what an attacker makes of them."""

import io
import os
import pickle
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import torch

from lightning_nas.distill.bases import HallucinatedBases
from lightning_nas.distill.images import PlainImages
from lightning_nas.distill.proxy import Proxy
from lightning_nas.distill.relations import RelationMappings
from lightning_nas.files.checkpoints import CHECKPOINT_KEY
from lightning_nas.spaces.darts.space import DARTSSpace
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from tests.helpers import started

EXECUTED = Path(tempfile.gettempdir()) / f"executed_{os.getpid()}"
PNG = bytes.fromhex("89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000049454e44ae426082")


class Malicious:
    """Unpickling this leaves a file behind."""

    def __reduce__(self) -> Any:
        return os.system, (f"touch {EXECUTED}",)


class Own:
    """Unpickling this is an execution, too."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        EXECUTED.touch()


def malicious() -> bytes:
    """A pickle that shows that it was executed."""
    own = Own()
    own.__dict__["x"] = 1
    return pickle.dumps([own, Malicious()], protocol=2)


@contextmanager
def nothing_executed() -> Iterator[None]:
    """Fails where a malicious pickle was."""
    yield
    executed = EXECUTED.exists()
    EXECUTED.unlink(missing_ok=True)
    assert not executed


class Quiet(SimpleHTTPRequestHandler):
    """Serves files without a log, and without waiting for small packets to become large ones."""

    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def http_server() -> Iterator[str]:
    """A web server of all files of this machine; the URL of its root."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory="/")) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


ORIGINS = ("path", "file", "http")


def located(path: str | Path, origin: str, server: str) -> str:
    """The name under which a file is found at an origin."""
    absolute = str(Path(path).absolute())
    return {"path": str(path), "file": f"file://{absolute}", "http": f"{server}{absolute}"}[origin]


def zipped(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """An archive with right checksums."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def members_of(archive: bytes) -> dict[str, bytes]:
    """What is in an archive."""
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def with_pickle(data: bytes) -> bytes:
    """A checkpoint whose values are those of a pickle."""
    return zipped({**members_of(checkpoint()), "archive/data.pkl": data})


def written(save: Callable[[Path], Path]) -> bytes:
    """What a saving function writes."""
    with tempfile.TemporaryDirectory() as folder:
        return save(Path(folder) / "x.safetensors").read_bytes()


PIXELS, CLASSES = torch.arange(4 * 16.0).reshape(4, 1, 4, 4) / 64, torch.arange(4) % 2
PROXIES = [
    (written(made.save), written(lambda path, made=made: made.save(path).with_suffix(".json")))  # type: ignore[misc]
    for made in (
        Proxy(started(scheme, PIXELS, CLASSES), ["a", "b"], [0.5], [0.2], {"seed": 0})
        for scheme in (PlainImages(2), HallucinatedBases(1, hallucinators=2, width=1), RelationMappings(2, mappings=2))
    )
]
PROXY = PROXIES[0]
ARCHITECTURES = [written(space.largest().save) for space in (DARTSSpace(nodes=1), NASBench201Space())]
CONFIG = {"model": {"class_path": "a.Task", "init_args": {"space": {"class_path": "a.Space"}, "list": [1, {"x": 2}]}}}


def checkpoint(**changes: Any) -> bytes:
    """What Lightning writes, small."""
    callbacks = {
        "ModelCheckpoint{}": {"best_model_path": "/run/last.ckpt", "dirpath": "/run", "best_k_models": {}},
        "PreemptionCheckpoint": {"own": None},
    }
    content = {
        "epoch": 0,
        "global_step": 1,
        "pytorch-lightning_version": "2.6.6",
        "state_dict": {"weight": torch.arange(4.0), "bias": torch.nn.Parameter(torch.ones(2))},
        "loops": {"fit_loop": {"epoch_progress": {"total": {"ready": 1}}}},
        "callbacks": callbacks,
        "optimizer_states": [{"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"betas": (0.9, 0.99)}]}],
        "lr_schedulers": [{"milestones": Counter({2: 1})}],
        CHECKPOINT_KEY: CONFIG,
    }
    file = io.BytesIO()
    torch.save({**content, **changes}, file)
    return file.getvalue()


def images(**changes: Any) -> bytes:
    """What ``ArrayDataModule`` reads, small; a change to None leaves an array out."""
    pixels, labels = np.arange(4 * 12, dtype=np.uint8).reshape(4, 2, 2, 3), np.arange(4) % 2
    arrays = {"x_train": pixels, "y_train": labels, "x_test": pixels, "y_test": labels, "classes": np.array(["a", "b"])}
    file = io.BytesIO()
    np.savez(file, **{key: array for key, array in {**arrays, **changes}.items() if array is not None})
    return file.getvalue()
