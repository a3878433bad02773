"""The core of the tests on every supported Python that this machine has: ``pip install nox && nox``."""

import nox

CORE = ("cli", "data", "differentiable", "files", "metrics", "pipeline", "spaces", "strategies", "tasks")
"""What depends on the version of Python: parsing, files, dataclasses, and the tasks."""

nox.options.error_on_missing_interpreters = False


@nox.session(python=["3.11", "3.12", "3.13"])
def core(session: nox.Session) -> None:
    """Install the package and what its tests import, and run the quick tests of its core."""
    session.install("-e", ".", "pytest", "pytest-xdist", "hypothesis")
    session.run("pytest", "-q", "-m", "not slow", *(session.posargs or [f"tests/{name}" for name in CORE]))
