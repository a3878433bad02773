"""Pictures and files on loggers other than Weights & Biases."""

import io
import logging
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger
from PIL import Image

from lightning_nas.callbacks.media_log import ELSEWHERE, MEDIA, Media, MediaLog, MLFlowMedia, TensorBoardMedia
from lightning_nas.callbacks.run_pictures import Pictures
from lightning_nas.differentiable.discretization.softmax_score import SoftmaxScore
from lightning_nas.differentiable.hypergradient.first_order import FirstOrder
from lightning_nas.errors import ConfigError
from lightning_nas.files.artifacts import read_json
from lightning_nas.spaces.darts.space import DARTSSpace
from lightning_nas.tasks.bilevel import BilevelTask
from tests.helpers import FixedHalves, quiet_trainer

COUNTS = ("_decided", "_undecided", "_images")


class Numbers(Logger):
    """Keeps numbers only."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[dict[str, Any]] = []

    @property
    def name(self) -> str:
        return "numbers"

    @property
    def version(self) -> str:
        return "0"

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        self.rows.append(dict(metrics))


class Album(Numbers):
    """Keeps everything, as a logger of a user's own may."""

    def __init__(self) -> None:
        super().__init__()
        self.pictures: list[tuple[int, Pictures]] = []
        self.files: dict[str, list[str]] = {}

    def log_pictures(self, pictures: Pictures, step: int) -> None:
        self.pictures.append((step, pictures))

    def log_files(self, name: str, files: Sequence[Path]) -> None:
        assert all(file.is_file() for file in files)
        self.files[name] = [file.name for file in files]


def search(folder: Path, loggers: list[Logger], callback: MediaLog | None = None, epochs: int = 3) -> BilevelTask:
    torch.manual_seed(7)
    task = BilevelTask(
        space=DARTSSpace(nodes=2, channels=4, cells=3, operations=["none", "skip_connect", "sep_conv_3x3"]),
        hypergradient=FirstOrder(),
        discretizer=SoftmaxScore(),
        weight_optimizer=lambda p: torch.optim.SGD(p, lr=0.01),
        alpha_optimizer=lambda p: torch.optim.Adam(p, lr=0.01),
        output_dir=str(folder),
        num_classes=3,
        image_shape=(3, 8, 8),
        selection_images=8,
    )
    callbacks = [callback or MediaLog()]
    trainer = quiet_trainer(max_epochs=epochs, logger=loggers, callbacks=callbacks)
    trainer.fit(task, datamodule=FixedHalves(batches=2, dtype=torch.float32))
    return task


def test_a_logger_of_ones_own_gets_pictures_and_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    album, numbers = Album(), Numbers()
    with caplog.at_level(logging.INFO):
        search(tmp_path, [album, numbers, CSVLogger(tmp_path / "csv")])
    assert [step for step, _ in album.pictures] == [1, 2, 3]
    for step, pictures in album.pictures:
        assert set(pictures) == {"alphas/normal", "alphas/reduce", "cells/normal", "cells/reduce"}
        for shown in pictures.values():
            ((caption, content),) = shown.items()
            assert caption == f"epoch {step}"
            assert Image.open(io.BytesIO(content)).format == "PNG"
    assert "architecture.json" in album.files["architecture"]
    errors = [row for row in album.rows if "selection_errors/edges_decided" in row]
    assert len(errors) == 1
    measured = read_json(tmp_path / "architecture.json", repair="")["provenance"]["selection_errors"]
    for kind, count in (("edges", 2), ("operations", 8)):
        values = {name: errors[0].get(f"selection_errors/{kind}{name}") for name in ("", *COUNTS, "_low", "_high")}
        assert values[""] == measured[kind]["rate"]
        assert (values["_low"], values["_high"]) == (measured[kind]["low"], measured[kind]["high"])
        assert values["_decided"] + values["_undecided"] == count
        assert values["_images"] == 8
    # one line, for the logger that gets less
    (line,) = [message for message in caplog.messages if "left out" in message]
    assert line.startswith("Numbers gets numbers only")


def test_pictures_may_be_fewer(tmp_path: Path) -> None:
    album = Album()
    search(tmp_path, [album], MediaLog(every_n_epochs=2))
    assert [step for step, _ in album.pictures] == [2, 3]
    with pytest.raises(ConfigError, match="every_n_epochs"):
        MediaLog(every_n_epochs=0)


