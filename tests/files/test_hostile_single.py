"""One fault a file: what is said, that nothing is executed, and that the file stays as it was."""

import io
import json
import os
import struct
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_nas.data import images as images_module
from lightning_nas.data.folders import FolderSet
from lightning_nas.data.images import ArrayDataModule
from lightning_nas.distill.proxy import Proxy
from lightning_nas.errors import ArchitectureError, ArtifactError, CheckpointError, DataError, NASError
from lightning_nas.files import checkpoints as checkpoints_module
from lightning_nas.files.artifacts import LARGEST_JSON, read_json, read_tensors
from lightning_nas.files.checkpoints import read_checkpoint
from lightning_nas.files.torch_files import load_saved
from lightning_nas.spaces.artifact import load_architecture
from lightning_nas.spaces.darts.space import DARTSSpace
from tests.hostile import (
    ARCHITECTURES,
    ORIGINS,
    PNG,
    PROXIES,
    PROXY,
    Malicious,
    checkpoint,
    http_server,
    images,
    located,
    malicious,
    members_of,
    nothing_executed,
    with_pickle,
    zipped,
)

LARGE = 10**9


@pytest.fixture(autouse=True)
def _nothing_executed() -> Iterator[None]:
    with nothing_executed():
        yield


def refused(read: Callable[[Any], Any], path: str, content: bytes, error: type[NASError], match: str) -> None:
    """Reading says what is wrong and where, and changes nothing."""
    Path(path).write_bytes(content)
    with pytest.raises(error, match=match) as caught:
        read(Path(path))
    assert path in str(caught.value)
    assert len(str(caught.value)) < 3000
    assert Path(path).read_bytes() == content


def read_any_json(path: Path) -> dict[str, Any]:
    return read_json(path, repair="Write it again.")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (PNG, "not a complete JSON"),
        (malicious(), "not a complete JSON"),
        (ARCHITECTURES[0][:-9], "not a complete JSON"),
        (b'{"schema": 1, "n": %s}' % (b"9" * 5000), "not a complete JSON.*digits"),
        (b'{"schema": 1, "n": %s' % (b"[" * 10**5), "not a complete JSON.*recursion"),
        (b'{"schema": 1, "n": "\\ud800"}', "not a complete JSON.*surrogates"),
        (b'{"schema": 1}' + b" " * LARGEST_JSON, "files of its kind have at most"),
        (b'{"name": "of another program", "version": 3}', "'schema' is not a positive integer.*Write it again"),
        (b'{"schema": true}', "'schema' is not a positive integer"),
        (b'{"schema": 0}', "'schema' is not a positive integer"),
        (b'{"schema": 2, "lightning_nas": "9.0"}', "schema 2, written by lightning_nas '9.0'.*Upgrade"),
    ],
)
def test_json(content: bytes, match: str) -> None:
    refused(read_any_json, "x.json", content, ArtifactError, match)


