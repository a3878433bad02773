"""Output folders of benchmarks, whose results are kept and not measured again."""

import hashlib
import json
from pathlib import Path
from typing import Any

from lightning_nas.errors import ArtifactError


def digest(path: str) -> str:
    """First 16 digits of the SHA-256 of a file."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]


def claim(folder: Path, settings: dict[str, Any]) -> None:
    """Create an output folder, or check that its results are those of the same settings.

    Args:
        folder: The folder.
        settings: JSON values.

    Raises:
        ArtifactError: It has results of others.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "settings.json"
    known = json.loads(path.read_text()) if path.is_file() else {}
    others = not path.is_file() and any(folder.iterdir())
    different = [key for key in {**known, **settings} if known.get(key) != settings.get(key)]
    if others or (known and different):
        there, here = ({key: each.get(key) for key in different} for each in (known, settings))
        raise ArtifactError(f"{folder} has results of other settings: {there}, not {here}. Name another folder.")
    path.write_text(json.dumps(settings))
