"""Commands of this library that don't run Lightning. Their parsers import nothing heavy, so that help is instant."""

from pathlib import Path

from lightning_nas.cli.arguments import Parser, add_import
from lightning_nas.errors import ArtifactError, ConfigError, DataError

FORECAST_HELP = """usage: lightning-nas forecast --config FILE [options of fit]

Runs a few real training steps and prints what the whole training takes: seconds per step and per epoch, hours, peak
memory, and an estimate of the largest batch that fits. Validation and the measurements at the end of a task are not
counted, and callbacks are left out. Nothing is written. The last line is JSON.

'lightning-nas fit --forecast true ...' does the same. The options are those of 'lightning-nas fit --help'.
"""


def export_parser() -> Parser:
    """The parser of ``lightning-nas export``."""
    parser = Parser(
        prog="lightning-nas export",
        description="Write a trained network as files that don't need lightning_nas, check that they compute the same, "
        "and add a model card: network.py (with network.pt), which needs only torch; network.pt2, a program of "
        "torch.export; network.onnx.",
    )
    parser.add_argument("--ckpt_path", required=True, help="path or URL of a checkpoint of a TrainTask")
    parser.add_argument(
        "--output_dir", type=Path, default=Path("export"), help="folder for the files (default: export)"
    )
    parser.add_argument(
        "--formats",
        nargs="+",
        metavar="FORMAT",
        help="py, pt2, onnx, onnx_int8 (default: the first three; onnx where its packages are installed: pip install "
        '"lightning_nas[onnx]"; onnx_int8 is quantized with training images and needs --config)',
    )
    parser.add_argument(
        "--config",
        help="configuration of the training, a YAML file or the name of a shipped one: images of its data check the "
        "preprocessing of the files, and quantize and measure onnx_int8",
    )
    parser.add_argument(
        "--raw_images",
        choices=["true", "false"],
        default="true",
        help="whether the files take uint8 images of any size, and resize and normalize them (default: true)",
    )
    parser.add_argument(
        "--licence", default="not stated", help="licence of the network, for its model card (default: not stated)"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace files of another export, and a README.md, in that folder"
    )
    add_import(parser)
    return parser


def export(args: list[str]) -> None:
    """Run ``lightning-nas export``.

    Args:
        args: Arguments after the command.

    Raises:
        ConfigError: The folder has files that the export would replace, or another process writes to it.
    """
    given = export_parser().parse_args(args)
    from lightning_nas.cli.exports import export_checkpoint, load_data, measured_lines

    done = export_checkpoint(
        given.ckpt_path,
        given.output_dir,
        formats=given.formats,
        licence=given.licence,
        overwrite=given.overwrite,
        raw_images=given.raw_images == "true",
        data=None if given.config is None else load_data(given.config),
    )
    for file in done["files"]:
        print(f"{file['path']}: largest difference to the task {file['difference']:.1e}")
    for line in measured_lines(done["measured"]):
        print(line)
    print(f"{done['card']}: model card ({done['parameters']:,} parameters, {done['macs']:,} multiply-accumulates)")


def report_parser() -> Parser:
    """The parser of ``lightning-nas report``."""
    parser = Parser(
        prog="lightning-nas report",
        description="Write report.html for the folder of a pipeline, or of a search by queries.",
    )
    parser.add_argument("run_dir", type=Path, help="folder of a pipeline's run, or of a search by queries")
    add_import(parser)
    return parser


def report(args: list[str]) -> None:
    """Run ``lightning-nas report``.

    Args:
        args: Arguments after the command.

    Raises:
        ArtifactError: There is no such folder, or it does not hold the files of a run.
    """
    given = report_parser().parse_args(args)
    if not given.run_dir.is_dir():
        raise ArtifactError(
            f"{given.run_dir} is not a folder. Give the folder of a pipeline's run, or of a search by queries."
        )
    from lightning_nas.report.page import write_report

    print(write_report(given.run_dir))