@pytest.mark.parametrize("read", [read_any_json, lambda path: read_tensors(path, repair=""), read_checkpoint])
def test_pipes_and_folders(read: Callable[[Path], Any]) -> None:
    os.mkfifo("pipe")
    Path("folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises((ArtifactError, CheckpointError), match=f"{name} is not .*a regular file"):
            read(Path(name))


DARTS = "lightning_nas.spaces.darts.space.DARTSSpace"
TABULAR = "lightning_nas.spaces.nasbench201.space.NASBench201Space"


@pytest.mark.parametrize(
    ("class_path", "arguments", "error", "match"),
    [
        (DARTS, {"nodes": LARGE}, ArtifactError, "at most 64"),
        (DARTS, {"nodes": 10**4000}, ArtifactError, "at most 64"),
        (DARTS, {"nodes": 1.0}, ArtifactError, "integer of at least 1"),
        (DARTS, {"nodes": True}, ArtifactError, "integer of at least 1"),
        (
            DARTS,
            {"nodes": 1, "operations": ["conv"] * 10**5},
            ArtifactError,
            "operations contain 'conv', which is unknown",
        ),
        (DARTS, {"nodes": 1, "operations": [{"a": 1}]}, ArtifactError, "which is not an Operation"),
        (DARTS, {"nodes": 1, "allowed": [1]}, ArtifactError, "cannot be made"),
        (DARTS, {"nodes": 1, "allowed": {"normal": 1}}, ArtifactError, "cannot be made"),
        (DARTS, {"nodes": 1, "channels": LARGE, "cells": LARGE}, ArchitectureError, "was expected"),
        (TABULAR, {"cells_per_stage": "5"}, ArtifactError, "integer of at least 1"),
        (TABULAR, {"cells_per_stage": LARGE}, ArchitectureError, "was expected"),
        (
            "lightning_nas" + ".a" * 50_000 + ".A",
            {},
            ArtifactError,
            "derives from SearchSpace",
        ),
        ("lightning_nas.\0.A", {}, ArtifactError, "derives from SearchSpace"),
        ("lightning_nas.spaces.base.SearchSpace", {}, ArtifactError, "cannot be made.*abstract"),
    ],
)
def test_architectures_of_gigantic_or_impossible_spaces(
    class_path: str, arguments: dict[str, Any], error: type[NASError], match: str
) -> None:
    content = {**json.loads(ARCHITECTURES[0]), "space": {"class_path": class_path, "arguments": arguments}}
    refused(load_architecture, "x.json", json.dumps(content).encode(), error, f"{match}.*Write one with a search")


def test_the_largest_space_is_read(tmp_path: Path) -> None:
    found = DARTSSpace(nodes=64).sample(torch.Generator().manual_seed(0))
    assert load_architecture(found.save("x.json")) == found


def scheme(name: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": f"lightning_nas.distill.{name}", "arguments": arguments}


def test_a_proxy_of_endless_images_is_refused_before_they_are_made() -> None:
    from safetensors.torch import load, save

    tensors, info = PROXIES[2]
    big = {**load(tensors), "bases": torch.zeros(2, 1, 100, 100)}
    Path("x.safetensors").write_bytes(save(big))
    changed = json.loads(info)
    changed["scheme"]["arguments"]["downscale"] = 1000
    Path("x.json").write_text(json.dumps(changed))
    with pytest.raises(ArtifactError, match="none or more than"):
        Proxy.load("x.safetensors")


def tensors(**changes: torch.Tensor | None) -> bytes:
    from safetensors.torch import load, save

    return save({name: tensor for name, tensor in {**load(PROXY[0]), **changes}.items() if tensor is not None})


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (PNG, "not a complete safetensors"),
        (malicious(), "not a complete safetensors"),
        (struct.pack("<Q", 10**15) + PROXY[0][8:], "not a complete safetensors"),
        (PROXY[1], "not a complete safetensors"),
        (tensors(images=None), r"it stores \['labels'\] instead of \['images', 'labels'\]"),
        (tensors(groups=torch.arange(4)), "it stores .*'groups'"),
        (
            tensors(images=torch.zeros(4, 1, 0, 2)),
            "images of shape .*none or more|not a complete",
        ),  # or: safetensors 0.4
        (tensors(images=torch.zeros(4, 1, 2, 2, dtype=torch.float16)), "images is torch.float16"),
        (tensors(labels=torch.tensor([0, 1, 0, -1])), "not a proxy of 2 classes"),
        (tensors(labels=torch.tensor([0, 1, 0, 2])), "not a proxy of 2 classes"),
        (tensors(labels=torch.tensor([0, 1])), "4 images, and labels of shape"),
    ],
)
def test_tensors_of_proxies(content: bytes, match: str) -> None:
    Path("x.json").write_bytes(PROXY[1])
    refused(Proxy.load, "x.safetensors", content, ArtifactError, match)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"class_names": "ab"}, "class_names must be a list of text"),
        ({"class_names": ["a", 2]}, "class_names must be a list of text"),
        ({"mean": [float("nan")]}, "finite numbers"),
        ({"mean": [10**400]}, "finite numbers"),
        ({"std": {"0": 0.2}}, "finite numbers"),
        ({"std": [0.0]}, "positive standard deviations"),
        ({"std": [0.2, 0.2]}, "1 channels"),
        ({"schema": 2}, "schema 2"),
        ({"scheme": None}, "not a proxy of the scheme"),
        (
            {"scheme": {"class_path": "os.system", "arguments": {"command": "false"}}},
            "derives from Scheme",
        ),
        ({"scheme": scheme("images.PlainImages", size=3)}, "unexpected keyword argument 'size'"),
        ({"scheme": scheme("relations.RelationMappings")}, "instead of .*'mappings'"),
        ({"scheme": scheme("base.Scheme")}, "not a proxy of the scheme"),
    ],
)
def test_what_is_beside_a_proxy(changes: dict[str, Any], match: str) -> None:
    Path("x.safetensors").write_bytes(PROXY[0])
    Path("x.json").write_text(json.dumps({**json.loads(PROXY[1]), **changes}))
    with pytest.raises(ArtifactError, match=match):
        Proxy.load("x.safetensors")
    assert Path("x.safetensors").read_bytes() == PROXY[0]


