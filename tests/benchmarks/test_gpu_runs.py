"""The parts of the benchmark for GPUs that are whole runs, in tiny sizes on the CPU."""

from pathlib import Path

import pytest

from benchmarks.gpu import main
from tests.benchmarks.test_gpu import RUNS, Last


@pytest.mark.slow
def test_the_parts_that_run_whole_searches(images: Path, tables: Path, last: Last) -> None:
    main(["--tiny", "--device=cpu", f"--data={images}", f"--tables={tables}", "--parts", *RUNS])
    found = last()
    assert list(found) == ["device", "torch", "tiny", *RUNS, "seconds"]
    assert set(found["search"]) >= {"genotype", "found", "random 0", "random 1", "ResNet-20"}
    assert all(0 <= found["search"][name]["accuracy"] <= 100 for name in ("found", "ResNet-20"))
    assert found["search"]["ResNet-20"]["parameters"] == 269_722
    assert -1 <= found["supernet"]["kendall_tau"] <= 1
