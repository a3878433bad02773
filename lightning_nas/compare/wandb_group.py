"""A study on Weights & Biases: its runs form a group, in which one more run has the table and the pictures."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, WandbLogger

from lightning_nas.cli.lightning import build
from lightning_nas.compare.runs import Run, named_class
from lightning_nas.pipeline.logs import finish_wandb


@contextmanager
def grouped(study: str, name: str) -> Iterator[None]:
    """Let all runs that start in the body be of one group, and have a name, where their loggers give them none.

    Args:
        study: Name of the study, and of the group.
        name: Name of the runs.
    """
    wanted = {"WANDB_RUN_GROUP": study, "WANDB_NAME": name}
    before = {key: os.environ.get(key) for key in wanted}
    os.environ.update({key: value for key, value in wanted.items() if before[key] is None})
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)


def logger_of(runs: Sequence[Run]) -> Any:
    """The configuration of the first logger for Weights & Biases of a study; None if there is none.

    Args:
        runs: The runs.
    """
    for run in runs:
        for stage in run.pipeline().stages:
            for each in stage.config["trainer"]["logger"]:
                kind = named_class(each["class_path"] if isinstance(each, dict) else each, Logger)
                if kind is not None and issubclass(kind, WandbLogger):
                    return each
    return None


def log_table(config: Any, study: str, lines: Sequence[Sequence[str]], pictures: Sequence[Path]) -> None:
    """Log the table and the pictures of a study in a run of its own.

    Args:
        config: What ``logger_of`` returned.
        study: Name of the study.
        lines: The table, its head first.
        pictures: Files of the pictures.
    """
    with grouped(study, "comparison"):
        logger: WandbLogger = build(Logger, config)
        logger.log_table("comparison", columns=list(lines[0]), data=[list(line) for line in lines[1:]])
        logger.log_image("pictures", [str(path) for path in pictures])
        finish_wandb()
