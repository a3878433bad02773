"""Damaged parts of a checkpoint end a command in one paragraph."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lightning_nas.__main__ import main
from lightning_nas.cli.lightning import run
from tests.tiny import tiny

DAMAGE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "states of callbacks": lambda c: c.update(callbacks=dict.fromkeys(c["callbacks"], 7)),
    "other states of callbacks": lambda c: c.update(callbacks=dict.fromkeys(c["callbacks"], {"x": 1})),
    "progress": lambda c: c["loops"]["fit_loop"].update(epoch_progress=7),
    "loops": lambda c: c["loops"]["fit_loop"].update(state_dict=[]),
    "no optimizer": lambda c: c.update(optimizer_states=[None]),
    "groups of an optimizer": lambda c: c["optimizer_states"][0].update(param_groups=[{}]),
    "schedule": lambda c: c.update(lr_schedulers=[{"T_max": "x"}]),
    "epoch of a schedule": lambda c: c["lr_schedulers"][0].update(last_epoch="x"),
    "rates of a schedule": lambda c: c["lr_schedulers"][0].update(base_lrs=[]),
}


def test_damaged_parts_are_refused_in_one_paragraph(tmp_path: Path, configs: Path) -> None:
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump(tiny("train/digits.yaml", tmp_path)))
    made = run(["fit", "--config", str(path)])
    good = str(made.trainer.checkpoint_callback.best_model_path)  # type: ignore[union-attr]
    for damage in DAMAGE.values():
        content = torch.load(good, weights_only=True)
        damage(content)
        torch.save(content, tmp_path / "damaged.ckpt")
        with pytest.raises(SystemExit, match="CheckpointError: .*damaged.*start anew") as stopped:
            main(
                ["fit", "--config", str(path), "--trainer.max_epochs=2", "--ckpt_path", str(tmp_path / "damaged.ckpt")]
            )
        assert "\n" not in str(stopped.value)
