import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import LightningDataModule
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch.utils.data import DataLoader, TensorDataset

from lightning_nas import __version__
from lightning_nas.__main__ import main, parsers
from lightning_nas.cli.lightning import NASCLI, run
from lightning_nas.errors import CheckpointError, ConfigError
from lightning_nas.files.artifacts import write_json
from lightning_nas.report.front import Front
from lightning_nas.spaces.artifact import build_space, load_architecture
from tests.report.pages import whole, with_results
from tests.report.test_front import POINTS, results
from tests.tiny import tiny


def run_without(heavy: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Run commands in one new process, which must not import some modules; returns what it prints."""
    code = (
        "import sys; from lightning_nas.__main__ import main\n"
        f"for args in {[list(line) for line in lines]!r}:\n"
        "    try: main(args)\n"
        "    except SystemExit as stopped: print(stopped)\n"
        f"    heavy = [m for m in {tuple(heavy)!r} if m in sys.modules]\n"
        "    assert not heavy, (args, heavy)\n"
    )
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def search(tmp_path: Path, configs: Path) -> Path:
    """A tiny search's configuration."""
    config = tiny("search/darts.yaml", tmp_path)
    path = tmp_path / "search.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def checkpoint_of(cli: NASCLI) -> str:
    return str(cli.trainer.checkpoint_callback.best_model_path)  # type: ignore[union-attr]


def test_help_and_refusals_load_nothing_heavy() -> None:
    """One process after another would take long: all commands that need no torch run in one."""
    names = list(parsers())
    lines = [
        ["--help"],
        ["--version"],
        *([name, "--help"] for name in (*names, "forecast")),
        *([name, "--wrong"] for name in names),
    ]
    lines += [["pipeline", "--config", "nowhere.yaml"], ["compare", "--config", "nowhere.yaml"], ["configs", "nowhere"]]
    lines += [["pipelin"], ["report", "nowhere"], ["table", "nasbench201", "nowhere"]]
    lines += [["configs", "--copy", "copies"]]
    heavy = ("torch", "lightning", "jsonargparse", "numpy", "sklearn", "matplotlib")
    output = run_without(heavy, lines)
    assert f"lightning-nas {__version__}" in output
    assert "--stages.fidelity null" in output.replace("\n", " ")
    assert "nowhere.yaml is neither a file nor the name of a shipped configuration" in output
    assert "'pipelin' is not a command. Did you mean pipeline" in output
    assert "nowhere is not a folder" in output
    assert "--wrong is not an option of 'lightning-nas configs'" in output
    assert output.count("usage: lightning-nas") == len(names) + 2


@pytest.mark.slow
def test_commands_that_only_read_files_do_without_lightning(tmp_path: Path) -> None:
    folder, download = with_results(whole(tmp_path / "run")), tmp_path / "download"
    write_json(
        folder / "candidates.json", Front(results("accuracy", POINTS, ("macs",)), "accuracy", ["macs"]).to_dict()
    )
    download.write_bytes(b"no table")
    lines = [["report", str(folder)], *(["table", name, str(download)] for name in ("nasbench101", "nasbench201"))]
    heavy = ("lightning", "jsonargparse", "sklearn")
    output = run_without(heavy, lines)
    assert str(folder / "report.html") in output
    assert output.count("DataError") == 2


@pytest.mark.slow
def test_help_of_a_stage_imports_no_more_than_lightning_does() -> None:
    code = (
        "import sys, lightning.pytorch.cli; before = set(sys.modules); from lightning_nas.__main__ import main\n"
        "try: main(['fit', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = ('torchvision', 'wandb', 'matplotlib', 'sklearn', 'scipy', 'pymoo', 'omegaconf')\n"
        "print([m for m in heavy if m in set(sys.modules) - before])"
    )
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert output.rstrip().endswith("[]")
    assert "--model" in output


@pytest.mark.parametrize(
    ("args", "shown"),
    [
        (["--model.help"], ["BilevelTask", "DistillTask", "EvolveTask", "TrainTask"]),
        (["--data.help"], ["ArrayDataModule", "DistilledDataModule", "HalvesDataModule"]),
        (["--model.space.help"], ["DARTSSpace", "NASBench101Space", "BilevelTask, SelectTask, ShapleyTask, SplitTask"]),
        (["--model.init_args.regularizers.help"], ["BetaDecay", "AdversarialContrast"]),
        (["--model.evaluator.table.help"], ["NASBench101Table", "NASBench201Table"]),
        (["--config", "any.yaml", "--data.augmentations.help"], ["Cutout", "RandomCrop"]),
        (["--model.space.help", "DARTSSpace"], ["--partial_channels"]),
        (["--model.hypergradient.help=SecondOrder"], ["--radius"]),
        (["--model.help", "BilevelTask"], ["--model.hypergradient", "--model.weight_optimizer"]),
    ],
)
def test_help_lists_the_members_of_a_family(
    args: list[str], shown: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["fit", *args])
    assert not stopped.value.code
    output = capsys.readouterr().out
    assert [each for each in shown if each not in output] == []
    for line in output.splitlines():
        name, _, description = line.strip().partition("  ")
        if name in shown and name.isidentifier():
            assert description.strip().endswith("."), line


def test_help_of_an_unknown_component_names_the_members() -> None:
    with pytest.raises(SystemExit, match=r"--model\.space has no member 'DARTS'; it has .*DARTSSpace"):
        main(["fit", "--model.space.help", "DARTS"])


def test_data_tell_the_task_how_many_classes_and_which_shape(search: Path) -> None:
    cli = run(["fit", "--config", str(search)])
    assert cli.model.model.supernet.classifier.out_features == 3
    assert cli.model.model.supernet.stem[0].in_channels == 3


class Plain(LightningDataModule):
    """Three classes, of which it says nothing unless it is asked to.

    Args:
        attributes: What it says.
    """

    def __init__(self, attributes: dict[str, Any] | None = None) -> None:
        super().__init__()
        vars(self).update(attributes or {})

    def train_dataloader(self) -> Any:
        """One batch."""
        return DataLoader(TensorDataset(torch.randn(6, 3, 16, 16), torch.arange(6) % 3), 6)


PLAIN = {"distill": "experts", "search": "darts", "supernet": "uniform", "train": "digits"}


@pytest.mark.parametrize("folder", PLAIN)
def test_data_that_do_not_tell_are_refused_by_every_task(folder: str, tmp_path: Path) -> None:
    content = tiny(f"{folder}/{PLAIN[folder]}.yaml", tmp_path)
    Path("plain.yaml").write_text(yaml.safe_dump({**content, "data": {"class_path": "tests.cli.test_cli.Plain"}}))
    with pytest.raises(ConfigError, match="Plain, which has no num_classes and no image_shape. Give the data module"):
        run(["fit", "--config", "plain.yaml"])
    for name, value in (("num_classes", 0), ("image_shape", [16, 16]), ("num_classes", "ten")):
        wrong = {"num_classes": 3, "image_shape": [3, 16, 16], name: value}
        with pytest.raises(ConfigError, match=f"{name} = "):
            run(["fit", "--config", "plain.yaml", "--data.attributes", json.dumps(wrong)])


def test_data_of_the_users_own_are_trained_on(tmp_path: Path) -> None:
    content = tiny("train/digits.yaml", tmp_path)
    told = {"num_classes": 3, "image_shape": [3, 16, 16]}
    own = {"class_path": "tests.cli.test_cli.Plain", "init_args": {"attributes": told}}
    Path("plain.yaml").write_text(yaml.safe_dump({**content, "data": own}))
    task = run(["fit", "--config", "plain.yaml"]).model
    assert task.network_arguments["num_classes"] == 3
    assert tuple(task.network_arguments["image_shape"]) == (3, 16, 16)


def test_architectures_are_given_as_they_are_published(tmp_path: Path) -> None:
    content = tiny("train/digits.yaml", tmp_path)
    Path("train.yaml").write_text(yaml.safe_dump(content))
    cell = "|nor_conv_1x1~0|+|none~0|skip_connect~1|+|none~0|none~1|nor_conv_1x1~2|"
    lists = (
        "[[('nor_conv_1x1', 0)], [('none', 0), ('skip_connect', 1)], [('none', 0), ('none', 1), ('nor_conv_1x1', 2)]]"
    )
    for text in (cell, f"arch: {cell}", lists, lists.replace("[", "(").replace(")]", "),)").replace("]", ")")):
        args = ["fit", "--config", "train.yaml", "--model.architecture", text, "--model.auxiliary_weight", "0"]
        task = run([*args, "--trainer.fast_dev_run", "true", "--model.drop_path", "0"]).model
        assert task.architecture.choices == (2, 0, 1, 0, 0, 2)


def test_a_checkpoint_is_tested_by_metrics_that_it_was_not_trained_with(tmp_path: Path) -> None:
    config = tiny("train/digits.yaml", tmp_path)
    Path("train.yaml").write_text(yaml.safe_dump(config))
    checkpoint = checkpoint_of(run(["fit", "--config", "train.yaml"]))
    f1 = {"class_path": "torchmetrics.F1Score", "init_args": {"average": "macro"}}
    config["model"]["init_args"]["metrics"] = {"f1": f1, "recall": "torchmetrics.Recall"}
    Path("test.yaml").write_text(yaml.safe_dump(config))
    metrics = run(["test", "--config", "test.yaml", "--ckpt_path", checkpoint]).trainer.callback_metrics
    assert {"test/f1", "test/recall", "test/accuracy"} <= metrics.keys()


def test_a_training_starts_from_the_weights_of_another_number_of_classes(tmp_path: Path) -> None:
    config = tiny("train/digits.yaml", tmp_path)
    Path("train.yaml").write_text(yaml.safe_dump(config))
    first = run(["fit", "--config", "train.yaml", "--trainer.limit_train_batches", "1"])
    told = {"num_classes": 5, "image_shape": [3, 16, 16]}
    own = {"class_path": "tests.cli.test_cli.Plain", "init_args": {"attributes": told}}
    Path("plain.yaml").write_text(yaml.safe_dump({**config, "data": own}))
    start = ["--model.initial_weights", checkpoint_of(first)]
    rate = ["--model.optimizer.lr", "0.0"]
    task = run(["fit", "--config", "plain.yaml", *start, *rate]).model
    assert task.network.classifier.out_features == 5
    weights = [dict(each.named_parameters()) for each in (first.model.network, task.network)]
    body = [name for name in weights[0] if not name.startswith("classifier.")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in body)
    assert task.inputs["initial_weights"] == [Path(checkpoint_of(first))]


def test_components_are_swapped_on_the_command_line(search: Path) -> None:
    base = "lightning_nas.differentiable."
    args = [f"--model.hypergradient={base}hypergradient.second_order.SecondOrder", "--model.hypergradient.radius=0.02"]
    args += [f"--model.normalization={base}normalization.edge_softmax.EdgeSoftmax"]
    args += [f"--model.discretizer={base}discretization.product_score.ProductScore"]
    cli = run(["fit", "--config", str(search), *args])
    assert cli.model.hypergradient.radius == 0.02
    assert len(cli.model.model.alpha_list) == 4


def test_a_component_of_the_users_own_is_found_in_the_working_directory(
    search: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each not in ("", str(tmp_path))])
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    (tmp_path / "mine.py").write_text(
        "from lightning_nas.differentiable.regularization.base import Regularizer\n"
        "class Mine(Regularizer):\n"
        "    def __init__(self, weight: float = 1.0) -> None:\n"
        "        self.weight = weight\n"
        "    def penalty(self, alphas, progress):\n"
        "        return self.weight * sum(a.square().sum() for a in alphas.values())\n"
    )
    path = list(sys.path)
    own = ["--model.regularizers+=mine.Mine", "--model.regularizers.weight=0.5"]
    main(["fit", "--config", str(search), "--trainer.default_root_dir=.", *own])
    written = yaml.safe_load(Path("lightning_logs/version_0/cli_config.yaml").read_text())
    made = {"class_path": "mine.Mine", "init_args": {"weight": 0.5}}
    assert written["model"]["init_args"]["regularizers"] == [made]
    assert sys.path == path


