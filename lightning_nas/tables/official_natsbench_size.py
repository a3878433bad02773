"""The table of NATS-Bench's size search space from its official download."""

from pathlib import Path

from lightning_nas.errors import ArchitectureError, DataError
from lightning_nas.spaces.natsbench_size import NATSBenchSizeSpace
from lightning_nas.tables import official_nats as nats
from lightning_nas.tables.space_table import write_space_table

LENGTHS = {"01": "01", "12": "12", "90": "90"}
"""Epochs of the three kinds of trainings, as the files name them."""

_REPAIR = "Download NATS-sss-v1_0-50262-simple.tar and unpack it again."


def natsbench_size_from_download(path: str | Path, to: str | Path) -> Path:
    """Write the npz file of a ``SpaceTable`` for ``NATSBenchSizeSpace`` from NATS-Bench's folder.

    The folder is the unpacked ``NATS-sss-v1_0-50262-simple.tar``, with one file per architecture. Nothing in the files
    is executed.

    The columns are named as those of ``nasbench201_from_download``, with 1, 12 and 90 epochs: ``cifar10_val_90``,
    ``cifar10_test_90`` and so on, accuracies in percent at the end of trainings, ``(architectures, seeds)``;
    ``cifar10_params``, ``cifar10_flops`` (in millions) and ``cifar10_train_seconds_90``; also for ``cifar100`` and
    ``imagenet16``.

    References:
        1. Dong, Liu, Musial, Gabrys: NATS-Bench: Benchmarking NAS Algorithms for Architecture Topology and Size,
           TPAMI 2021, https://arxiv.org/abs/2009.00437

    Args:
        path: Path of the folder.
        to: Path of the npz file.

    Returns:
        The path of the npz file.

    Raises:
        DataError: The folder is missing or damaged, or it lacks a training.
        ArtifactError: The npz file cannot be written.

    Example:
        ```python
        natsbench_size_from_download("NATS-sss-v1_0-50262-simple", "natsbench_size.npz")
        ```
    """
    path, space = Path(path), NATSBenchSizeSpace()
    names, results = nats.folder(path, _REPAIR)
    try:
        architectures = [space.parse(name) for name in names]
    except (ArchitectureError, AttributeError) as error:
        raise DataError(f"{path} lists something that is not an architecture ({error!s:.200}). {_REPAIR}") from None
    if len(set(names)) != len(names):
        raise DataError(f"{path} lists an architecture twice. {_REPAIR}")
    return write_space_table(to, architectures, arch=names, **nats.columns(names, results, LENGTHS, path, _REPAIR))
