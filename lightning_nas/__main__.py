"""The command line: ``lightning-nas`` or ``python -m lightning_nas``."""

import os
import shlex
import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning_nas import __version__
from lightning_nas.cli.arguments import Parser, suggestion, take_imports
from lightning_nas.cli.interruption import interruptible
from lightning_nas.errors import ConfigError, InterruptedTrainingError, NASError
from lightning_nas.terminal import shown

USAGE = """usage: lightning-nas COMMAND [options]      (lightning-nas COMMAND --help says more)

A whole search:
  pipeline   run a chain of stages from one YAML file: distill, search, train, test and export
  compare    run methods with several seeds from one YAML file: tables, statistics, pictures and a page
  report     write report.html for the folder of a pipeline, or of a search by queries
  export     write a trained network as plain Python, torch program and ONNX, with a model card

What there is:
  configs    list the shipped configurations, or copy them
  components list the classes that configurations name, with their arguments
  completion print a script that completes commands, options and names in bash or zsh

Tables of known results:
  table      write the npz file of a benchmark, such as NAS-Bench-201, from an official download

One stage, by Lightning:
  fit        run a task: distill, search or train
  validate   validate a task
  test       test a task
  predict    predict with a task
  forecast   measure a few steps of a fit and print its hours, memory and largest batch; no run is started
             (also: lightning-nas fit --forecast true)

All commands:
  --import MODULE  import a module of your own classes first, so that configurations and files may name them

Examples:
  lightning-nas pipeline --config pipeline/digits
  lightning-nas fit --config search/darts --trainer.max_epochs 10
  lightning-nas fit --model.help                 the tasks; --data.help, --model.space.help and so on: other components
  lightning-nas fit --model.help BilevelTask     the arguments of one
"""

OUTPUT_CLOSED = 141
"""Exit code of a command whose output pipe was closed, such as by ``head``: that of a program ended by SIGPIPE."""

WITH_KEYS = ("pipeline", "compare", "fit", "validate", "test", "predict", "forecast")
"""Commands whose configuration has the key ``imports``."""

COMMANDS = (
    *("pipeline", "compare", "report", "export", "configs", "components", "completion", "table"),
    *("fit", "validate", "test", "predict", "forecast"),
)


def main(args: list[str] | None = None) -> None:
    """Run the command line.

    Args:
        args: Arguments without the program's name; by default those of the process.

    Raises:
        SystemExit: Help was asked for, or a command ended with an error of this library, which is printed. The exit
            code is 1, 143 where SIGTERM has stopped the command, and 141 if its output pipe was closed.
    """
    given = sys.argv[1:] if args is None else args
    command, rest = (given[0], given[1:]) if given else ("--help", [])
    try:
        try:
            _main(command, rest)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        if not output_is_closed():
            raise
        raise SystemExit(OUTPUT_CLOSED) from None
    except InterruptedTrainingError as error:
        if os.environ.get("LOCAL_RANK", "0") != "0":
            return  # one process of a machine speaks for all; a launcher kills all where another fails
        line = resume_line(error.resume or [command, *rest], error.checkpoint)
        print(f"lightning-nas: {error}\n{line}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except NASError as error:
        raise SystemExit(f"lightning-nas: {type(error).__name__}: {error}") from None


def _main(command: str, rest: list[str]) -> None:
    """Run a command, or show what there is to say about all of them."""
    if command in ("-h", "--help"):
        print(USAGE)
        return
    if command == "--version":
        print(f"lightning-nas {__version__}")
        return
    if command not in COMMANDS:
        raise ConfigError(f"{command!r:.100} is not a command. {suggestion(command, COMMANDS)}")
    if command == "fit":
        only_forecast, rest = take_forecast(rest)
        command = "forecast" if only_forecast else "fit"
    modules, rest = take_imports(command, rest)
    with interruptible(f"'lightning-nas {command}'"), importable_working_directory(), shown():
        if modules:
            from lightning_nas.files.classes import import_modules

            import_modules(modules)
        if command in WITH_KEYS:  # the configuration is stored, and processes that the command starts read it
            rest += [part for module in modules for part in ("--imports+", module)]
        run_command(command, rest)


def output_is_closed() -> bool:
    """Whether the pipe that the output goes to was closed; the rest of the output is then discarded."""
    output = sys.stdout.fileno()
    try:
        os.write(output, b"\n")  # where it is another pipe that broke, this precedes the traceback
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), output)  # Python flushes once more as it ends
        return True
    return False


def run_command(command: str, args: list[str]) -> None:
    """Run one command. Imports are made where they are used, since the fastest command needs no torch.

    Args:
        command: Name of the command; what is not known here is Lightning's.
        args: Arguments after the command.
    """
    from lightning_nas.cli import commands, config_files

    own = {
        "report": commands.report,
        "export": commands.export,
        "configs": config_files.main,
        "components": commands.components,
        "table": commands.table,
        "forecast": commands.forecast,
    }
    if command == "pipeline":
        from lightning_nas.pipeline.config import parse

        arguments = parse(args)  # before the slow imports: it prints help and refuses wrong keys
        from lightning_nas.pipeline.main import main as pipeline

        pipeline(arguments)
    elif command == "compare":
        from lightning_nas.compare.config import parse as parse_study

        study = parse_study(args)  # before the slow imports, too
        from lightning_nas.compare.main import main as compare

        compare(study)
    elif command == "completion":
        given = commands.completion_parser().parse_args(args)
        from lightning_nas.cli.completion import script

        print(script(given.shell, parsers()))
    elif command in own:
        own[command](args)
    else:
        from lightning_nas.cli.lightning import run

        run([command, *args])


def parsers() -> dict[str, ArgumentParser]:
    """The parsers of all commands but Lightning's, by their names."""
    from lightning_nas.cli import commands, config_files
    from lightning_nas.compare import config as compare
    from lightning_nas.pipeline import config as pipeline

    return {
        "pipeline": pipeline.parser(),
        "compare": compare.parser(),
        "report": commands.report_parser(),
        "export": commands.export_parser(),
        "configs": config_files.parser(),
        "components": commands.components_parser(),
        "table": commands.table_parser(),
        "completion": commands.completion_parser(),
    }


@contextmanager
def importable_working_directory() -> Iterator[None]:
    """Let classes of the user's own be found in the working directory, after everything that is installed."""
    folder = str(Path.cwd())
    if folder in sys.path or "" in sys.path:  # python -m does so by itself
        yield
        return
    sys.path.append(folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def resume_line(args: list[str], checkpoint: Path | None) -> str:
    """The command that continues a training.

    Args:
        args: Arguments of the command that was stopped.
        checkpoint: Checkpoint to continue from; without one the command is given again.
    """
    if checkpoint is not None and args[0] == "fit":
        args = [a for a in args if not a.startswith("--ckpt_path=")]
        if "--ckpt_path" in args:
            place = args.index("--ckpt_path")
            del args[place : place + 2]
        args = [*args, "--ckpt_path", str(checkpoint)]
    return f"Go on with: lightning-nas {shlex.join(args)}"


def take_forecast(args: list[str]) -> tuple[bool, list[str]]:
    """Take ``--forecast true`` or ``false`` out of the arguments of ``fit``.

    Args:
        args: Arguments of ``fit``.

    Returns:
        Its value, and the other arguments in their order.

    Raises:
        ConfigError: Its value is neither.
    """
    parser = Parser("lightning-nas fit", add_help=False)
    parser.add_argument("--forecast", choices=("true", "false"), default="false")
    given, rest = parser.parse_known_args(args)
    return given.forecast == "true", rest


if __name__ == "__main__":
    main()