def test_a_cosine_lasts_as_long_as_the_training(search: Path) -> None:
    cli = run(["fit", "--config", str(search), "--trainer.max_epochs=3"])
    assert cli.trainer.lr_scheduler_configs[0].scheduler.T_max == 3


def test_a_cosine_by_steps_lasts_as_long_as_the_steps(configs: Path) -> None:
    for epochs in (1, 2):
        args = ["--config", str(configs / "predict" / "tnao.yaml"), "--trainer.max_epochs", str(epochs)]
        config = NASCLI(args=args, run=False).config
        assert config.model.init_args.scheduler.init_args.T_max == epochs * config.data.init_args.steps


def test_a_cosine_of_p_darts_lasts_as_long_as_a_phase(configs: Path) -> None:
    for epochs, callbacks, length in ((75, [], 25), (30, [], 10), (30, ["--trainer.callbacks", "null"], 30)):
        args = ["--config", str(configs / "search" / "p_darts.yaml"), "--trainer.max_epochs", str(epochs), *callbacks]
        config = NASCLI(args=args, run=False).config
        assert config.model.init_args.weight_scheduler.init_args.T_max == length


@pytest.mark.parametrize("seed", ["-1", str(2**32), "abc"])
def test_a_seed_out_of_range_is_refused(seed: str, search: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", seed)
    with pytest.raises(SystemExit, match=f"ConfigError: The environment variable PL_GLOBAL_SEED is '?{seed}"):
        main(["fit", "--config", str(search), "--seed_everything", "true"])
    if seed != "abc":
        with pytest.raises(SystemExit, match=f"ConfigError: seed_everything is {seed}; a seed must be an integer"):
            main(["fit", "--config", str(search), "--seed_everything", seed])


def test_the_overlay_for_several_devices_runs_on_one(search: Path, configs: Path) -> None:
    overlay = ["--config", str(configs / "trainer" / "ddp.yaml")]
    cli = run(["fit", "--config", str(search), *overlay, "--trainer.accelerator=cpu", "--trainer.devices=1"])
    assert isinstance(cli.trainer.strategy, SingleDeviceStrategy)
    assert cli.trainer.precision == "bf16-mixed"
    kinds = [type(each) for each in cli.trainer.callbacks]  # type: ignore[attr-defined]
    assert len(kinds) == len(set(kinds))


def test_the_overlay_for_a_gpu_chooses_fast_kernels(search: Path, configs: Path, monkeypatch: Any) -> None:
    asked: list[str] = []
    monkeypatch.setattr(torch, "set_float32_matmul_precision", asked.append)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    small = ["--trainer.accelerator=cpu", "--trainer.fast_dev_run=true"]
    run(["fit", "--config", str(search), "--config", str(configs / "trainer" / "gpu.yaml"), *small])
    run(["fit", "--config", str(search), *small])  # in the same process
    assert asked == ["high", "highest"]
    assert torch.backends.cudnn.benchmark
    exact = ["--trainer.deterministic=true", "--trainer.benchmark=false", "--matmul_precision=highest"]
    config = NASCLI(args=["--config", str(search), *exact], run=False).config
    assert (config.matmul_precision, config.trainer.benchmark) == ("highest", False)


def test_a_search_goes_on_as_if_it_had_not_stopped(search: Path, tmp_path: Path) -> None:
    args = ["fit", "--config", str(search), "--trainer.max_epochs=2"]
    whole = run(args).model.state_dict()
    # the first epoch alone, under the schedule of two
    half = run([*args, "--trainer.callbacks+=tests.helpers.StopAfterFirst"])
    torch.manual_seed(1234)
    again = run([*args, "--ckpt_path", checkpoint_of(half)]).model
    assert len(again.history) == 2
    for name, value in again.state_dict().items():
        assert torch.equal(value, whole[name]), name


def test_a_checkpoint_of_another_task_or_class_is_refused(search: Path, tmp_path: Path, configs: Path) -> None:
    checkpoint = checkpoint_of(run(["fit", "--config", str(search)]))
    train = tmp_path / "train.yaml"
    train.write_text(yaml.safe_dump(tiny("train/digits.yaml", tmp_path)))
    with pytest.raises(CheckpointError, match="TrainTask"):
        run(["fit", "--config", str(train), "--ckpt_path", checkpoint])
    path = "lightning_nas.differentiable.hypergradient.one_level.OneLevel"
    with pytest.raises(CheckpointError, match="OneLevel"):
        run(["fit", "--config", str(search), f"--model.hypergradient={path}", "--ckpt_path", checkpoint])
    with pytest.raises(CheckpointError, match="another network"):
        run(["fit", "--config", str(search), "--model.space.nodes=3", "--ckpt_path", checkpoint])
    with pytest.raises(CheckpointError, match="does not exist"):
        run(["fit", "--config", str(search), "--ckpt_path", "nowhere.ckpt"])
    # other values are not another task: the configuration wins over the checkpoint
    cli = run(["fit", "--config", str(search), "--model.weight_clip_norm=1.5", "--ckpt_path", checkpoint])
    assert cli.model.weight_clip_norm == 1.5


class Executed:
    """Unpickling this would be seen."""

    def __reduce__(self) -> Any:
        return (pytest.fail, ("executed",))


def test_foreign_checkpoints_are_refused_and_not_executed(search: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.ckpt"
    for content in ({"state_dict": {}, "hyper_parameters": {"_class_path": "os.system"}}, {"x": Executed()}):
        torch.save(content, foreign)
        with pytest.raises(CheckpointError, match="foreign.ckpt"):
            run(["fit", "--config", str(search), "--ckpt_path", str(foreign)])
    foreign.write_bytes(b"")
    with pytest.raises(CheckpointError, match="foreign.ckpt"):
        run(["fit", "--config", str(search), "--ckpt_path", str(foreign)])


def touch(path: str) -> None:
    """What a configuration must not call."""
    Path(path).touch()


def test_a_class_path_in_a_value_of_any_type_makes_nothing(tmp_path: Path) -> None:
    config = tiny("train/digits.yaml", tmp_path)
    made = {"class_path": "tests.cli.test_cli.Made", "init_args": {"path": "called"}}
    config["model"]["init_args"]["network_arguments"] = {"width": made}
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(ConfigError, match="does not take width"):
        run(["fit", "--config", "train.yaml"])
    assert not Path("called").exists()


class Made:
    """Leaves a file where it is made."""

    def __init__(self, path: str) -> None:
        touch(path)


def test_errors_of_the_library_end_a_command_with_one_line(search: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"DataError: .*nowhere\.npz"):
        main(["fit", "--config", str(search), "--data.data.init_args.path=nowhere.npz"])


def test_weights_of_another_architecture_are_refused_though_they_fit(tmp_path: Path, configs: Path) -> None:
    config = tiny("train/digits.yaml", tmp_path)
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(config))
    checkpoint = checkpoint_of(run(["fit", "--config", "train.yaml"]))
    path = Path(config["model"]["init_args"]["architecture"])
    found = load_architecture(path)
    # another source of a node of the normal cell: the parameters have the same shapes
    near = (n for n in build_space(found.space).neighbours(found) if n.choices[16:] == found.choices[16:])
    next(n for n in near if n.choices[1::2] == found.choices[1::2]).save(path)
    with pytest.raises(CheckpointError, match="another architecture"):
        run(["test", "--config", "train.yaml", "--ckpt_path", checkpoint])


def test_what_lightning_refuses_is_said_without_a_traceback(search: Path) -> None:
    bar = ["--trainer.enable_progress_bar=false", "--trainer.callbacks+=TQDMProgressBar"]
    with pytest.raises(SystemExit, match="ConfigError: Lightning refuses the configuration: .*TQDMProgressBar"):
        main(["fit", "--config", str(search), *bar])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--trainer.callbacks=[ModelCheckpoint, ModelCheckpoint]"], "more than one stateful callback"),
        (["--trainer.callbacks+=LearningRateFinder"], "learning rate finder"),
        (["--trainer.callbacks+=BackboneFinetuning"], "no attribute 'backbone'"),
    ],
)
def test_errors_of_lightning_itself_have_no_traceback(options: list[str], said: str, search: Path) -> None:
    with pytest.raises(SystemExit, match=f"ConfigError: Lightning refuses the configuration: .*{said}.*Change") as stop:
        main(["fit", "--config", str(search), *options])
    assert "\n" not in str(stop.value)


