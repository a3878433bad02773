"""Every shipped YAML runs, made tiny by its overlay in ``tests/conf``."""

from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import yaml

from lightning_nas.cli.lightning import check_config, run
from lightning_nas.pipeline.config import merge, read_yaml
from tests.tiny import CONFIGS, OVERLAYS, overlay, tiny

FOLDERS = ("distill", "evolve", "predict", "search", "supernet", "train")
STAGES = sorted(p.relative_to(CONFIGS) for folder in FOLDERS for p in (CONFIGS / folder).glob("*.yaml"))
EXTRAS = sorted(p.relative_to(CONFIGS) for folder in ("trainer", "logger") for p in (CONFIGS / folder).glob("*.yaml"))
ARTIFACT = {
    "distill": "proxy.safetensors",
    "evolve": "architecture.json",
    "predict": "architecture.json",
    "search": "architecture.json",
    "supernet": "supernet.safetensors",
    "train": None,
    "distill/experts.yaml": "experts.safetensors",
    "distill/fidelity.yaml": "fidelity.json",
    "distill/quality.yaml": None,
    "search/gm_nas_split.yaml": "split.json",
}
"""What a stage leaves, by its folder or by its file; a training of a network is tested instead."""


SLOW = ("evolve/race.yaml", "evolve/refine_search.yaml", "predict/tnao_nasbench101.yaml", "search/darts_pt.yaml")
PARAMETERS = [pytest.param(name, marks=pytest.mark.slow if str(name) in SLOW else (), id=str(name)) for name in STAGES]


@pytest.mark.parametrize("name", PARAMETERS)
def test_every_stage_fits(name: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tiny(name, tmp_path)))
    cli = run(["fit", "--config", "tiny.yaml"])
    artifact = ARTIFACT.get(str(name), ARTIFACT[name.parts[0]])
    if artifact is not None:
        assert list(tmp_path.glob(f"lightning_logs/**/{artifact}"))
    else:
        run(["test", "--config", "tiny.yaml", "--ckpt_path", cli.trainer.checkpoint_callback.best_model_path])  # type: ignore[union-attr]
    # what is written is known beforehand, so that no run replaces the results of another one
    parts = (cli.model, *cli.trainer.callbacks)  # type: ignore[attr-defined]
    known = {name for part in parts for name in getattr(part, "writes", ())}
    own = {"cli_config.yaml", "metrics.csv", "hparams.yaml"}
    found = {path.name for path in Path("lightning_logs/version_0").iterdir() if path.is_file()}
    assert {name for name in found - own if not name.startswith(".")} <= known
    logged = {name for part in parts for name in getattr(part, "metrics_logged", ())}
    metrics = cli.trainer.callback_metrics
    assert [name for name in metrics if not any(fnmatchcase(name, each) for each in (*logged, "test/*"))] == []
    # what a run writes about itself makes the same run again
    (written,) = tmp_path.glob("lightning_logs/version_0/cli_config.yaml")
    check_config(written)


@pytest.mark.parametrize("name", EXTRAS, ids=str)
def test_overlays_fit_on_a_stage(name: Path, tmp_path: Path) -> None:
    both = merge(read_yaml(CONFIGS / "search" / "darts.yaml"), read_yaml(CONFIGS / name))
    (tmp_path / "both.yaml").write_text(yaml.safe_dump(both))
    check_config(tmp_path / "both.yaml")


def test_every_folder_of_configurations_is_tested() -> None:
    others = {"pipeline", "compare", "trainer", "logger"}
    assert {path.name for path in CONFIGS.iterdir() if path.is_dir()} == {*FOLDERS, *others}
    with pytest.raises(FileNotFoundError, match=r"configs/new/method\.yaml has no overlay"):
        overlay("new/method.yaml")


def test_every_overlay_has_its_configuration() -> None:
    names = {path.relative_to(OVERLAYS) for path in OVERLAYS.glob("*/*.yaml")}
    assert sorted(name for name in names if not (CONFIGS / name).is_file()) == []