def test_without_such_a_logger_nothing_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr("lightning_nas.callbacks.run_pictures.search_pictures", fail)
    monkeypatch.setattr("lightning_nas.callbacks.media_log.result_pictures", fail)
    search(tmp_path, [CSVLogger(tmp_path / "csv")], epochs=1)


def png(value: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((2, 3), value, np.uint8)).save(file, "PNG")
    return file.getvalue()


class Recorder:
    """Notes calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Any:
        def note(*args: Any, **kwargs: Any) -> None:
            content = [Path(arg).read_bytes() if str(arg).endswith(".png") else arg for arg in args]
            self.calls.append((name, tuple(content), kwargs))

        return note


def test_tensorboard_gets_images_and_paths(tmp_path: Path) -> None:
    recorder = Recorder()
    media = TensorBoardMedia(SimpleNamespace(experiment=recorder))
    media.log_pictures({"cells/normal": {"epoch 1": png(7)}, "proxy/images": {"proxy": png(1), "real": png(2)}}, 4)
    assert [call[1][0] for call in recorder.calls] == ["cells/normal", "proxy/images/0", "proxy/images/1"]
    assert [int(call[1][1][0, 0, 0]) for call in recorder.calls] == [7, 1, 2]
    assert all(call[1][1].shape == (2, 3, 3) and call[1][2] == 4 for call in recorder.calls)
    media.log_files("architecture", [tmp_path / "architecture.json"])
    name, args, _ = recorder.calls[-1]
    assert (name, args[0]) == ("add_text", "files/architecture")
    assert str(tmp_path / "architecture.json") in args[1]


def test_mlflow_gets_artifacts(tmp_path: Path) -> None:
    recorder = Recorder()
    media = MLFlowMedia(SimpleNamespace(experiment=recorder, run_id="r1"))
    media.log_pictures({"cells/normal": {"epoch 1": png(7)}}, 1)
    media.log_files("architecture", [tmp_path / "architecture.json"])
    assert [call[0] for call in recorder.calls] == ["log_artifact"] * 2
    assert recorder.calls[0][1] == ("r1", png(7))
    assert recorder.calls[0][2] == {"artifact_path": "pictures/cells/normal"}
    assert recorder.calls[1][1] == ("r1", str(tmp_path / "architecture.json"))
    assert recorder.calls[1][2] == {"artifact_path": "architecture"}


def test_loggers_of_lightning_are_told_apart_by_their_classes() -> None:
    assert set(MEDIA) == {TensorBoardLogger, MLFlowLogger}
    assert not set(MEDIA) & set(ELSEWHERE)
    assert isinstance(Album(), Media)
    assert not isinstance(Numbers(), Media)


@pytest.mark.slow
def test_a_search_on_tensorboard(tmp_path: Path) -> None:
    accumulators = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="pip install tensorboard"
    )
    logger = TensorBoardLogger(str(tmp_path / "events"))
    search(tmp_path / "search", [logger])
    read = accumulators.EventAccumulator(logger.log_dir, size_guidance={"images": 0})
    read.Reload()
    assert [event.step for event in read.Images("cells/normal")] == [1, 2, 3]
    keys = {f"{kind}/{cell}" for kind in ("alphas", "cells") for cell in ("normal", "reduce")}
    assert set(read.Tags()["images"]) == keys
    assert {f"selection_errors/edges{name}" for name in COUNTS} <= set(read.Tags()["scalars"])
    assert "files/architecture/text_summary" in read.Tags()["tensors"]


@pytest.mark.slow
def test_a_search_on_mlflow(tmp_path: Path) -> None:
    pytest.importorskip("mlflow", reason="pip install mlflow-skinny")
    folder = f"file:{tmp_path / 'mlruns'}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        patch.setenv("MLFLOW_TRACKING_URI", folder)  # it sets this one itself
        search(tmp_path / "search", [MLFlowLogger(tracking_uri=folder)], epochs=1)
    kept = [path.as_posix() for path in tmp_path.glob("mlruns/*/*/artifacts/**/*.*")]
    names = {path.partition("/artifacts/")[2] for path in kept}
    assert {"pictures/cells/normal/epoch_1.png", "architecture/architecture.json"} <= names
