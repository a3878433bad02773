"""Damaged, foreign and malicious files: each ends in a typed error that names it, or in a valid load."""

import json
import math
import resource
import struct
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir

from lightning_nas.architecture import Architecture
from lightning_nas.cli.lightning import check_classes, class_paths
from lightning_nas.data.images import ArrayDataModule
from lightning_nas.distill.proxy import Proxy
from lightning_nas.errors import NASError
from lightning_nas.files.artifacts import read_tensors
from lightning_nas.files.checkpoints import CHECKPOINT_KEY, read_checkpoint
from lightning_nas.spaces.artifact import architecture_from_dict, build_space, load_architecture
from lightning_nas.spaces.darts.space import MAX_NODES
from tests.hostile import (
    ARCHITECTURES,
    CONFIG,
    ORIGINS,
    PNG,
    PROXIES,
    PROXY,
    checkpoint,
    http_server,
    images,
    located,
    malicious,
    members_of,
    nothing_executed,
    zipped,
)

LEAST_FILES = 10_000
MOST_MEMORY = 2**30
OUTCOMES: Counter[str] = Counter()
RAN: set[str] = set()
pytestmark = pytest.mark.slow
set_hypothesis_home_dir(Path(tempfile.gettempdir()) / "hypothesis")  # not the present folder
CHECKPOINT, IMAGES = checkpoint(), images()


def peak_memory() -> int:
    """Most bytes that this process has held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


GROWTH: list[int] = []
"""How many bytes each file has added to the peak: other tests of the same process may add more."""


@pytest.fixture(autouse=True)
def _nothing_executed() -> Iterator[None]:
    with nothing_executed():
        yield


def many(examples: int) -> settings:
    """So many examples, the same in every run."""
    return settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
    )


def put(path: str, data: bytes) -> None:
    """Write a file; one that takes the place of another at once would wait for the disk."""
    Path(path).unlink(missing_ok=True)
    Path(path).write_bytes(data)


def outcome(test: str, path: str, read: Callable[[], Any], check: Callable[[Any], None]) -> None:
    """Read a file: a typed error names it and is of a readable length, or what was read is valid."""
    RAN.add(test)
    message = None
    before = peak_memory()
    try:
        found = read()
    except NASError as error:
        message = str(error)
    GROWTH.append(peak_memory() - before)
    if message is None:
        check(found)
    else:
        assert Path(path).stem in message
        assert len(message) < 3000
    OUTCOMES["valid load" if message is None else "typed error"] += 1


# -- mutations --------------------------------------------------------------------------------------------------------

HUGE = "a number of 5000 digits"
DEEP: Any = 1
for level in range(300):
    DEEP = [DEEP] if level % 2 else {"class_path": DEEP}
VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 4, 65, 10**9, 2**63, -(2**63), 10**400, 0.5, 4.0, 1e308, math.nan, math.inf, HUGE),
    *("", "none", "skip_connect", "\ud800", "\0", "x" * 1000, [], {}, [[]], [None], ["a", 1], {"a": {}}, DEEP),
    *([10**9] * 5, list(range(100)), ["none"] * 9, {"normal": [["none"]] * 14}, "lightning_nas" + ".a" * 300 + ".A"),
    *("lightning_nas.spaces.base.SearchSpace", "lightning_nas.spaces.nasbench201.space.NASBench201Space", "os.system"),
    *(
        "lightning_nas.spaces.darts.space.DARTSSpace",
        "lightning_nas.\0.A",
        "lightning_nas..A",
        ".",
        "tests.hostile.Own",
    ),
]
KEYS = ["", "allowed", "cells", "cells_per_stage", "channels", "choices", "nodes", "operations", "partial_channels"]


@st.composite
def damaged(draw: st.DrawFn, whole: bytes, most: int = 3) -> bytes:
    """A file with a few bytes flipped, cut, inserted, repeated or replaced."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, most))):
        kind = draw(st.integers(0, 5))
        start = draw(st.integers(0, len(data)))
        if kind <= 1 and start < len(data):
            data[start] ^= draw(st.integers(1, 255))
        elif kind == 2:
            del data[start : start + draw(st.sampled_from([1, 2, 8, 10**6]))]
        elif kind == 3:
            data[start:start] = draw(st.binary(min_size=1, max_size=9))
        elif kind == 4:
            data[start:start] = data[start : start + draw(st.integers(1, 40))]
        else:
            number = draw(st.sampled_from([0, 1, 255, 2**15, 2**31 - 1, 2**32 - 1, 10**15, 2**63, 2**64 - 1]))
            data[start : start + 8] = number.to_bytes(8, draw(st.sampled_from(["little", "big"])))
    return bytes(data)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in JSON."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        yield from places(part, (*path, key))


@st.composite
def changed(draw: st.DrawFn, whole: bytes) -> bytes:
    """A JSON file with a few values replaced, removed or added, wherever they are."""
    content = json.loads(whole)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(list(places(content))))
        value = deepcopy(draw(st.sampled_from(VALUES) | st.integers(-3, 70) | st.floats() | st.text(max_size=5)))
        target = content
        for key in path[:-1]:
            target = target[key]
        if not path:
            content = value if draw(st.booleans()) else [content]
        elif draw(st.integers(0, 4)) == 0 and isinstance(target, dict):
            target[draw(st.sampled_from(KEYS))] = value
            target.pop(path[-1] if draw(st.booleans()) else None, None)
        else:
            target[path[-1]] = value
    return json.dumps(content).replace(json.dumps(HUGE), "9" * 5000).encode()


