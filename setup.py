"""Puts the folder ``configs`` into the package; pyproject.toml holds everything else about the build."""

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["lightning_nas", "lightning_nas.*"]), "lightning_nas.configs"])
