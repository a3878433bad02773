"""The wall-clock time of a run, which may have been interrupted."""

import time
from collections.abc import Iterable
from pathlib import Path

from lightning_nas.errors import ArtifactError
from lightning_nas.files.artifacts import read_json, write_json

FILE = ".wall_clock.json"
"""Name of the file in the run folder with the seconds so far."""


class RunClock:
    """Counts the wall-clock seconds of a run, over all its parts.

    What an interrupted part took is in a file, which is written between stages and where a part ends. Of a part that
    was killed outright, the time up to the last checkpoint counts: a later part goes on from there.

    Args:
        run_dir: Run folder.
        checkpoints: Checkpoints of the stages, as far as they are there.
        running: Whether there is anything left to do. To run a finished pipeline again takes no time of its run.

    Raises:
        ArtifactError: The file is damaged.
    """

    def __init__(self, run_dir: Path, checkpoints: Iterable[Path] = (), running: bool = True) -> None:
        self.path = run_dir / FILE
        self.running = running
        self._start = time.perf_counter()
        self._before = 0.0
        if self.path.is_file():
            repair = "Delete it; the time of the run so far is then not counted."
            written = read_json(self.path, repair=repair).get("seconds")
            if not isinstance(written, int | float) or isinstance(written, bool) or not written >= 0:
                raise ArtifactError(f"{self.path} is damaged: its seconds are {written!r:.50}. {repair}")
            saved = self.path.stat().st_mtime
            later = [path.stat().st_mtime - saved for path in checkpoints if path.is_file()]
            self._before = float(written) + max([0.0, *later])

    @property
    def seconds(self) -> float:
        """Seconds of all parts so far."""
        return self._before + (time.perf_counter() - self._start if self.running else 0.0)

    def save(self) -> None:
        """Write the seconds so far, unless the clock stands still."""
        if self.running:
            write_json(self.path, {"seconds": round(self.seconds, 2)})

    def stop(self) -> float:
        """End the run, and return its seconds."""
        self.save()
        self._before, self.running = round(self.seconds, 2), False
        return self._before
