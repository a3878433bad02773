"""The source that an exported file gets from a user's own modules."""

from pathlib import Path

import pytest
from torch import nn

from lightning_nas.errors import ConfigError
from lightning_nas.export.formats import Exported
from lightning_nas.export.network import export_network
from tests.export.conftest import Build


def export(network: nn.Module, folder: Path) -> Exported:
    options = {"image_shape": (1, 4, 4), "class_names": ["a", "b", "c"], "mean": [0.5], "std": [0.25], "header": ""}
    return export_network(network, folder, **options)  # type: ignore[arg-type]


def test_users_own_plain_modules(build: Build, tmp_path: Path) -> None:
    text = export(build("plain_one")(16), tmp_path / "out").path.read_text()
    assert text.index("SCALE: float") < text.index("def scale") < text.index("class Base") < text.index("class Net")
    assert '# how much\nSCALE: float = math.sqrt(4)\n"""Doubles."""\n' in text
    assert "unused" not in text
    assert "import math\nfrom pathlib import Path\n\nimport torch\nimport torch.nn as layers\n" in text


@pytest.mark.parametrize(
    ("package", "extra", "use", "message"),
    [
        ("foreign", "import numpy", "", "import numpy"),
        ("renamed", "from renamed.layers import Base as B", "", "from renamed.layers import Base as B"),
        ("whole", "import whole.layers", "", "import whole.layers"),
        ("star", "from math import *", "", r"from math import \*"),
        ("loop", "for i in range(2):\n    pass", "", "line 5"),
        ("missing", "from missing import layers", "+ len(layers.__name__)", "from the modules that define them"),
        ("clash", "MEAN = 3", "+ MEAN", "'MEAN'"),
    ],
)
def test_what_cannot_be_copied(build: Build, tmp_path: Path, package: str, extra: str, use: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        export(build(package, extra, use)(16), tmp_path / "out")