# -- checkpoints ------------------------------------------------------------------------------------------------------


def claiming(size: int) -> bytes:
    """A checkpoint whose list of parts says that the first is larger."""
    whole = bytearray(checkpoint())
    start = whole.index(b"PK\x01\x02")
    whole[start + 20 : start + 28] = struct.pack("<II", size, size)
    return bytes(whole)


def legacy() -> bytes:
    file = io.BytesIO()
    torch.save({"a": torch.ones(2)}, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


def flipped() -> bytes:
    whole = checkpoint()
    ones = whole.index(struct.pack("<2f", 1, 1))
    return whole[:ones] + b"\x01" + whole[ones + 1 :]


PACKED = zipped({**members_of(checkpoint()), "archive/data/9": bytes(2**24)}, zipfile.ZIP_DEFLATED)
BYTES = b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R."
TUPLES = b"\x80\x02})" + b"\x85" * 10**6 + b"Ns."
DOUBLED = b"\x80\x02})" + b"".join(b"q%ch%c\x86" % (n, n) for n in range(60)) + b"Ns."
CYCLE = b"\x80\x02]q\x00h\x00a."
CODEC = b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x08\x00\x00\x00punycode\x86R."


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (checkpoint()[:-100], "BadZipFile"),
        (PNG, "BadZipFile"),
        (legacy(), "BadZipFile"),
        (flipped(), "the checksum of"),
        (PACKED, "compressed, or larger"),
        (claiming(2**32 - 2), "compressed, or larger"),
        (zipped({**members_of(checkpoint()), "b/DATA.PKL": b"N."}), "2 parts named data.pkl"),
        (zipped({**members_of(checkpoint()), "archive/constants.pkl": b"N."}), "TorchScript"),
        (with_pickle(malicious()), "calls"),
        (checkpoint(x=Malicious()), "calls 'posix system'"),
        (with_pickle(BYTES), "calls 'builtins bytearray'"),
        (with_pickle(CODEC), "calls '_codecs encode'"),
        (with_pickle(TUPLES), "nested more than"),
        (with_pickle(DOUBLED), "repeated endlessly"),
        (with_pickle(CYCLE), "part of itself"),
        (with_pickle(b"\x80\x04N."), "opcode PROTO 4"),
        (checkpoint(state_dict={"w": torch.zeros(1).expand(LARGE)}), "more than the file holds"),
        (checkpoint(state_dict={"w": 1}), "such values for state_dict"),
        (checkpoint(loops=None), "such values for loops"),
        (checkpoint(lightning_nas_config=[]), "such values for lightning_nas_config"),
        (checkpoint(**{"pytorch-lightning_version": "1.9.0"}), "such values for pytorch-lightning_version"),
        (checkpoint(hyper_parameters={"output_dir": "/"}), "such values for hyper_parameters"),
        (checkpoint(callbacks={"ModelCheckpoint": {"best_model_path": "local:///home"}}), "such values for callbacks"),
        (checkpoint(callbacks={"ModelCheckpoint": {"last_model_path": "/run/../home"}}), "such values for callbacks"),
        (checkpoint(callbacks={"ModelCheckpoint": {"best_k_models": {"memory::x": 1}}}), "such values for callbacks"),
        (checkpoint(callbacks={"ModelCheckpoint": {"best_k_models": {"/run/photos": 1}}}), "such values for callbacks"),
        (checkpoint(callbacks={"ModelCheckpoint": {"best_model_path": "/run/photos"}}), "such values for callbacks"),
        (checkpoint(callbacks={"ModelCheckpoint": {"last_model_path": "file:///x.ckpt"}}), "such values for callbacks"),
        (checkpoint(callbacks={"ModelCheckpoint": {"kth_best_model_path": "/a.txt"}}), "such values for callbacks"),
        (checkpoint(callbacks={"ModelCheckpoint": {"best_model_path": "s3://a/b.ckpt"}}), "such values for callbacks"),
    ],
)
def test_checkpoints(content: bytes, match: str) -> None:
    refused(read_checkpoint, "x.ckpt", content, CheckpointError, match)
    with http_server() as server:
        for origin in ORIGINS:
            place = located("x.ckpt", origin, server)
            with pytest.raises(CheckpointError, match=match) as caught:
                read_checkpoint(place)
            assert str(caught.value).startswith(place)


