"""Sets of operations on edges as rectangles."""

import torch

from lightning_nas.spaces.darts.rectangles import rectangles, take


def test_rectangles_cover_a_set_once() -> None:
    generator = torch.Generator().manual_seed(0)
    for density in (0.1, 0.5, 0.9, 1.1):
        for sources in (1, 2):
            mask = torch.rand(4, sources, 5, generator=generator) < density
            count = torch.zeros(mask.shape, dtype=torch.long)
            for targets, of, operations in rectangles(mask):
                for t in targets:
                    for s in of:
                        count[t, s, list(operations)] += 1
            assert torch.equal(count, mask.long())
    assert len(rectangles(torch.ones(4, 2, 5, dtype=torch.bool))) == 1


def test_indices_are_taken_without_copies_where_they_lie_together() -> None:
    x = torch.arange(10).view(2, 5)
    assert take(x, 1, range(5)) is x
    assert take(x, 1, [1, 2, 3]).data_ptr() == x[:, 1:].data_ptr()
    assert take(x, 1, [0, 2, 4]).tolist() == [[0, 2, 4], [5, 7, 9]]
