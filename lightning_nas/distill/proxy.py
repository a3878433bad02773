"""The artifact of a distillation: a small data set that stands for a large one."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_nas.distill.base import Scheme, Synthetic
from lightning_nas.distill.storage import decode, encode, stored_bytes
from lightning_nas.errors import ArtifactError, ConfigError, DataError
from lightning_nas.files.artifacts import LARGEST_TENSORS, read_json, read_tensors, write_json, write_tensors
from lightning_nas.files.classes import class_path, find_class

_REPAIR = "Make one with 'lightning-nas fit --config distill/…', or check the path."


@dataclass(frozen=True)
class Proxy:
    """A small data set that stands for a large one.

    On disk it is ``proxy.safetensors``, the stored tensors, with ``proxy.json`` beside it.

    Attributes:
        scheme: The scheme, with its stored tensors.
        class_names: Name of every class, in the order of the labels.
        mean: Mean of every channel of the source's training images, on a scale from 0 to 1.
        std: Standard deviation of every channel of the source's training images, on the same scale.
        info: How the proxy was made, as JSON values: matcher, source, counts, seed.
        bits: Bits per number in the file: 2 to 8 (affine integers, packed), 16 (float16) or 32 (float32). What is in
            memory need not be rounded to them; see ``rounded``.

    Example:
        ```python
        proxy = Proxy.load("proxy.safetensors")
        pixels = proxy.images * torch.tensor(proxy.std)[:, None, None] + torch.tensor(proxy.mean)[:, None, None]
        ```
    """

    scheme: Scheme
    class_names: list[str]
    mean: list[float]
    std: list[float]
    info: dict[str, Any]
    bits: int = 32

    @cached_property
    def synthetic(self) -> Synthetic:
        """All images that the scheme makes, with their labels and groups."""
        with torch.no_grad():
            return self.scheme.proxy().detached()

    @property
    def images(self) -> Tensor:
        """Normalized images ``(n, channels, height, width)``."""
        return self.synthetic.images

    @property
    def labels(self) -> Tensor:
        """The class that each image stands for, ``(n,)``."""
        return self.synthetic.labels

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(channels, height, width)``."""
        return self.scheme.proxy_shape()[1:]

    @cached_property
    def _encoded(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        try:
            return encode(self.scheme.state_dict(), self.bits, self.scheme.slice_dims)
        except ValueError as error:
            raise ConfigError(
                f"The proxy cannot be stored in {self.bits} bits: {error}. Use bits 32 or 8, or a lower learning rate "
                "where values are not finite."
            ) from None

    @property
    def stored_bytes(self) -> int:
        """Size in bytes of all stored tensors in the file, with the ranges of packed ones."""
        return stored_bytes(self._encoded[0])

    def rounded(self) -> "Proxy":
        """Return the proxy as it will be read from its file.

        Raises:
            ConfigError: A number is too large for the bits.
        """
        if self.bits == 32:
            return self
        scheme = type(self.scheme)(**self.scheme.arguments())
        scheme.restore(decode(*self._encoded))
        return replace(self, scheme=scheme)

    def save(self, path: str | Path) -> Path:
        """Write both files.

        Args:
            path: Path of ``proxy.safetensors``.

        Returns:
            The path.

        Raises:
            ConfigError: A number is too large for the bits.
        """
        path = Path(path)
        tensors, storage = self._encoded
        write_tensors(path, tensors)
        scheme = {"class_path": class_path(type(self.scheme)), "arguments": self.scheme.arguments()}
        content = {"class_names": self.class_names, "mean": self.mean, "std": self.std, "scheme": scheme}
        write_json(path.with_suffix(".json"), {**content, "storage": storage, **self.info})
        return path

    @classmethod
    def load(cls, path: str | Path) -> "Proxy":
        """Read both files.

        Args:
            path: Path of ``proxy.safetensors``.

        Raises:
            ArtifactError: A file is missing, truncated, foreign or of a newer schema, or the two do not match.
        """
        path = Path(path)
        tensors = read_tensors(path, repair=_REPAIR)
        info = read_json(path.with_suffix(".json"), repair=_REPAIR)
        try:
            names, mean, std, scheme = (info.pop(key) for key in ("class_names", "mean", "std", "scheme"))
        except KeyError as error:
            raise ArtifactError(
                f"{path.with_suffix('.json')} does not describe a proxy: {error} is missing. {_REPAIR}"
            ) from None
        if not _is_list(names, str) or not _is_list(mean, int, float) or not _is_list(std, int, float):
            raise ArtifactError(
                f"{path.with_suffix('.json')} does not describe a proxy: class_names must be a list of text, and mean "
                f"and std lists of finite numbers. {_REPAIR}"
            )
        storage = info.pop("storage", {"bits": 32, "packed": {}})  # files had only floats once
        proxy = cls(_rebuilt(scheme, tensors, storage, path), names, mean, std, info, storage["bits"])
        labels, soft_labels = proxy.labels, proxy.synthetic.soft_labels
        fits = (
            int(labels.min()) >= 0
            and int(labels.max()) < len(names)
            and (soft_labels is None or soft_labels.shape[1] == len(names))
            and len(mean) == len(std) == proxy.image_shape[0]
            and min(std) > 0
        )
        if not fits:
            raise ArtifactError(
                f"{path} is not a proxy of {len(names)} classes and {len(mean)} channels with positive standard "
                f"deviations: its images have shape {tuple(proxy.images.shape)} and labels from {int(labels.min())} to "
                f"{int(labels.max())}. {_REPAIR}"
            )
        return proxy


def _rebuilt(named: Any, tensors: Mapping[str, Tensor], storage: Any, path: Path) -> Scheme:
    """Build the scheme that a proxy's file names, with its stored tensors.

    Raises:
        ArtifactError: There is no such scheme, or the tensors do not fit it.
    """
    try:
        kind, arguments = str(named["class_path"]), dict(named["arguments"])
        scheme: Scheme = find_class(kind, Scheme)(**arguments)
        scheme.restore(decode(tensors, storage))
        shape = scheme.proxy_shape()
        if min(shape) < 1 or 4 * shape[0] * shape[1] * shape[2] * shape[3] > LARGEST_TENSORS:
            raise ValueError(f"it makes images of shape {shape}, none or more than {LARGEST_TENSORS} bytes")
    except (ArtifactError, ConfigError, DataError, ValueError, TypeError, LookupError, OverflowError) as error:
        raise ArtifactError(
            f"{path} is not a proxy of the scheme that {path.with_suffix('.json')} names: {str(error):.500}. {_REPAIR}"
        ) from None
    return scheme


def _is_list(value: Any, *kinds: type) -> bool:
    """Whether a JSON value is a list of values of some kinds, which are finite if they are numbers."""
    return isinstance(value, list) and all(
        type(each) in kinds and (isinstance(each, str) or abs(each) < sys.float_info.max) for each in value
    )
