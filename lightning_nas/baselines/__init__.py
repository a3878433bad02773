"""Standard networks to compare a found network with."""

from lightning_nas.baselines.fit import FittedResNet, fit_resnet
from lightning_nas.baselines.libraries import TimmNetwork, TorchvisionNetwork
from lightning_nas.baselines.resnet import CIFARResNet

__all__ = ["FittedResNet", "CIFARResNet", "TimmNetwork", "TorchvisionNetwork", "fit_resnet"]
