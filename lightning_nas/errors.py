"""Typed errors. Each message says what was received, what was expected and how to repair it."""

from pathlib import Path


class NASError(Exception):
    """Base class of the errors that this library raises on purpose; the command line shows no traceback."""


class DataError(NASError):
    """The data cannot be used: they are missing, empty, too small, or of a wrong shape or type."""


class ConfigError(NASError):
    """The configuration asks for something that cannot work."""


class ArchitectureError(NASError):
    """The choices are not a point of the search space, or the architecture belongs to another space."""


class ArtifactError(NASError):
    """A file that one stage hands to the next is missing, truncated, foreign or of a newer schema."""


class UnknownClassError(ArtifactError):
    """An artifact names a class that is not imported."""


class CheckpointError(NASError):
    """The checkpoint cannot be read, or belongs to another task or other components than the configuration."""


class TrainingError(NASError):
    """The training cannot continue: its loss or weights are not finite, or its processes disagree."""


class InterruptedTrainingError(BaseException):
    """The training was asked to stop (SIGTERM) and did.

    Like ``KeyboardInterrupt``, it is not an ``Exception``: a signal may arrive anywhere, and code that turns every
    exception into an error of its own, such as the reading of a damaged file, must let it pass.

    Args:
        message: What happened and how to resume.
        checkpoint: The checkpoint to resume from, or None if the run keeps no checkpoints or has none yet.

    Attributes:
        checkpoint: The checkpoint to resume from, or None.
        resume: Arguments of the command that resumes, or None for those of the command that was stopped.
        exit_code: Exit code of the process: 128 + 15, as for any program that SIGTERM ended.
    """

    exit_code = 143

    def __init__(self, message: str, checkpoint: Path | None = None) -> None:
        super().__init__(message)
        self.checkpoint = checkpoint
        self.resume: list[str] | None = None


class BudgetError(NASError):
    """More architectures were looked up than the budget allows."""


class FidelityError(NASError):
    """The proxy ranks architectures too badly to be searched on."""


class ExportError(NASError):
    """The exported network does not compute what the original does, or cannot be run at all."""


class MissingDependencyError(NASError):
    """An optional package is not installed, or cannot be imported.

    Args:
        package: Name of the package.
        wanted_by: The feature that needs it.
        extra: The extra of this library that installs it.
    """

    def __init__(self, package: str, wanted_by: str, extra: str) -> None:
        super().__init__(
            f"Cannot import {package}, which {wanted_by} needs. Install what is missing: "
            f'pip install "lightning_nas[{extra}]"'
        )