def test_a_checkpoint_is_the_same_whatever_its_origin() -> None:
    Path("x.ckpt").write_bytes(checkpoint())
    with http_server() as server:
        found = [read_checkpoint(located("x.ckpt", origin, server)) for origin in ORIGINS]
    weights = [each.pop("state_dict") for each in found]
    assert all(torch.equal(each["weight"], weights[0]["weight"]) for each in weights)
    assert found[0].keys() == found[1].keys() == found[2].keys()
    assert all(each["callbacks"] == found[0]["callbacks"] for each in found)


def test_a_checkpoint_on_another_machine_names_those_beside_it() -> None:
    with http_server() as server:
        place = located("x.ckpt", "http", server)
        for named in (place.replace("x.ckpt", "best.ckpt"), "/run/best.ckpt"):
            Path("x.ckpt").write_bytes(checkpoint(callbacks={"ModelCheckpoint": {"best_model_path": named}}))
            assert read_checkpoint(place)["epoch"] == 0
        for named in (place.replace("x.ckpt", "a/best.ckpt"), place.replace("x.ckpt", "photos"), "file:///best.ckpt"):
            Path("x.ckpt").write_bytes(checkpoint(callbacks={"ModelCheckpoint": {"best_model_path": named}}))
            with pytest.raises(CheckpointError, match="such values for callbacks"):
                read_checkpoint(place)


@pytest.mark.parametrize(
    ("place", "match"),
    [
        ("file:///nowhere/x.ckpt", "nowhere/x.ckpt does not exist"),
        ("scheme://x.ckpt", "x.ckpt is not a checkpoint that can be read safely .*Protocol not known: scheme"),
        ("http://127.0.0.1:9/x.ckpt", r"http://127.0.0.1:9/x.ckpt (does not exist|is not a checkpoint)"),
    ],
)
def test_origins_without_a_file(place: str, match: str) -> None:
    with pytest.raises(CheckpointError, match=match):
        read_checkpoint(place)


def test_a_server_cannot_fill_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints_module, "LARGEST_DOWNLOAD", 1000)
    Path("x.ckpt").write_bytes(checkpoint())
    with http_server() as server, pytest.raises(CheckpointError, match="it has more than 1000 bytes"):
        read_checkpoint(located("x.ckpt", "http", server))


