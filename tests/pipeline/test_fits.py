"""Which trainers of a pipeline need a process of their own."""

from typing import Any

import pytest

from lightning_nas.pipeline.fits import in_one_process


@pytest.mark.parametrize(
    ("trainer", "one"),
    [
        ({}, False),
        ({"devices": 1}, True),
        ({"devices": 2}, False),
        ({"accelerator": "gpu"}, False),
        ({"accelerator": "cpu"}, True),
        ({"accelerator": "cpu", "devices": "auto"}, True),
        ({"accelerator": "cpu", "devices": 2}, False),
        ({"accelerator": "cpu", "strategy": "ddp"}, False),
        ({"devices": 1, "num_nodes": 2}, False),
    ],
)
def test_a_trainer_of_one_device_needs_no_other_process(trainer: dict[str, Any], one: bool) -> None:
    assert in_one_process(trainer) is one
