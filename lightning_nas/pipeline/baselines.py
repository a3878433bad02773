"""Standard networks that a pipeline trains beside the found one: how they are named, and what is known of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lightning_nas.baselines.fit import COUNTED, FittedResNet, fit_resnet
from lightning_nas.baselines.resnet import CIFARResNet
from lightning_nas.errors import ConfigError, NASError
from lightning_nas.files.artifacts import read_json, write_json
from lightning_nas.metrics.network_costs import NetworkCosts

DEFAULT = ({"fit_to": "macs"}, {"fit_to": "parameters"})
"""The baselines of a pipeline that names none."""

LATENCY = "latency_ms"
"""Name of the cost that takes time to measure."""

FILE = "network.json"
"""Name of the file with what is known of a baseline, in the folder of its first training."""

_FITTED = f"{FittedResNet.__module__}.{FittedResNet.__qualname__}"
_WITHOUT = {"auxiliary_weight": 0.0, "drop_path": 0.0, "network_arguments": None, "initial_weights": None}
"""Arguments of a task that are for networks of architectures only, as other networks have them."""


@dataclass(frozen=True)
class Baseline:
    """A standard network that is trained like the found one.

    Attributes:
        name: Name of the stage of its first training.
        path: File with what is known of it.
        cost: The cost that is fitted to that of the found network; None for a network that was given.
        network: The network, as in a configuration of ``TrainTask``.
    """

    name: str
    path: Path
    cost: str | None
    network: Any


def read_entries(name: str, given: Any, run_dir: Path) -> list[Baseline]:
    """Read the baselines of a stage.

    Args:
        name: Name of the stage.
        given: The value of its key ``baselines``: a list of ``{fit_to: macs}``, ``{fit_to: parameters}``, class paths,
            and mappings with ``class_path``; null for none.
        run_dir: Run folder.

    Raises:
        ConfigError: An entry is something else, or the same cost is fitted twice.
    """
    place = f"stages.{name}.baselines"
    entries = list(given or ()) if isinstance(given, list | tuple | None) else [given]
    found: list[Baseline] = []
    for i, entry in enumerate(entries):
        if isinstance(entry, Mapping) and set(entry) == {"fit_to"} and entry["fit_to"] in COUNTED:
            cost = str(entry["fit_to"])
            folder = f"resnet_{cost}"
            network: Any = {"class_path": _FITTED, "init_args": {"path": str(run_dir / folder / FILE)}}
        elif (isinstance(entry, str) and entry) or (isinstance(entry, Mapping) and "class_path" in entry):
            cost, folder, network = None, f"baseline_{i}", entry
        else:
            raise ConfigError(
                f"{place} has {entry!r:.200}; expected is a list of {{fit_to: macs}} or {{fit_to: parameters}} (a "
                "ResNet that costs as much as the found network), class paths of networks, and mappings with "
                "class_path and init_args. [] leaves standard networks out."
            )
        if folder in [each.name for each in found]:
            raise ConfigError(f"{place} has {entry} twice. Remove one of them.")
        found.append(Baseline(folder, run_dir / folder / FILE, cost, network))
    return found


def adapt(arguments: dict[str, Any], baseline: Baseline) -> None:
    """Turn the arguments of a training of the found architecture into those of a baseline, in place.

    Args:
        arguments: Arguments of the task. Those that only networks of architectures have are reset.
        baseline: The baseline.
    """
    arguments |= {key: value for key, value in _WITHOUT.items() if key in arguments}
    arguments |= {"architecture": None, "network": baseline.network}


def fit(
    baseline: Baseline, found: Mapping[str, int], costs: NetworkCosts, constraints: Mapping[str, float], others: Any
) -> dict[str, Any]:
    """Fit a residual network to the found one, and write what is known of it.

    Args:
        baseline: A baseline that is fitted.
        found: ``parameters`` and ``macs`` of the found network.
        costs: Knows images and classes, and measures latency and memory.
        constraints: Limits on costs.
        others: What is known of the baselines so far.

    Returns:
        The content of the file: ``label``; ``size``, ``parameters`` and ``macs``, or the reason why there is no such
        network as ``skipped``.
    """
    assert baseline.cost is not None
    shape, classes = costs.size["image_shape"], costs.size["num_classes"]
    size: Any = fit_resnet(
        *(baseline.cost, found[baseline.cost], shape, classes),
        constraints=constraints,
        measure=costs.of_network,
    )
    label = f"ResNet of equal {'MACs' if baseline.cost == 'macs' else baseline.cost}"
    same = [each["label"] for each in others if size is not None and each.get("size") == size]
    if size is None:
        limits = f", within the constraints {dict(constraints)}" if constraints else ""
        reason = (
            f"No ResNet has at most {found[baseline.cost]:,} {baseline.cost}, like the found network{limits}: even one "
            "block per stage and one channel are more."
        )
        return _write(baseline, {"label": label, "skipped": reason})
    if same:
        return _write(baseline, {"label": label, "skipped": f"It would be the same network as {same[0]}."})
    measured = costs.of_network(CIFARResNet(shape, classes, **size))
    label = f"ResNet-{6 * size['blocks'] + 2} of width {size['width']}, {label.removeprefix('ResNet of ')}"
    return _write(baseline, {"label": label, "size": size, **_costs(measured, constraints)})


def describe(
    baseline: Baseline, network: nn.Module, costs: NetworkCosts, constraints: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """Run a network that was given on images of zeros, and write what is known of it.

    Args:
        baseline: The baseline.
        network: Its network.
        costs: Knows images and classes, and measures latency.
        constraints: Limits on costs, if there are any.

    Raises:
        ConfigError: The network does not fit images and classes.
    """
    shape, classes = tuple(costs.size["image_shape"]), costs.size["num_classes"]
    label = _label(baseline.network)
    try:
        with torch.no_grad():
            computed = network.eval()(torch.zeros(2, *shape))
        if not isinstance(computed, torch.Tensor) or computed.shape != (2, classes):
            raise ConfigError(f"it computes {getattr(computed, 'shape', type(computed).__name__)} for 2 images")
        measured = costs.of_network(network)
        content = {"label": label, "network": baseline.network, **_costs(measured, constraints or {})}
    except Exception as error:  # a network may raise anything
        raise ConfigError(
            f"{baseline.name}: {label} cannot classify images of shape {shape} into {classes} classes "
            f"({error!s:.300}). Use another network, or leave it out of the baselines."
        ) from None
    return _write(baseline, content)


def known(baseline: Baseline) -> dict[str, Any]:
    """Read what is known of a baseline.

    Raises:
        ArtifactError: Its file is missing or damaged.
    """
    return read_json(baseline.path, repair="Delete it, and run the pipeline again: it writes the file.")


def is_described(baseline: Baseline) -> bool:
    """Whether the file of a baseline that was given is there, and of the same network."""
    return baseline.path.is_file() and known(baseline).get("network") == baseline.network


def is_left_out(baseline: Baseline) -> bool:
    """Whether it is known that a baseline cannot be had."""
    return baseline.path.is_file() and bool(known(baseline).get("skipped"))


def reasons(baselines: Sequence[Baseline]) -> list[str]:
    """Say of those baselines that cannot be had why they are left out, each once."""
    found = {each.name: known(each).get("skipped") for each in baselines}
    return [f"{name} is left out: {reason}" for name, reason in found.items() if reason]


def known_before(baselines: Sequence[Baseline]) -> list[dict[str, Any]]:
    """What is known of those baselines whose file is there."""
    return [known(each) for each in baselines if each.path.is_file()]


def refuse_task(name: str, task: str) -> NASError:
    """The error for baselines of a stage whose task cannot train any network.

    Args:
        name: Name of the stage.
        task: Class path of its task.
    """
    return ConfigError(
        f"Stage {name} has baselines, which TrainTask trains; its task is {task}. Set stages.{name}.baselines to []."
    )


def _label(network: Any) -> str:
    """Class and arguments of a network in a configuration."""
    if isinstance(network, str):
        return network.rpartition(".")[2]
    arguments = ", ".join(f"{key}={value}" for key, value in (network.get("init_args") or {}).items())
    name = str(network["class_path"]).rpartition(".")[2]
    return f"{name}({arguments})" if arguments else name


def _costs(measured: Mapping[str, float], constraints: Mapping[str, float]) -> dict[str, float]:
    """Costs of a network that a report shows: a latency only where there is a constraint on it."""
    counted: dict[str, float] = {name: int(measured[name]) for name in COUNTED}
    return counted | ({LATENCY: measured[LATENCY]} if LATENCY in constraints else {})


def _write(baseline: Baseline, content: dict[str, Any]) -> dict[str, Any]:
    write_json(baseline.path, content)
    return content