def table_parser() -> Parser:
    """The parser of ``lightning-nas table``."""
    parser = Parser(
        prog="lightning-nas table",
        description="Convert an official download to the npz file that a table of known results is read from: "
        "nasbench_only108.tfrecord or nasbench_full.tfrecord for NAS-Bench-101; NAS-Bench-201-v1_1-096897.pth or the "
        "folder NATS-tss-v1_0-3ffb9-simple for NAS-Bench-201; nas-bench-macro_cifar10.json for NAS-Bench-Macro; the "
        "folder NATS-sss-v1_0-50262-simple for the sizes of NATS-Bench. Published checksums are compared first.",
    )
    parser.add_argument("benchmark", choices=("nasbench101", "nasbench201", "nasbench_macro", "natsbench_size"))
    parser.add_argument("download", type=Path, help="downloaded file or folder")
    parser.add_argument("--output", type=Path, help="npz file to write (default: BENCHMARK.npz)")
    return parser


def table(args: list[str]) -> None:
    """Run ``lightning-nas table``.

    Args:
        args: Arguments after the command.

    Raises:
        ConfigError: The npz file exists already, or another process writes to its folder.
        DataError: There is no such download, or it is not the published one.
    """
    given = table_parser().parse_args(args)
    output = given.output or Path(f"{given.benchmark}.npz")
    if output.exists():
        raise ConfigError(f"{output} exists already. Delete it, or name another --output.")
    if not given.download.exists():
        raise DataError(f"{given.download} does not exist. Check the path of the download.")
    from lightning_nas.files.locks import locked
    from lightning_nas.tables.official_nasbench101 import nasbench101_from_tfrecord
    from lightning_nas.tables.official_nasbench201 import nasbench201_from_download
    from lightning_nas.tables.official_nasbench_macro import nasbench_macro_from_json
    from lightning_nas.tables.official_natsbench_size import natsbench_size_from_download

    read = {
        "nasbench101": nasbench101_from_tfrecord,
        "nasbench201": nasbench201_from_download,
        "nasbench_macro": nasbench_macro_from_json,
        "natsbench_size": natsbench_size_from_download,
    }[given.benchmark]
    with locked(output.absolute().parent):
        print(read(given.download, output))


def components_parser() -> Parser:
    """The parser of ``lightning-nas components``."""
    parser = Parser(
        prog="lightning-nas components",
        description="List the classes that configurations name, with the first line of their documentation.",
        epilog="The lists hold the classes of this library. Your own ones are named by their full path, as "
        "MODULE.CLASS.",
    )
    parser.add_argument(
        "name",
        nargs="?",
        metavar="FAMILY",
        help="a family, such as strategies, or a base class, such as Discretizer: its classes with their arguments; or "
        "a class, such as DARTSSpace: its arguments with types and meanings (default: all families)",
    )
    return parser


def components(args: list[str]) -> None:
    """Run ``lightning-nas components``.

    Args:
        args: Arguments after the command.
    """
    given = components_parser().parse_args(args)
    from lightning_nas.cli.components import show

    show(given.name)


def forecast(args: list[str]) -> None:
    """Run ``lightning-nas forecast``.

    Args:
        args: Arguments after the command.
    """
    if {"-h", "--help"} & set(args):
        print(FORECAST_HELP)
        return
    from lightning_nas.cli.forecast import main

    main(args)


def completion_parser() -> Parser:
    """The parser of ``lightning-nas completion``."""
    parser = Parser(
        prog="lightning-nas completion",
        description="Print the script that completes commands, options, configurations and classes in a shell.",
        epilog="bash: lightning-nas completion bash > ~/.local/share/bash-completion/completions/lightning-nas    "
        "zsh: lightning-nas completion zsh > DIR/_lightning-nas, where DIR is a folder of $fpath.",
    )
    parser.add_argument("shell", choices=("bash", "zsh"))
    return parser
