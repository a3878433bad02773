"""Tiny runs of benchmarks, and what the objects that they build do, to be compared with what they say."""

import io
from contextlib import redirect_stdout
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from lightning_nas.evaluation import ShortTraining


def stated(training: ShortTraining) -> dict[str, Any]:
    """What short trainings do, apart from data, augmentations and seed."""
    names = ("steps", "repeats", "batch_size", "channels", "cells", "image_size", "learning_rate", "online", "classes")
    return {name: getattr(training, name) for name in names}


def in_this_process(monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> None:
    """Let a benchmark run itself in this process where it would start another one to measure memory."""

    def run(command: list[str], **options: Any) -> SimpleNamespace:
        assert command[1:3] == ["-m", module.__name__]
        with redirect_stdout(io.StringIO()) as printed:
            module.main(command[3:])
        return SimpleNamespace(stdout=printed.getvalue())

    monkeypatch.setattr(module.subprocess, "run", run)


TINY_EVOLUTION = [
    *("--seeds=1", "--processes=1", "--channels=2", "--steps=10", "--generations=1", "--population=4"),
    *("--shift_steps=1", "--architectures=5", "--resamples=5", "--brief_steps=2"),
]
"""Options of ``benchmarks.evolve``."""
