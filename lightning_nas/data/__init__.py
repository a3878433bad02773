"""Data modules: images, halves of a search, architectures, and the splits behind them."""

from lightning_nas.data.architectures import ArchitecturesDataModule
from lightning_nas.data.augmentation import Augmentation, Cutout, RandomCrop, RandomFlip
from lightning_nas.data.base import ImageDataModule
from lightning_nas.data.class_balanced import ClassBalancedDataModule
from lightning_nas.data.dummy import DummyDataModule
from lightning_nas.data.halves import HalvesDataModule
from lightning_nas.data.images import (
    ArrayDataModule,
    CIFAR10DataModule,
    CIFAR100DataModule,
    DigitsDataModule,
    FolderDataModule,
)
from lightning_nas.data.wrapped import WrappedDataModule

__all__ = [
    "ArchitecturesDataModule",
    "ArrayDataModule",
    "Augmentation",
    "CIFAR100DataModule",
    "CIFAR10DataModule",
    "ClassBalancedDataModule",
    "Cutout",
    "DigitsDataModule",
    "DummyDataModule",
    "FolderDataModule",
    "HalvesDataModule",
    "ImageDataModule",
    "RandomCrop",
    "RandomFlip",
    "WrappedDataModule",
]
