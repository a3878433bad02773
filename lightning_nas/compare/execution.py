"""Running a study: what a worker does with one run, and the order of all."""

import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass

from lightning_nas.compare.runs import Run
from lightning_nas.compare.wandb_group import grouped
from lightning_nas.errors import ConfigError, NASError
from lightning_nas.evaluation.executors import Executor
from lightning_nas.files.classes import import_modules
from lightning_nas.files.locks import lock
from lightning_nas.pipeline.logs import finish_wandb, logged
from lightning_nas.terminal import duration, shown


@dataclass(frozen=True)
class Item:
    """A run with its place among all.

    Attributes:
        run: The run.
        place: Its number, from 1.
        count: Number of all runs.
    """

    run: Run
    place: int
    count: int


def check(runs: Sequence[Run]) -> list[Run]:
    """Check a study before its first run.

    Finished runs must be of this study, with the same data and packages. What every entry needs is checked once per
    data set, with its first seed.

    Args:
        runs: All runs.

    Returns:
        Those that are not finished.

    Raises:
        NASError: A run would fail, or a folder has something else; the message names the entry.
    """
    left, checked = [], set()
    for run in runs:
        pipeline = run.pipeline()
        run.folder.mkdir(parents=True, exist_ok=True)
        try:
            if pipeline.finished:
                pipeline.check_results()
                continue
            if (run.entry, run.dataset) not in checked:
                pipeline.check()
        except NASError as error:
            error.args = (f"{run}: {error}",)
            raise
        checked.add((run.entry, run.dataset))
        left.append(run)
    return left


def execute(item: Item) -> float:
    """Run the stages of a run that are not done yet; a worker calls this.

    Args:
        item: The run.

    Returns:
        Seconds that it took.

    Raises:
        NASError: A stage has failed.
    """
    run = item.run
    import_modules(run.config["imports"])
    start = time.perf_counter()
    with lock(run.folder, ".pipeline.lock"), grouped(run.study, str(run)), logged(run.log), shown():
        pipeline = run.pipeline()
        try:
            if run.final:
                pipeline.run()
            else:
                pipeline.run_stages()
        except Exception:
            traceback.print_exc()
            raise
        finally:
            finish_wandb()
    seconds = time.perf_counter() - start
    print(f"[{item.place}/{item.count}] {run}: done in {duration(seconds)}", flush=True)
    return seconds


def execute_all(runs: Sequence[Run], executor: Executor) -> list[str]:
    """Execute runs. One that fails costs no other one.

    Args:
        runs: The runs that are not finished.
        executor: Where they run.

    Returns:
        What went wrong with every run that failed.

    Raises:
        ConfigError: No worker can start.
    """
    items = [Item(run, place, len(runs)) for place, run in enumerate(runs, 1)]
    try:
        outcomes = executor.attempt(execute, items)
    finally:
        executor.close()
    failures = []
    for run, outcome in zip(runs, outcomes, strict=True):
        if isinstance(outcome, BaseException):
            kind = "" if isinstance(outcome, NASError) else f"{type(outcome).__name__}: "
            failures.append(f"{run}: {kind}{outcome} (more in {run.log})")
    return failures


def check_failures(failures: Sequence[str], count: int) -> None:
    """End a study some of whose runs have failed.

    Args:
        failures: What went wrong, one text per run.
        count: Number of runs.

    Raises:
        ConfigError: There are failures.
    """
    if failures:
        raise ConfigError(
            f"{len(failures)} of {count} runs failed, and are missing in the results: {' '.join(failures):.1500} Give "
            "the same command again to repeat them."
        )
