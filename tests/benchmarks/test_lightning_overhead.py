"""A step in the Trainer beside one in a plain loop, in a tiny setting."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch

from benchmarks.lightning_overhead import PlainLoop, arguments_of, main
from lightning_nas.data import HalvesDataModule
from lightning_nas.data.images import DigitsDataModule
from lightning_nas.spaces import DARTSSpace


def test_both_loops_are_timed(last: Callable[[], dict[str, Any]], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, "lightning.pytorch")  # what main sets is set back
    main(["--batch=256", "--epochs=2", "--lean"])
    found = last()
    assert list(found) == [
        *("ratio", "ratio_cpu", "ratio_with_checkpoint", "seconds_plain_step", "seconds_trainer_step"),
        *("steps_an_epoch", "epochs"),
    ]
    assert found["steps_an_epoch"] == 718 // 256
    assert min(found.values()) > 0
    with pytest.raises(SystemExit):
        main(["--epochs=1"])


def test_the_plain_loop_has_the_sizes_of_the_page_of_results() -> None:
    """16 + 16 digits per step, one thread."""
    options = arguments_of([])
    assert (options.batch, options.threads, options.epochs) == (16, 1, 15)
    data = HalvesDataModule(DigitsDataModule(batch_size=options.batch), batch_size=options.batch)
    data.prepare_data()
    data.setup("fit")
    loop = PlainLoop(DARTSSpace(nodes=2, channels=options.channels, cells=2), data, options.batch)
    batches = loop.batches("train")
    assert {len(batch) for batch in batches} == {16}
    images, labels = loop.read(batches[0])
    assert (images.shape, labels.shape) == ((16, 1, 8, 8), (16,))
    before = [weight.clone() for weight in loop.weights]
    loop.halves = {name: indices[:16] for name, indices in loop.halves.items()}
    loss, accuracy = loop.epoch()
    assert loss > 0
    assert 0 <= accuracy <= 1
    assert any(not torch.equal(a, b) for a, b in zip(before, loop.weights, strict=True))
