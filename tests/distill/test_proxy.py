"""Proxies in files."""

from pathlib import Path

import pytest
import torch

from lightning_nas.distill.images import PlainImages
from lightning_nas.distill.proxy import Proxy
from lightning_nas.errors import ArtifactError
from lightning_nas.files.artifacts import write_tensors
from tests.helpers import stored


def make_proxy() -> Proxy:
    labels = torch.arange(6) % 3
    scheme = stored(PlainImages(), images=torch.randn(6, 1, 4, 4), labels=labels)
    return Proxy(scheme, ["a", "b", "c"], [0.5], [0.2], {"seed": 7})


def test_proxy_makes_the_round_trip(tmp_path: Path) -> None:
    proxy = make_proxy()
    again = Proxy.load(proxy.save(tmp_path / "proxy.safetensors"))
    assert torch.equal(again.images, proxy.images)
    assert torch.equal(again.labels, proxy.labels)
    assert (again.class_names, again.mean, again.info["seed"]) == (["a", "b", "c"], [0.5], 7)
    assert (again.num_classes, again.image_shape) == (3, (1, 4, 4))


def test_damaged_proxies_are_refused(tmp_path: Path) -> None:
    path = make_proxy().save(tmp_path / "proxy.safetensors")
    whole = path.read_bytes()
    for broken in (b"", whole[:20], whole[:-8], b"\x80\x04N." * 20):
        path.write_bytes(broken)
        with pytest.raises(ArtifactError, match="proxy.safetensors"):
            Proxy.load(path)
    path.unlink()
    with pytest.raises(ArtifactError, match="does not exist"):
        Proxy.load(path)
    write_tensors(path, {"images": torch.zeros(2, 1, 4, 4), "labels": torch.tensor([0, 7])})
    with pytest.raises(ArtifactError, match="not a proxy of 3 classes"):
        Proxy.load(path)
