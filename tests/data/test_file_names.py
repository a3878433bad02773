"""Names of many files, and the order in which folders are listed."""

import pickle
import tracemalloc
from pathlib import Path

import torch

from lightning_nas.data.file_names import FileNames
from lightning_nas.data.folders import SUFFIXES, FolderSet, image_names


def listed(folder: Path) -> list[str]:
    """The images below a folder, sorted as paths, without hidden ones."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and not path.is_dir())
    names = [path.relative_to(folder) for path in found]
    return [name.as_posix() for name in names if not any(p.startswith(".") or p == "__MACOSX" for p in name.parts)]


def test_folders_are_listed_in_the_order_of_their_paths(tmp_path: Path) -> None:
    names = ["a/1.png", "a.png", "a/b/2.JPG", "a/b.gif", "a-b/3.png", "B/4.png", "z.png/5.png", "é/6.tif", "a/note.txt"]
    hidden = [".x/1.png", "a/.2.png", "__MACOSX/3.png", "a/png", "a/..png"]
    for name in (*names, *hidden):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "link.png").symlink_to(tmp_path / "a.png")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nothing")
    (tmp_path / "linked").symlink_to(tmp_path / "a")
    found = list(image_names(tmp_path))
    assert found == listed(tmp_path)
    assert set(found) == {*names[:-1], "link.png", "gone.png"}


def test_paths_are_those_of_the_names() -> None:
    names = ["cat/1.png", "", "dog/\udcff.png", "dog/é.png"]
    files = FileNames(Path("root"), names)
    assert [files.name(i) for i in range(len(files))] == names
    assert list(files) == [Path("root") / name for name in names]
    chosen = pickle.loads(pickle.dumps(files.select(torch.tensor([3, 0, 3]))))
    assert list(chosen) == [Path("root") / names[i] for i in (3, 0, 3)]
    assert not FileNames()


def test_an_index_takes_less_than_150_bytes_per_file(tmp_path: Path) -> None:
    classes, each = 20, 200
    for c in range(classes):
        (tmp_path / f"class_{c:04}").mkdir()
        for i in range(each):
            (tmp_path / f"class_{c:04}" / f"ILSVRC2012_{c}_{i:08}.JPEG").touch()
    tracemalloc.start()
    images = FolderSet(tmp_path, 8)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(images) == classes * each
    assert images.labels.tolist() == [c for c in range(classes) for _ in range(each)]
    assert held < 60 * len(images)  # tensors, 24 bytes each, are not traced
    assert peak < 150 * len(images)
