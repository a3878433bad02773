"""Synthetic results."""

from pathlib import Path

import pytest

from lightning_nas.errors import ConfigError
from lightning_nas.tables.nasbench201 import NASBench201Table
from lightning_nas.tables.synthetic import write_nasbench201


def test_synthetic_results_are_seeded_and_span_their_range(tmp_path: Path) -> None:
    paths = [write_nasbench201(tmp_path / f"{i}.npz", seed=seed) for i, seed in enumerate((1, 1, 2))]
    one, two, other = (NASBench201Table(str(path)) for path in paths)
    values = one.column("cifar10_val_200")
    assert (values == two.column("cifar10_val_200")).all()
    assert (values != other.column("cifar10_val_200")).any()
    assert values.max() == pytest.approx(95, abs=1)
    assert values.min() == pytest.approx(10, abs=1)
    with pytest.raises(ConfigError, match="trials is 0"):
        write_nasbench201(tmp_path / "none.npz", trials=0)
