"""What wandb has written for a run, read from the file that ``wandb sync`` uploads."""

import io
import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from wandb.proto import wandb_internal_pb2


def records(path: Path) -> Iterator[Any]:
    """The records of a ``.wandb`` file: blocks of 32 KiB with pieces of records, as in a LevelDB log."""
    data, at, whole = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        left = 2**15 - at % 2**15
        if left < 7:  # no room for a header
            at += left
            continue
        _, size, kind = struct.unpack_from("<IHB", data, at)
        whole += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # a whole record, or the last piece of one
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            whole = b""
            yield record


@dataclass
class Stored:
    """A W&B run as its file tells it."""

    folder: Path
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    artifacts: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None

    @classmethod
    def read(cls, folder: Path) -> "Stored":
        (path,) = folder.glob("*.wandb")
        stored = cls(folder)
        for record in records(path):
            for update in (*record.config.update, *record.run.config.update):
                stored.config[update.key] = json.loads(update.value_json)
            if record.HasField("history"):
                row: dict[str, Any] = {}
                for item in record.history.item:
                    at = row
                    *outer, last = item.nested_key or [item.key]
                    for key in outer:
                        at = at.setdefault(key, {})
                    at[last] = json.loads(item.value_json)
                stored.history.append(row)
            if record.HasField("artifact"):
                stored.artifacts[record.artifact.name] = record.artifact
            if record.HasField("exit"):
                stored.exit_code = record.exit.exit_code
        return stored

    def rows(self, key: str) -> list[dict[str, Any]]:
        return [row for row in self.history if key in row]

    def curve(self, key: str) -> list[tuple[int, float]]:
        return [(row["trainer/global_step"], row[key]) for row in self.rows(key)]

    def pictures(self, key: str) -> dict[str, Image.Image]:
        """By caption."""
        found = {}
        for row in self.rows(key):
            for name, caption in zip(row[key]["filenames"], row[key]["captions"], strict=True):
                found[caption] = Image.open(io.BytesIO((self.folder / "files" / name).read_bytes()))
        return found


def stored_runs(folder: Path) -> list[Stored]:
    """In the order of their beginning."""
    found = folder.glob("runs/wandb/offline-run-*")
    return [Stored.read(f) for f in sorted(found, key=lambda f: next(f.glob("*.wandb")).stat().st_ctime_ns)]