@st.composite
def rezipped(draw: st.DrawFn, members: dict[str, bytes], weak: list[str]) -> bytes:
    """An archive with right checksums and one part damaged, left out, doubled, replaced, renamed or packed."""
    parts = dict(members)
    name = draw(st.sampled_from([*weak * 4, *parts]))
    kind = draw(st.integers(0, 9))
    if kind <= 5:
        parts[name] = draw(damaged(parts[name]))
    elif kind == 6:
        parts[name] = draw(st.sampled_from([malicious(), b"", PNG, *parts.values()]))
    elif kind == 7:
        del parts[name]
    elif kind == 8:
        names = [name.upper(), f"{name}.npy", name.removesuffix(".npy"), f"b/{name}"]
        parts[draw(st.sampled_from(names))] = parts.pop(name)
    packed = zipfile.ZIP_DEFLATED if draw(st.integers(0, 9)) == 0 else zipfile.ZIP_STORED
    return zipped(parts, packed)


# -- many files -------------------------------------------------------------------------------------------------------


def check_architecture(found: Architecture) -> None:
    build_space(found.space).check(found)
    assert architecture_from_dict(json.loads(json.dumps(found.to_dict()))) == found
    assert hash(found) == hash(Architecture(found.space, found.choices))
    assert len(found.choices) <= 8 * MAX_NODES


def check_proxy(found: Proxy) -> None:
    n, channels, height, width = found.images.shape
    assert n == len(found.labels) == len(found.synthetic.groups) > 0
    assert channels == len(found.mean) == len(found.std) > 0 < height * width
    assert all(math.isfinite(value) for value in found.mean + found.std)
    assert 0 <= int(found.labels.min()) <= int(found.labels.max()) < found.num_classes
    assert all(isinstance(name, str) for name in found.class_names)


def check_checkpoint(found: dict[str, Any]) -> None:
    size = Path("x.ckpt").stat().st_size
    assert all(value.numel() * value.element_size() <= size for value in found["state_dict"].values())
    assert isinstance(class_paths(found[CHECKPOINT_KEY]["model"], "model"), dict)


def check_images(found: ArrayDataModule) -> None:
    images, labels = found.train_set.__getitems__(list(range(len(found.train_set))))
    assert images.dtype == torch.uint8
    assert images.shape[1:] == found.image_shape
    assert set(labels.tolist()) == set(range(found.num_classes))


@given(st.data())
@many(3500)
def test_architectures(data: st.DataObject) -> None:
    whole = data.draw(st.sampled_from(ARCHITECTURES))
    put("x.json", data.draw(changed(whole) | damaged(whole)))
    outcome("architecture", "x.json", lambda: load_architecture("x.json"), check_architecture)


@given(st.data())
@many(2500)
def test_proxies(data: st.DataObject) -> None:
    tensors, info = data.draw(st.sampled_from(PROXIES))
    which = data.draw(st.integers(0, 9))
    if which < 5:
        tensors = data.draw(damaged(tensors))
    elif which == 9:
        tensors, info = data.draw(st.sampled_from([(info, tensors), (info, info), (tensors, tensors)]))
    else:
        info = data.draw(changed(info) | damaged(info))
    put("x.safetensors", tensors)
    put("x.json", info)
    outcome("proxy", "x", lambda: Proxy.load("x.safetensors"), check_proxy)


@given(st.data())
@many(1000)
def test_headers_of_tensors(data: st.DataObject) -> None:
    whole = PROXY[0]
    size = int.from_bytes(whole[:8], "little")
    header = data.draw(changed(whole[8 : 8 + size]))
    claimed = data.draw(st.sampled_from([len(header)] * 8 + [0, 10**15, 2**64 - 1]))
    put("x.safetensors", struct.pack("<Q", claimed) + header + whole[8 + size :])

    def check(found: dict[str, torch.Tensor]) -> None:
        assert sum(tensor.nbytes for tensor in found.values()) <= len(whole)

    outcome("tensors", "x.safetensors", lambda: read_tensors("x.safetensors", repair=""), check)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with http_server() as url:
        yield url


@given(data=st.data())
@many(2500)
def test_checkpoints(server: str, data: st.DataObject) -> None:
    parts = members_of(CHECKPOINT)
    weak = [name for name in parts if name.endswith("data.pkl")]
    put("x.ckpt", data.draw(rezipped(parts, weak) if data.draw(st.integers(0, 3)) else damaged(CHECKPOINT)))
    asked = class_paths(CONFIG["model"], "model")
    place = located("x.ckpt", data.draw(st.sampled_from(ORIGINS)), server)

    def read() -> dict[str, Any]:
        check_classes(place, asked)
        return read_checkpoint(place)

    outcome("checkpoint", "x.ckpt", read, check_checkpoint)


@given(st.data())
@many(1500)
def test_images(data: st.DataObject) -> None:
    parts = members_of(IMAGES)
    put("x.npz", data.draw(rezipped(parts, []) if data.draw(st.integers(0, 3)) else damaged(IMAGES)))

    def read() -> ArrayDataModule:
        module = ArrayDataModule("x.npz", batch_size=1)
        _ = module.train_set
        _ = len(module.test_dataloader())
        return module

    # what is wrong with the labels is said of the training set, whose file the configuration names
    outcome("images", "", read, check_images)


def test_the_files_are_many_and_memory_stays_bounded() -> None:
    if len(RAN) < 5:
        pytest.skip("only a part of the files was read")
    print(dict(OUTCOMES))
    assert OUTCOMES.total() >= LEAST_FILES
    assert min(OUTCOMES.values()) > LEAST_FILES // 50
    assert sum(GROWTH) < MOST_MEMORY
