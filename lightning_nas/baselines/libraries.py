"""Networks of torchvision and timm, by their names."""

import importlib
from typing import Any

from torch import Tensor, nn

from lightning_nas.errors import ConfigError, MissingDependencyError


class TorchvisionNetwork(nn.Module):
    """A classifier of torchvision, untrained, by its name. Images of one channel are repeated to three.

    Args:
        image_shape: ``(channels, height, width)`` of an image; torchvision's networks take 1 or 3 channels.
        num_classes: Number of classes.
        name: Name of the network, as ``torchvision.models.list_models()`` lists it.
        arguments: Further arguments of its builder.

    Raises:
        ConfigError: There is no network of that name, it refuses its arguments, or images have another number of
            channels.

    Example:
        ```yaml
        network: {class_path: TorchvisionNetwork, init_args: {name: shufflenet_v2_x0_5}}
        ```
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int,
        name: str = "resnet18",
        arguments: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        from torchvision import models

        self.repeats = _repeats(image_shape[0], name)
        options = {"weights": None, "num_classes": num_classes, **(arguments or {})}
        try:
            self.network: nn.Module = models.get_model(name, **options)
        except Exception as error:  # a builder of another library may raise anything
            raise _refused("torchvision", name, options, error, "torchvision.models.list_models()") from None

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``(batch, channels, height, width)`` to logits ``(batch, classes)``."""
        logits: Tensor = self.network(x.expand(-1, 3, -1, -1) if self.repeats else x)
        return logits


class TimmNetwork(nn.Module):
    """A classifier of timm, untrained, by its name.

    Args:
        image_shape: ``(channels, height, width)`` of an image.
        num_classes: Number of classes.
        name: Name of the network, as ``timm.list_models()`` lists it.
        arguments: Further arguments of ``timm.create_model``, such as ``img_size`` for a network of patches.

    Raises:
        ConfigError: There is no network of that name, or it refuses its arguments.
        MissingDependencyError: timm is not installed.

    Example:
        ```yaml
        network: {class_path: TimmNetwork, init_args: {name: mobilenetv3_small_050}}
        ```
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int,
        name: str = "resnet10t",
        arguments: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        try:
            timm: Any = importlib.import_module("timm")
        except ImportError:
            raise MissingDependencyError("timm", "TimmNetwork", "timm") from None
        options = {"pretrained": False, "num_classes": num_classes, "in_chans": image_shape[0], **(arguments or {})}
        try:
            self.network: nn.Module = timm.create_model(name, **options)
        except Exception as error:  # a builder of another library may raise anything
            raise _refused("timm", name, options, error, "timm.list_models()") from None

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``(batch, channels, height, width)`` to logits ``(batch, classes)``."""
        logits: Tensor = self.network(x)
        return logits


def _repeats(channels: int, name: str) -> bool:
    """Whether gray images must be repeated."""
    if channels not in (1, 3):
        raise ConfigError(
            f"Images have {channels} channels; torchvision's {name} takes 3, or 1 that is repeated. Use another."
        )
    return channels == 1


def _refused(library: str, name: str, options: dict[str, Any], error: Exception, listing: str) -> ConfigError:
    return ConfigError(
        f"{library} makes no network {name!r} with {options} ({type(error).__name__}: {error!s:.300}). Take a name "
        f"from {listing}, and arguments that its builder has."
    )
