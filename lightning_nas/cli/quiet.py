"""Which warnings and messages of Lightning don't matter to the user of the command line."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

NOISE = (
    "LightningCLI's args parameter is intended",  # a pipeline runs its stages in one process on purpose
    ".*isinstance\\(treespec, LeafSpec\\)",  # Lightning's use of torch
    ".*number of training batches .* is smaller than the logging interval",  # curves are those of epochs
    ".*but have no `val_dataloader`",  # a final training has no validation set unless it is asked for
    "Starting from v1.9.0, `tensorboardX` has been removed",  # curves go to CSV files
    ".*does not have many workers",  # small data sets are one tensor in memory
    "`LightningModule.configure_optimizers` returned `None`",  # a control has nothing to train
    "Using ModelCheckpoint with manual optimization and every_n_train_steps",  # a generation is saved when it is over
    "`training_step` returned `None`",  # a control has nothing to train
    ".*Experiment logs directory .* exists and is not empty",  # a resumed run
    ".*Checkpoint directory .* exists and is not empty",  # a resumed run
    "The dirpath has changed from",  # a resumed run
)
"""How warnings begin that don't matter here, as regular expressions."""


def is_of_use(record: logging.LogRecord) -> bool:
    """Whether a message of Lightning is no advertisement, and not that a training has come to its planned end."""
    said = record.getMessage()
    return "Tip:" not in said and not said.startswith("`Trainer.fit` stopped: `max_")


@contextmanager
def quiet(log: logging.Logger) -> Iterator[None]:
    """Let a log pass only warnings and errors."""
    before = log.level
    log.setLevel(logging.WARNING)
    try:
        yield
    finally:
        log.setLevel(before)
