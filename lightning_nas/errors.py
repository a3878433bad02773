"""Typed errors. Each message says what was received, what was expected and what repairs it."""


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


class ExportError(NASError):
    """An exported network does not do what the original does, or cannot be run at all."""
