"""Numbers in few bits: exact integers, affine ones within half a step, and bytes that are those of the file."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lightning_nas.distill.bases import HallucinatedBases
from lightning_nas.distill.images import Noise, PlainImages
from lightning_nas.distill.proxy import Proxy
from lightning_nas.distill.relations import RelationMappings
from lightning_nas.distill.storage import BITS, decode, encode, pack, stored_bytes, unpack
from lightning_nas.errors import ArtifactError, ConfigError
from lightning_nas.files.artifacts import read_json, write_json
from tests.helpers import started

X, Y = torch.randn(30, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(30) % 3
SCHEMES: dict[str, Any] = {
    "images": lambda: PlainImages(3),
    "small images": lambda: PlainImages(3, downscale=2),
    "scheme 1": lambda: HallucinatedBases(3, hallucinators=2, noise=0.05),
    "scheme 2": lambda: RelationMappings(8, mappings=6),
}


def proxy(name: str, bits: int) -> Proxy:
    return Proxy(started(SCHEMES[name](), X, Y), ["a", "b", "c"], [0.5] * 3, [0.2] * 3, {}, bits)


@pytest.mark.parametrize("bits", [*range(1, 17), 32])
def test_integers_make_the_round_trip(bits: int) -> None:
    for count in (1, 2, 3, 5, 7, 8, 9, 31, 64):
        codes = torch.randint(2**bits, (count,), generator=torch.Generator().manual_seed(count))
        codes[-1] = 2**bits - 1
        packed = pack(codes, bits)
        assert packed.dtype == torch.uint8
        assert len(packed) == (count * bits + 7) // 8
        assert torch.equal(unpack(packed, bits, count), codes)
        with pytest.raises(ValueError, match=f"{count + 8} integers of {bits} bits take"):
            unpack(packed, bits, count + 8)


def test_the_order_of_bits_is_that_of_reading() -> None:
    assert pack(torch.tensor([1, 2, 3]), 3).tolist() == [0b00101001, 0b10000000]
    assert pack(torch.tensor([[0b1100], [0b1010]]), 4).tolist() == [0b11001010]


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("dim", [0, 1, 3])
def test_values_are_within_half_a_step(bits: int, dim: int) -> None:
    values = 3 * torch.randn(4, 3, 5, 7, generator=torch.Generator().manual_seed(bits)) - 1
    values[:, 1] = 0.25  # a channel without a range
    written, storage = encode({"x": values}, bits, {"x": dim})
    lowest, step = written["x.range"].unbind(1)
    shape = [-1 if each == dim else 1 for each in range(4)]
    error = (decode(written, storage)["x"] - values).abs()
    assert bool((error <= step.view(shape) * (0.5 + 1e-5) + 1e-6).all())
    rows = values.transpose(0, dim).flatten(1)
    torch.testing.assert_close(lowest, rows.amin(1), rtol=0, atol=0)
    torch.testing.assert_close(step, (rows.amax(1) - rows.amin(1)) / (2**bits - 1))
    assert stored_bytes(written) == (420 * bits + 7) // 8 + 8 * values.shape[dim]
    if dim == 1:
        assert torch.equal(decode(written, storage)["x"][:, 1], values[:, 1])


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("name", SCHEMES)
def test_bytes_are_those_of_the_file_and_what_is_read_is_what_was_rounded(name: str, bits: int, tmp_path: Path) -> None:
    made = proxy(name, bits)
    path = made.save(tmp_path / "proxy.safetensors")
    read, file = Proxy.load(path), load_file(path)
    assert made.stored_bytes == read.stored_bytes == sum(t.numel() * t.element_size() for t in file.values())
    assert read.bits == bits
    assert torch.equal(read.images, made.rounded().images)
    assert torch.equal(read.labels, made.labels)
    assert torch.equal(read.images, made.images) == (bits == 32)
    assert read.image_shape == (3, 8, 8)


def test_fewer_bits_take_fewer_bytes_and_err_more() -> None:
    made = [proxy("images", bits) for bits in BITS]
    sizes = [each.stored_bytes for each in made]
    errors = [float((each.rounded().images - each.images).abs().mean()) for each in made]
    assert sizes == sorted(set(sizes))
    assert errors == sorted(set(errors), reverse=True)
    # 9 images, their labels in 2 bits, and the ranges of three channels
    assert sizes[:3] == [9 * 192 * bits // 8 + 3 + 24 for bits in (2, 3, 4)]


def test_files_without_a_storage_are_read(tmp_path: Path) -> None:
    path = proxy("images", 32).save(tmp_path / "proxy.safetensors")
    info = read_json(path.with_suffix(".json"), repair="")
    del info["storage"]
    write_json(path.with_suffix(".json"), info)
    read = Proxy.load(path)
    assert read.bits == 32
    assert torch.equal(read.images, proxy("images", 32).images)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda s, t: s.update(bits=9), "9 bits instead of one of"),
        (lambda s, t: s.update(bits=[8]), "bits instead of one of|unhashable"),
        (lambda s, t: s.pop("packed"), "packed"),
        (lambda s, t: s["packed"]["images"].update(shape=[10**9, 3, 8, 8]), "numbers"),
        (lambda s, t: s["packed"]["images"].update(shape=[9, 3, 8, 9]), "integers of 4 bits take"),
        (lambda s, t: s["packed"]["images"].update(shape=[-9, -3, 8, 8]), "is described as"),
        (lambda s, t: s["packed"]["images"].update(shape=[9, 3, 8.0, 8]), "is described as"),
        (lambda s, t: s["packed"]["images"].update(bits=0), "is described as"),
        (lambda s, t: s["packed"]["images"].update(dim=4), "images.range is"),
        (lambda s, t: s["packed"].update(other=s["packed"]["images"]), "other"),
        (lambda s, t: t.pop("images.range"), "images.range"),
        (lambda s, t: t.update({"images.range": torch.zeros(2, 2)}), "images.range is"),
        (lambda s, t: t.update(images=t["images"].float()), "not torch.float32"),
    ],
)
def test_damaged_storages_are_refused(change: Any, match: str, tmp_path: Path) -> None:
    path = proxy("images", 4).save(tmp_path / "proxy.safetensors")
    tensors, info = load_file(path), read_json(path.with_suffix(".json"), repair="")
    change(info["storage"], tensors)
    save_file(tensors, path)
    write_json(path.with_suffix(".json"), info)
    with pytest.raises(ArtifactError, match=f"not a proxy.*({match})"):
        Proxy.load(path)


def test_few_numbers_stay_as_they_are() -> None:
    few = {"scale": torch.tensor(1.5), "bias": torch.tensor([0.1, -0.3])}  # a range of each would take more bytes
    assert all(torch.equal(value, few[name]) for name, value in decode(*encode(few, 2, {})).items())


@pytest.mark.parametrize("bits", [4, 16])
def test_numbers_that_are_not_finite_are_refused(bits: int) -> None:
    with pytest.raises(ValueError, match="images has values that are not finite"):
        encode({"images": torch.tensor([[0.0, float("nan")]])}, bits, {})


def test_numbers_beyond_float16_are_refused(tmp_path: Path) -> None:
    made = proxy("images", 16)
    made.scheme.get_parameter("images").data[0, 0, 0, 0] = 1e6
    with pytest.raises(ConfigError, match="images has a value of 1e\\+06, too large for float16. Use bits 32 or 8"):
        made.save(tmp_path / "proxy.safetensors")


@pytest.mark.parametrize("scheme", [PlainImages(3, downscale=2), Noise(3, downscale=2)])
def test_images_are_stored_small_and_used_large(scheme: PlainImages) -> None:
    def averages(images: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(images, 2)

    made = started(scheme, X, Y)
    assert made.get_parameter("images").shape == (9, 3, 4, 4)
    assert made.proxy().images.shape == made.proxy_shape() == (9, 3, 8, 8)
    if type(scheme) is PlainImages:
        whole = started(PlainImages(3), X, Y)
        assert torch.equal(made.get_parameter("images"), averages(whole.get_parameter("images")))
