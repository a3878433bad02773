"""Limits on cost that the command line gives to a whole study."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lightning_nas.cli.lightning import build
from lightning_nas.compare.config import TruthSettings, datasets, numbers, truth
from lightning_nas.compare.runs import Run
from lightning_nas.errors import ConfigError
from lightning_nas.pipeline.config import merge
from lightning_nas.tables.base import Table

_FORM = re.compile(r"(?P<name>[^=]+)=(?P<quantile>q?)(?P<number>[^=]+)")


def limited(config: Mapping[str, Any], limits: Sequence[str]) -> dict[str, Any]:
    """Give every data set of a study limits on cost: to the truth, and to the search of every entry.

    A quantile is one of all architectures with a true result. Limits add to the constraints that the study itself has
    for the truth and for all searches; of two limits on one column, the lower one counts. Evaluators are told to look
    the costs up.

    Args:
        config: Configuration of the study.
        limits: Limits such as ``cifar10_params=500000``, or ``cifar10_params=q0.5`` for a quantile.

    Returns:
        The changed configuration.

    Raises:
        ConfigError: A limit has another form, the study has no truth, or its table has no such column.
        DataError: The table cannot be used.
    """
    parsed = [_parse(text) for text in limits]
    if not parsed:
        return dict(config)
    changes = {}
    for name, each in datasets(config).items():
        settings = truth(each)
        if settings is None:
            raise ConfigError(
                f"--limit {limits[0]} needs a study with a truth, whose table has the costs. Limit single searches by "
                "model.init_args.constraints instead."
            )
        changes[name] = _change(each, settings, parsed)
    if not config.get("datasets"):
        found: dict[str, Any] = merge(dict(config), changes[""])
        return found
    given = {str(name): each for name, each in config["datasets"].items()}
    return {**config, "datasets": {**given, **{name: merge(given[name], each) for name, each in changes.items()}}}


def _parse(text: str) -> tuple[str, bool, float]:
    """Name of the column, whether the number is a quantile, and the number."""
    found = _FORM.fullmatch(text)
    try:
        number = float(found["number"]) if found else float("nan")
    except ValueError:
        number = float("nan")
    quantile = bool(found and found["quantile"])
    if found is None or not (0 < number < 1 if quantile else 0 < number < float("inf")):
        raise ConfigError(
            f"--limit is {text!r:.100}; it must be NAME=VALUE with the name of a column of costs and a number greater "
            "than 0, or NAME=qQ with a quantile between 0 and 1, such as cifar10_params=q0.5."
        )
    return found["name"], quantile, number


def _change(config: Mapping[str, Any], settings: TruthSettings, limits: Sequence[tuple[str, bool, float]]) -> Any:
    """The change of a data set's configuration."""
    table: Table = build(Table, dict(settings.table))
    known = np.isfinite(table.column(settings.column))
    search: Any = ((config.get("shared") or {}).get("model") or {}).get("init_args") or {}
    own = [settings.constraints, numbers("shared.model.init_args.constraints", search.get("constraints"))]
    bounds: dict[str, float] = {}
    for name, quantile, number in limits:
        costs = table.column(name)
        bound = float(np.nanquantile(costs[known], number)) if quantile else number
        bounds[name] = min([bound, *(each[name] for each in [bounds, *own] if name in each)])
    evaluator = (search.get("evaluator") or {}).get("init_args") or {}
    columns = list(dict.fromkeys([*(evaluator.get("cost_columns") or []), *bounds]))
    changed = {"constraints": bounds, "evaluator": {"init_args": {"cost_columns": columns}}}
    return {"truth": {"constraints": bounds}, "shared": {"model": {"init_args": changed}}}


def check_kept(runs: Sequence[Run], config: Mapping[str, Any], limits: Sequence[str]) -> None:
    """Refuse entries whose searches would not keep the limits of the command line, and so find what does not count.

    Args:
        runs: The runs of the study.
        config: Its configuration with the limits; see ``limited``.
        limits: The limits.

    Raises:
        ConfigError: An entry has a weaker constraint of its own in one of its stages, or several stages, none of which
            keeps a limit.
    """
    names = dict.fromkeys(_parse(text)[0] for text in limits)
    settings = {name: truth(each) for name, each in datasets(config).items()} if limits else {}
    first = {(run.dataset, run.entry): run for run in reversed(runs)} if limits else {}
    for run in first.values():
        tasks = [(stage.config.get("model") or {}).get("init_args") or {} for stage in run.pipeline().stages]
        kept = [numbers(f"constraints of {run}", arguments.get("constraints")) for arguments in tasks]
        for name in names:
            bound = settings[run.dataset].constraints[name]  # type: ignore[union-attr]  # limits need a truth
            found = [each[name] for each in kept if name in each]
            if max(found, default=np.inf) > bound:
                reason = f"has {name}: {max(found)}" if found else f"has no constraint on {name}"
                raise ConfigError(
                    f"--limit asks for {name} of at most {bound:g}, but the search of {run} {reason}. Give it "
                    f"constraints: {{{name}: {bound:g}}}, or leave the entry out by --entries.{run.entry} null."
                )
