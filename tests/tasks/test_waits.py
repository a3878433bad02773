"""No step of a training waits for a GPU without need, counted on the CPU for every shipped configuration."""

from collections import Counter
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch import Trainer

from lightning_nas.cli.lightning import NASCLI
from tests.helpers import QUIET
from tests.tiny import CONFIGS, tiny
from tests.waits import SteadyStep, Waits

FOLDERS = ("search", "supernet", "train", "distill")
ELSEWHERE = {"distill/fidelity.yaml"}  # its steps are evaluations of architectures, each of which returns numbers
NAMES = sorted(f"{f}/{path.name}" for f in FOLDERS for path in (CONFIGS / f).glob("*.yaml"))

ONLY_ON_THE_CPU = (
    "in spaces/nasbench201/fused_edges.py, forward",  # reads factors where this costs nothing
    "in spaces/nasbench201/fused_edges.py, backward",
    "in tasks/common.py, check_labels",  # looks at the first batch only of an epoch on a GPU
    "in distill/gradient.py, _targets",  # one_hot looks at its input on the CPU only
    "in distill/gradient.py, _one_hot",
)
NEEDED = {
    # the alphas decide what is computed: both passes read both cell types; then the guard reads gradients
    "search/gdas.yaml": {"cpu in differentiable/alpha_mask.py, mixture": 4, "tolist in supernets/unused_weights.py": 1},
    **{name: {"tolist in supernets/unused_weights.py": 1} for name in NAMES if name.startswith("supernet/")},
    # class by class, with as many images as each has, because one class after the other takes less memory
    "distill/gradient_matching.yaml": {
        "boolean index in distill/gradient.py, loss": 9,
        "boolean index in tasks/distill.py, optimizer_step": 3,  # the backward pass of these
        "_unique2 in distill/gradient.py, loss": 1,
        "tolist in distill/gradient.py, loss": 1,
        "_local_scalar_dense in distill/gradient.py, advance": 1,
    },
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [name for name in NAMES if name not in ELSEWHERE])
def test_a_steady_step_waits_no_more_than_it_needs(name: str, tmp_path: Path) -> None:
    config = tiny(name, tmp_path)
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(config))
    cli = NASCLI(args=["--config", str(path)], run=False)
    made, steps = cli.parser.instantiate(cli.config), SteadyStep()
    kept = {key: config["trainer"][key] for key in ("max_epochs", "default_root_dir")}
    options = {**QUIET, **kept, "limit_train_batches": 3, "log_every_n_steps": 1000, "callbacks": [steps]}
    Trainer(**options).fit(made.model, datamodule=made.data)
    steady = steps.found[min(2, len(steps.found) - 1)]
    found = {key: count for key, count in steady.items() if not key.endswith(ONLY_ON_THE_CPU)}
    allowed = NEEDED.get(name, {})
    over = {
        key: count
        for key, count in found.items()
        if count > sum(number for place, number in allowed.items() if key.startswith(place))
    }
    assert not over


def test_what_counts_as_a_wait() -> None:
    weights, device = torch.ones(4), torch.device("cpu")
    with Waits(iter([weights])) as waits:
        half = weights / 2
        half[half > 0.7].sum()
        half[torch.tensor([0, 2])].sum()
        float(half.sum())
        half.tolist()
        torch.tensor([1.0], device=half.device)
        torch.ones(2).to(device)
    kinds = Counter(key.partition(" in ")[0] for key in waits.found)
    one_each = ("boolean index", "index from the host", "_local_scalar_dense", "tolist", "tensor from a list")
    assert kinds == dict.fromkeys((*one_each, "copy to the device"), 1)
    with Waits(iter([weights])) as waits:
        index = torch.tensor([0, 2]).to(weights.device, non_blocking=True)
        weights[index].sum()
        float(torch.ones(2).sum())
        torch.tensor([1.0], device="cpu")
    assert not waits.found
