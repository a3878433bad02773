"""A line in the log that tells how far a long measurement is."""

import time

from lightning.pytorch.utilities import rank_zero_info

SECONDS = 10.0
"""Seconds between two lines."""


class ProgressLine:
    """Logs how much of a measurement is done, not more often than every ten seconds; a short one logs nothing.

    Args:
        what: What is measured.
        unit: What it consists of, in the plural.

    Example:
        ```python
        progress = ProgressLine("selection errors", "removals")
        progress(12, 54)  # after ten seconds: selection errors: 12 of 54 removals
        ```
    """

    def __init__(self, what: str, unit: str) -> None:
        self.what = what
        self.unit = unit
        self.last = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        """Log a line, if the last one is old enough.

        Args:
            done: Number of units that are done.
            total: Number of all units.
        """
        now = time.monotonic()
        if now - self.last >= SECONDS:
            self.last = now
            rank_zero_info(f"{self.what}: {done} of {total} {self.unit}")
