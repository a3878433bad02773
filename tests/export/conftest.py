"""Networks of a user's own modules."""

from collections.abc import Callable
from pathlib import Path

import pytest
from torch import nn

Build = Callable[..., type[nn.Module]]

LAYERS = '''
import torch.nn as layers
import math

# how much
SCALE: float = math.sqrt(4)
"""Doubles."""

def unused(): return numpy


def scale(x):
    return x * SCALE


class Base(layers.Module):
    def forward(self, x):
        return scale(self.linear(x.flatten(1)))
'''
NETWORK = """
from {package}.layers import Base
import torch.nn.functional as F
from torch import nn
{extra}


class Net(Base):
    def __init__(self, width):
        super().__init__()
        self.arguments = {{"width": width}}
        self.linear = nn.Linear(width, 3)

    def forward(self, x):
        return F.relu(super().forward(x)) {use}
"""


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Build:
    monkeypatch.syspath_prepend(tmp_path)

    def make_class(package: str, extra: str = "", use: str = "", layers: str = LAYERS) -> type[nn.Module]:
        folder = tmp_path / package
        folder.mkdir()
        (folder / "__init__.py").write_text("")
        (folder / "layers.py").write_text(layers)
        (folder / "net.py").write_text(NETWORK.format(package=package, extra=extra, use=use))
        return __import__(f"{package}.net").net.Net

    return make_class
