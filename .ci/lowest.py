"""Prints the lowest versions that pyproject.toml allows for the direct dependencies, as constraints of pip."""

import re
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
for line in [*project["dependencies"], *project["optional-dependencies"]["tests"]]:
    found = re.match(r"([\w-]+)(?:\[.*?\])?>=([\w.]+)", line)
    if found:
        print(f"{found[1]}=={found[2]}")
