"""Image files as people have them: deep, transparent, lying on their side, hidden, broken."""

import logging
import os
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_nas.data.folders import FolderSet
from lightning_nas.data.images import FolderDataModule
from lightning_nas.errors import ConfigError, DataError
from tests.data.fake import folders, pixels, refused

GREY = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4


def tiff(data: bytes, bits: int, kind: int, zero: int = 1) -> bytes:
    """A TIFF file of 8x8 grey values: 1 stands for unsigned, 2 for signed integers, 3 for floats.

    If ``zero`` is 0, the value 0 is white. If ``bits`` is 8, every value has an alpha that it is multiplied by.
    """
    alpha = bits == 8
    each = bits | bits << 16 if alpha else bits
    tags = [(256, 3, 8), (257, 3, 8), (258, 3, each), (259, 3, 1), (262, 3, zero), (273, 4, 8), (277, 3, 1 + alpha)]
    tags += [(278, 3, 8), (279, 4, len(data)), *([(338, 3, 1)] if alpha else [(339, 3, kind)])]
    counts = {258: 1 + alpha}
    entries = b"".join(struct.pack("<HHII", tag, form, counts.get(tag, 1), value) for tag, form, value in tags)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + bytes(4)


def twelve_bits(values: np.ndarray[Any, Any]) -> bytes:
    """Pack two values into three bytes."""
    text = "".join(f"{value:012b}" for value in values.flatten())
    return bytes(int(text[i : i + 8], 2) for i in range(0, len(text), 8))


def write(path: Path, content: bytes | Image.Image, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        content.save(path, **options)
    return path


def read(path: Path, **options: Any) -> torch.Tensor:
    """The only image of a folder of classes."""
    (image,) = FolderSet(path.parent.parent, 8, **options).__getitems__([0])[0]
    return image


DEEP: dict[str, Any] = {
    "16.png": Image.fromarray(GREY.astype(np.uint16) * 257),
    "16.tif": Image.fromarray(GREY.astype(np.uint16) * 257),
    "12.tif": tiff(twelve_bits(np.rint(GREY * (4095 / 255)).astype(int)), 12, 1),
    "16 inverted.tif": tiff((65535 - GREY.astype("<u2") * 257).tobytes(), 16, 1, zero=0),
    "16.pgm": b"P5 8 8 65535\n" + (GREY.astype(np.uint16) * 257).astype(">u2").tobytes(),
    "12.pgm": b"P5 8 8 4095\n" + np.rint(GREY * (4095 / 255)).astype(">u2").tobytes(),
    "float.tif": Image.fromarray((GREY / 255).astype(np.float32)),
    "signed 32.tif": tiff(GREY.astype("<i4").tobytes(), 32, 2),
    "signed 16.tif": tiff(GREY.astype("<i2").tobytes(), 16, 2),
    "8.png": Image.fromarray(GREY),
}


@pytest.mark.parametrize("name", DEEP)
def test_images_of_any_depth_are_the_same(tmp_path: Path, name: str) -> None:
    image = read(write(tmp_path / "a" / name, DEEP[name]))
    assert image.dtype == torch.uint8
    assert torch.equal(image, torch.from_numpy(GREY).expand(3, 8, 8))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (
            "f.tif",
            Image.fromarray(GREY.astype(np.float32)),
            "has float32 pixels from 0 to 252;.*Rescale",
        ),
        ("n.tif", tiff((GREY.astype("<i2") - 9).tobytes(), 16, 2), "has int32 pixels from -9 to 243"),
        ("i.tif", tiff((GREY.astype("<i4") * 257).tobytes(), 32, 2), "has int32 pixels from 0 to 64764"),
        ("d.tif", tiff((GREY / 255).astype("<f8").tobytes(), 64, 3), "is not a complete image"),
    ],
)
def test_images_of_unknown_scale_are_refused_by_name(tmp_path: Path, name: str, content: Any, said: str) -> None:
    with pytest.raises(DataError, match=rf"a/{name} {said}"):
        read(write(tmp_path / "a" / name, content))


def transparent(mode: str) -> Image.Image:
    """An image whose left half is transparent; the right half is grey of the value 100."""
    alpha = Image.fromarray(np.repeat([[0] * 4 + [255] * 4], 8, 0).astype(np.uint8))
    image = Image.new("LA" if mode == "LA" else "RGBA", (8, 8), 100 if mode == "LA" else (100, 100, 100))
    image.putalpha(alpha)
    return image.convert("P") if mode == "P" else image


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_parts_show_the_background(tmp_path: Path, mode: str, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "a" / "x.png", transparent(mode))
    with caplog.at_level(logging.WARNING):
        image = read(path)
    assert image[:, :, :4].eq(255).all()
    assert image[:, :, 4:].eq(100).all()
    assert "1 of 1 images in" in caplog.text
    assert "(255, 255, 255)" in caplog.text
    assert read(path, background="#000a14")[:, 0, 0].tolist() == [0, 10, 20]