def test_what_is_no_attack_is_read() -> None:
    shared, state = [1, 2], OrderedDict(a=torch.ones(2))
    whole = {
        "shared": [shared, shared, (0.9, 0.999), {"again": shared}],
        "random": (3, tuple(range(625)), None),
        "many": [{"name": str(n), "value": n / 7} for n in range(3000)],
        "tensors": [torch.zeros(0), torch.arange(6).view(2, 3).t(), torch.tensor(1j), torch.tensor([True])],
        "types": [torch.float32, torch.Size([2, 3]), torch.device("cpu"), Counter({5: 1}), 2**70, -1.5, "", set()],
        "state": state,
        "same": state,
    }
    file = io.BytesIO()
    torch.save(whole, file)
    found = load_saved(file)
    assert all(torch.equal(a, b) for a, b in zip(found.pop("tensors"), whole.pop("tensors"), strict=True))
    assert torch.equal(found.pop("state")["a"], torch.ones(2))
    assert torch.equal(found.pop("same")["a"], torch.ones(2))
    del whole["state"], whole["same"]
    assert found == whole


# -- images -----------------------------------------------------------------------------------------------------------


def headed(header: str) -> bytes:
    """An npz file whose labels have another header."""
    parts = members_of(images())
    text = header.ljust(117).encode() + b"\n"
    parts["y_train.npy"] = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text
    return zipped(parts)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (PNG, "cannot be read"),
        (images(y_train=np.array([0, 1, 0, 10**15]), classes=None), "go up to 1000000000000000"),
        (headed("{'descr': '<i8', 'fortran_order': False, 'shape': (10**15,), }"), "cannot be read"),
        (headed("{'descr': '<i8', 'fortran_order': False, 'shape': (1000000000000000,), }"), "cannot be read"),
        (headed("{'descr': '<i8', 'fortran_order': ["), "cannot be read"),
        (images(classes=np.empty(10**9, "V0")), "names 1000000000 classes for 4 training images"),
        (images(classes=np.array([0x110000], np.uint32).view("<U1")), "classes in x.npz are not text"),
        (images(x_train=np.array([Malicious()], object)), "cannot be read"),
    ],
)
def test_npz(content: bytes, match: str) -> None:
    refused(lambda path: ArrayDataModule(str(path)).train_set, "x.npz", content, DataError, match)


def test_arrays_that_unpack_to_far_more_than_their_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images_module, "IN_MEMORY", 10**6)
    arrays = {"x_train": np.zeros((2, 999, 999, 3), np.uint8), "y_train": np.arange(2), "y_test": np.arange(2)}
    np.savez_compressed("x.npz", x_test=arrays["x_train"], **arrays)
    with pytest.raises(DataError, match=r"x_train in x\.npz decompresses from \d+ to 5988134 bytes.*numpy.savez"):
        _ = ArrayDataModule("x.npz").train_set


def test_files_that_only_are_called_images() -> None:
    for name in ("a", "b"):
        Path(f"root/{name}").mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(f"root/{name}/x.png", "EPS")  # whose reader starts a program
    with pytest.raises(DataError, match=r"root/a/x\.png is not a complete image \(cannot identify"):
        FolderSet("root", 4)[0]


@pytest.mark.parametrize("key", ["best_model_path", "kth_best_model_path", "last_model_path", "best_k_models"])
def test_checkpoints_that_name_a_folder_to_be_deleted(key: str, tmp_path: Path) -> None:
    (tmp_path / "victim.ckpt").mkdir()
    (tmp_path / "link.ckpt").symlink_to(tmp_path / "victim.ckpt")
    for named in (tmp_path / "victim.ckpt", Path("victim.ckpt"), tmp_path / "link.ckpt"):
        state = {key: {str(named): 1.0} if key == "best_k_models" else str(named)}
        Path("x.ckpt").write_bytes(checkpoint(callbacks={"ModelCheckpoint": state}))
        with pytest.raises(CheckpointError, match="such values for callbacks"):
            read_checkpoint("x.ckpt")
    for other in ("gone.ckpt", f"{'n' * 3000}.ckpt", "\0.ckpt"):  # no folders
        state = {key: {other: 1.0} if key == "best_k_models" else other}
        Path("x.ckpt").write_bytes(checkpoint(callbacks={"ModelCheckpoint": state}))
        assert read_checkpoint("x.ckpt")["callbacks"] == {"ModelCheckpoint": state}
