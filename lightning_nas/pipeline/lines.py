"""What a pipeline says in the terminal: one line when a stage begins, and one when it is over."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lightning_nas.pipeline.records import Record
from lightning_nas.pipeline.stages import Stage
from lightning_nas.pipeline.summary import tested_accuracy
from lightning_nas.terminal import duration, tell


class Lines:
    """Numbers the steps of a pipeline, and tells where it is.

    Args:
        count: Number of steps.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.place = 0

    def begin(self, name: str, *what: str) -> None:
        """Say that a step begins.

        Args:
            name: Its name.
            what: What is known about it; empty texts are left out.
        """
        self.place += 1
        tell(f"[{self.place}/{self.count}] {name}: {', '.join(filter(None, what))}".removesuffix(": "))


def count_steps(stages: list[Stage], final: bool) -> int:
    """Number of steps of a pipeline: its stages, all trainings for comparison together, and the export if there is one.

    Args:
        stages: All stages.
        final: Whether a network is exported.
    """
    return sum(not stage.compared for stage in stages) + any(stage.compared for stage in stages) + final


def describe(stage: Stage, images: int | None, resumed: bool) -> Iterator[str]:
    """Describe a stage that begins, as far as it is known before.

    Args:
        stage: The stage.
        images: Number of its training images; None if it is not known.
        resumed: Whether it goes on from a checkpoint.
    """
    parts = {key: _class_name(stage.arguments.get(key)) for key in ("strategy", "space")}
    joined = [f" {word} {parts[key]}" for key, word in (("strategy", "with"), ("space", "in")) if parts[key]]
    yield _class_name(stage.config["model"]) + "".join(joined)
    yield "" if images is None else f"{images:,} images"
    epochs = stage.config["trainer"].get("max_epochs")
    yield f"{epochs} epochs" if isinstance(epochs, int) and epochs > 1 else ""
    yield "continued from its last checkpoint" if resumed else ""


def comparison(due: int, known: int, workers: int, tested: Record | None) -> Iterator[str]:
    """Describe the trainings for the comparison.

    Args:
        due: Number of trainings that are to run.
        known: Number of those that are done before.
        workers: Number of trainings at a time.
        tested: Record of the training of the found network, of which they are copies with other networks.
    """
    yield f"{due} training{'s' if due > 1 else ''}" if due else ""
    yield f"{workers} at a time" if due and workers > 1 else ""
    if due and tested is not None and tested.seconds is not None and not tested.resumed:
        yield f"about {duration(tested.seconds * -(-due // workers))}"
    yield f"{known} done before" if known else ""


def result(folder: Path, record: Record, test: bool) -> str:
    """Say what came of a stage.

    Args:
        folder: Folder of the stage.
        record: Its record.
        test: Whether its network was tested.
    """
    accuracy = f"test accuracy {100 * tested_accuracy(folder):.2f}%, " if test else "done in "
    return f"{accuracy}{duration(record.seconds or 0.0)}"


def _class_name(config: Any) -> str:
    """Name of the class of a component in a configuration, without its module; empty if there is none."""
    path = config.get("class_path", "") if isinstance(config, Mapping) else config
    return path.rpartition(".")[2] if isinstance(path, str) else ""
