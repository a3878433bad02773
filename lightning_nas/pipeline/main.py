"""``lightning-nas pipeline``: run a pipeline, and say what came of it."""

from datetime import datetime
from pathlib import Path

import yaml

from lightning_nas.cli.interruption import interruptible
from lightning_nas.errors import InterruptedTrainingError
from lightning_nas.files.classes import import_modules
from lightning_nas.files.locks import lock
from lightning_nas.pipeline.config import Arguments
from lightning_nas.pipeline.logs import quiet_repeats
from lightning_nas.pipeline.run import Pipeline
from lightning_nas.report.screen import table, verdict


def main(arguments: Arguments) -> None:
    """``lightning-nas pipeline``.

    Args:
        arguments: Its command line.

    Raises:
        ConfigError: The run folder cannot be written to, another pipeline runs in it, or a configuration is wrong.
        InterruptedTrainingError: SIGTERM has stopped the pipeline.
    """
    import_modules(arguments.config["imports"])
    named = arguments.run_dir
    run_dir = (named or Path("runs") / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")).resolve()
    command = " ".join(["lightning-nas pipeline", *arguments.given])
    pipeline = Pipeline(arguments.config, run_dir, arguments.base, command)
    if arguments.print_config:
        print(yaml.safe_dump({stage.name: stage.config for stage in pipeline.stages}, sort_keys=False), end="")
        return
    with lock(run_dir, ".pipeline.lock"), interruptible("the pipeline", pipeline.pass_on), quiet_repeats():
        try:
            summary = pipeline.run()
        except InterruptedTrainingError as error:
            folder = [] if named is not None else ["--run_dir", str(run_dir)]
            error.resume = ["pipeline", *arguments.given, *folder]
            raise
    print(f"\n{verdict(summary)}\n\n{table(summary)}")