def test_errors_of_others_keep_their_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        run(["fit"], lambda args: 1 / 0)  # type: ignore[arg-type, return-value]


def test_a_logger_that_is_not_installed_is_named(search: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "comet_ml", None)
    with pytest.raises(SystemExit, match=r"ConfigError: .*ModuleNotFoundError: .*comet") as stopped:
        main(["fit", "--config", str(search), "--trainer.logger=CometLogger"])
    assert "\n" not in str(stopped.value)


def test_what_a_constructor_refuses_is_said_in_one_paragraph(tmp_path: Path) -> None:
    config = str(Path(__file__).resolve().parents[2] / "configs" / "search" / "gm_nas_split.yaml")
    missing = tmp_path / "supernet.safetensors"
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--config", config, "--model.supernet_path", str(missing)])
    said = str(stopped.value)
    assert said.startswith(f"lightning-nas: ArtifactError: {missing}")
    assert "--model.write_supernet true" in said
    assert "Traceback" not in said


def test_a_test_leaves_the_configuration_of_its_fit(tmp_path: Path) -> None:
    config = tmp_path / "train.yaml"
    config.write_text(yaml.safe_dump(tiny("train/digits.yaml", tmp_path)))
    logger = ["--trainer.logger=CSVLogger", f"--trainer.logger.save_dir={tmp_path}", "--trainer.logger.version=one"]
    fitted = run(["fit", "--config", str(config), *logger])
    kept = tmp_path / "lightning_logs" / "one" / "cli_config.yaml"
    before = kept.read_text()
    run(["test", "--config", str(kept), "--ckpt_path", checkpoint_of(fitted)])
    assert kept.read_text() == before


@pytest.mark.parametrize("args", [["--help"], ["configs"]])
def test_a_reader_may_leave(args: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run([sys.executable, "-m", "lightning_nas", *args], stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (141, b"")