def test_a_transparent_grey_value_shows_the_background(tmp_path: Path) -> None:
    for name, values in (("8", GREY), ("16", GREY.astype(np.uint16) * 257)):
        path = write(tmp_path / name / "a" / "x.png", Image.fromarray(values), transparency=int(values[0, 1]))
        image = read(path, background="red")
        assert image[:, 0, 1].tolist() == [255, 0, 0]
        assert image[:, 0, 2].tolist() == [8, 8, 8]


def test_grey_that_is_multiplied_by_its_alpha_is_divided_by_it(tmp_path: Path) -> None:
    pairs = np.stack([np.full_like(GREY, 50), np.full_like(GREY, 128)], -1)
    image = read(write(tmp_path / "a" / "x.tif", tiff(pairs.tobytes(), 8, 1)))
    assert (image.int() - (50 + 127)).abs().max() <= 1


def test_an_opaque_alpha_channel_is_not_mentioned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    image = read(write(tmp_path / "a" / "x.png", Image.fromarray(GREY).convert("RGBA")), background="red")
    assert torch.equal(image, torch.from_numpy(GREY).expand(3, 8, 8))
    assert not caplog.text


def test_the_background_is_said_once_and_must_be_a_colour(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for part in ("train", "test"):
        for name in ("a", "b"):
            for i in range(2):
                write(tmp_path / part / name / f"{i}.png", transparent("RGBA"))
    data = FolderDataModule(str(tmp_path), image_size=8, stream=True)
    assert data.mean[0] > 0.6
    _ = [data.train_set[0], data.train_set[3]]
    assert caplog.text.count("transparent parts") == 1
    with pytest.raises(ConfigError, match="background is 'nothing'; it must be a colour"):
        FolderDataModule(str(tmp_path), image_size=8, background="nothing")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_upright(tmp_path: Path, orientation: int) -> None:
    upright = Image.fromarray(np.kron(np.array([[0, 80], [160, 240]], np.uint8), np.ones((16, 16), np.uint8)))
    # the inverse of what a viewer does
    turn = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}.get(orientation)
    stored = upright if turn is None else upright.transpose(Image.Transpose(turn))
    exif = stored.getexif()
    exif[0x0112] = orientation
    image = read(write(tmp_path / "a" / "x.jpg", stored, exif=exif, quality=95))
    corners = image[0, [1, 1, 6, 6], [1, 6, 1, 6]].int()
    assert (corners - torch.tensor([0, 80, 160, 240])).abs().max() < 12


def test_hidden_files_and_folders_are_skipped(tmp_path: Path) -> None:
    root = Path(folders(tmp_path / "root", {"train/cat": pixels(4), "train/dog": pixels(4)}))
    for name in ("cat/._000.png", "cat/.DS_Store", "cat/.ipynb_checkpoints/0.png", "cat/__MACOSX/1.png"):
        write(root / "train" / name, b"no image")
    for name in (".ipynb_checkpoints", "__MACOSX"):
        write(root / "train" / name / "x.png", b"no image")
    (root / "train" / "cat" / "folder.png").mkdir()
    data = FolderDataModule(str(root), image_size=8)
    assert (len(data.train_set), data.class_names) == (8, ["cat", "dog"])


@pytest.mark.parametrize("options", [{}, {"num_workers": 1}, {"stream": True}], ids=str)
def test_all_files_that_cannot_be_used_are_counted(tmp_path: Path, options: dict[str, Any]) -> None:
    root = Path(folders(tmp_path / "root", {"train/cat": pixels(9), "train/dog": pixels(4)}))
    for i in range(7):
        (root / "train" / "cat" / f"{i:03d}.png").write_bytes(b"no image")
    said = refused(
        FolderDataModule(str(root), image_size=8, **options), "7 of 13 image files in .*train cannot be used"
    )
    assert [f"cat/{i:03d}.png" in said for i in range(7)] == [True] * 5 + [False] * 2
    assert said.endswith("And 2 more.")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_files_that_are_not_regular_are_named_and_not_waited_for(tmp_path: Path) -> None:
    root = Path(folders(tmp_path / "root", {"train/cat": pixels(4), "train/dog": pixels(4)}))
    os.mkfifo(root / "train" / "cat" / "pipe.png")
    (root / "train" / "cat" / "broken.png").symlink_to("nowhere")
    said = refused(
        FolderDataModule(str(root), image_size=8), r"2 of 10 image files.*broken\.png is not a complete.*not a reg"
    )
    assert "pipe.png" in said


def test_files_that_are_deleted_later_are_named(tmp_path: Path) -> None:
    root = Path(folders(tmp_path / "root", {"train/cat": pixels(4), "train/dog": pixels(4)}))
    data = FolderDataModule(str(root), image_size=8, stream=True)
    images = data.train_set
    shutil.rmtree(root / "train" / "dog")
    with pytest.raises(DataError, match=r"4 of 8 image files.*dog/000\.png"):
        images.__getitems__(list(range(8)))
