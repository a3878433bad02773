"""Typed errors. Each message says what was received, what was expected and what repairs it."""

from pathlib import Path


class NASError(Exception):
    """Base of all errors that this library raises on purpose; the command line prints it without a traceback."""


class DataError(NASError):
    """The data cannot be used: missing, empty, of a wrong shape or type, or too small."""


class ConfigError(NASError):
    """A configuration asks for something that cannot work."""


class ArchitectureError(NASError):
    """A choice that is no point of its search space, or an architecture of another space."""


class ArtifactError(NASError):
    """A file handed from stage to stage is missing, truncated, foreign or of a newer schema."""


class CheckpointError(NASError):
    """A checkpoint of another task, or of a task with other components, than the configuration asks for."""


class TrainingError(NASError):
    """A training cannot go on: its loss or weights are not finite, or its processes disagree."""


class InterruptedTrainingError(NASError):
    """A training was asked to stop (SIGTERM) and did, with a checkpoint to go on from.

    Attributes:
        checkpoint: What it goes on from; None if the run keeps no checkpoints or has none yet.
        resume: Arguments of the command that goes on; None for those of the command that was stopped.
        exit_code: Of the process: 128 + 15, as of any program that SIGTERM ended.
    """

    exit_code = 143

    def __init__(self, message: str, checkpoint: Path | None = None) -> None:
        super().__init__(message)
        self.checkpoint = checkpoint
        self.resume: list[str] | None = None


class BudgetError(NASError):
    """More architectures were looked up than a budget allows."""


class FidelityError(NASError):
    """A proxy ranks architectures too badly to be searched on."""


class ExportError(NASError):
    """An exported network does not do what the original does, or cannot be run at all."""


class MissingDependencyError(NASError):
    """A package that one feature needs and the library does not is not installed, or cannot be imported.

    Args:
        package: Its name.
        wanted_by: What needs it.
        extra: The extra of this library that installs it.
    """

    def __init__(self, package: str, wanted_by: str, extra: str) -> None:
        super().__init__(
            f"Cannot import {package}, which {wanted_by} needs. Install what is missing: "
            f'pip install "lightning_nas[{extra}]"'
        )
