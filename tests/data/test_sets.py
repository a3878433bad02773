"""Sets of images check themselves."""

import pytest
import torch

from lightning_nas.data.sets import ImageSet
from lightning_nas.errors import DataError


def test_image_sets_check_themselves() -> None:
    good = torch.zeros(2, 1, 3, 3, dtype=torch.uint8)
    with pytest.raises(DataError, match=r"shape \(1, 3, 3\); expected 4 axes"):
        ImageSet(good[0], torch.zeros(1, dtype=torch.int64))
    with pytest.raises(DataError, match="torch.int32; expected uint8"):
        ImageSet(good.int(), torch.zeros(2, dtype=torch.int64))
    for labels in (torch.zeros(2), torch.zeros(2, dtype=torch.bool)):
        with pytest.raises(DataError, match="expected integers from 0"):
            ImageSet(good, labels)
