"""The table of NAS-Bench-Macro from its official download."""

import json
import math
import reprlib
from pathlib import Path
from typing import Any

from lightning_nas.errors import ArchitectureError, DataError
from lightning_nas.spaces.nasbench_macro import NASBenchMacroSpace
from lightning_nas.tables.space_table import write_space_table

TRIALS = 3
"""Number of trainings of every network."""

_LARGEST = 2**24
"""Size in bytes of the largest file that is read; the published one has about a tenth of it."""

_REPAIR = "Download nas-bench-macro_cifar10.json of NAS-Bench-Macro again."

_Results = tuple[list[float], int, int]


def nasbench_macro_from_json(path: str | Path, to: str | Path) -> Path:
    """Write the npz file of a ``SpaceTable`` for ``NASBenchMacroSpace`` from ``nas-bench-macro_cifar10.json``.

    The table has one row per network: the file repeats the results of a network for all architectures that describe it.
    The columns are:

    - ``cifar10_test_50``, ``(networks, 3)``: test accuracies in percent of three trainings of 50 epochs, each the best
      of all epochs, as published; there are no validation accuracies
    - ``cifar10_params``: number of parameters
    - ``cifar10_flops``: multiply-accumulates of convolutions and linear layers in millions, as published

    References:
        1. Su, Huang, Li, You, Wang, Qian, Zhang, Xu: Prioritized Architecture Sampling with Monto-Carlo Tree Search,
           CVPR 2021, https://arxiv.org/abs/2103.11922

    Args:
        path: Path of the file.
        to: Path of the npz file.

    Returns:
        The path of the npz file.

    Raises:
        DataError: The file is missing, damaged or a different one.
        ArtifactError: The npz file cannot be written.

    Example:
        ```python
        nasbench_macro_from_json("nas-bench-macro_cifar10.json", "nasbench_macro.npz")
        ```
    """
    path, space = Path(path), NASBenchMacroSpace()
    found: dict[str, _Results] = {}
    for name, content in _content(path).items():
        try:
            key, results = space.key(space.parse(name)), _results(content)
        except (ArchitectureError, ValueError, TypeError, LookupError) as error:
            raise DataError(
                f"{name!r:.50} of {path} cannot be used ({type(error).__name__}: {error!s:.200}). {_REPAIR}"
            ) from None
        if found.setdefault(key, results) != results:
            raise DataError(f"{name} of {path} has other results than the same network elsewhere. {_REPAIR}")
    names = sorted(found)
    accuracies, parameters, flops = zip(*(found[name] for name in names), strict=True)
    return write_space_table(
        to,
        [space.parse(name) for name in names],
        arch=names,
        cifar10_test_50=accuracies,
        cifar10_params=parameters,
        cifar10_flops=[each / 1e6 for each in flops],
    )


def _content(path: Path) -> dict[str, Any]:
    """The results by the names of architectures.

    Raises:
        DataError: The file is missing or damaged, or holds something else.
    """
    try:
        size = path.stat().st_size
        if size > _LARGEST:
            raise ValueError(f"it has {size} bytes, more than {_LARGEST}")
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read ({type(error).__name__}: {error!s:.200}). {_REPAIR}") from None
    if not isinstance(content, dict) or not content:
        raise DataError(f"{path} has no architectures with their results, but {reprlib.repr(content)}. {_REPAIR}")
    return content


def _results(content: Any) -> _Results:
    """Accuracies, parameters and multiply-accumulates of an architecture.

    Raises:
        LookupError: One is missing.
        TypeError: One is of a wrong type.
        ValueError: One has an impossible value.
    """
    accuracies = [float(each) for each in content["test_acc"]]
    parameters, flops = int(content["params"]), int(content["flops"])
    if len(accuracies) != TRIALS or not all(math.isfinite(each) and 0 <= each <= 100 for each in accuracies):
        raise ValueError(f"the accuracies {reprlib.repr(accuracies)}; expected {TRIALS} percentages")
    if min(parameters, flops) < 1:
        raise ValueError(f"{parameters} parameters and {flops} multiply-accumulates")
    return accuracies, parameters, flops
