"""What a tested network predicts for every test image."""

import heapq
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from lightning_nas.checks import at_least
from lightning_nas.data.sets import classes_of
from lightning_nas.files.artifacts import write_tensors

LARGEST_SIDE = 96
"""Side in pixels up to which pictures are kept as they are."""


class ImageResults(Callback):
    """Writes what the network predicts for every test image, so that networks can be compared image by image.

    The file has the tensors ``labels``, ``predicted`` and ``confidence`` (probability of the predicted class), in the
    order of the test images; with ``pictures`` also ``mistakes``, the indices of the most confident mistakes, and
    ``pictures``, these images with pixels from 0 to 255. Nothing is written for tasks whose ``test_step`` does not
    return class probabilities, nor where several processes test a part of the images each.

    Args:
        path: The safetensors file to write.
        pictures: Number of mistakes whose images are kept, at least 0.

    Raises:
        ConfigError: ``pictures`` is below 0.

    Example:
        ```yaml
        trainer:
          callbacks:
            - {class_path: ImageResults, init_args: {path: run/test_images.safetensors, pictures: 24}}
        ```
    """

    def __init__(self, path: str, pictures: int = 0) -> None:
        at_least(0, pictures=pictures)
        self.path = path
        self.pictures = pictures
        self.parts: list[tuple[Tensor, Tensor, Tensor]] = []
        self.worst: list[tuple[float, int, Tensor]] = []
        self.count = 0

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget an earlier test."""
        self.parts, self.worst, self.count = [], [], 0

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the results of a batch."""
        if not isinstance(outputs, Tensor) or outputs.ndim != 2 or trainer.world_size > 1:
            return
        confidence, predicted = outputs.detach().float().max(1)
        labels = classes_of(batch[1])
        self.parts.append((labels.cpu(), predicted.cpu(), confidence.cpu()))
        for i in (predicted != labels).nonzero().flatten().tolist() if self.pictures else ():
            entry = (float(confidence[i]), -(self.count + i))  # of equally confident ones the first
            if len(self.worst) < self.pictures or entry > self.worst[0][:2]:
                heapq.heappush(self.worst, (*entry, _picture(batch[0][i], getattr(trainer, "datamodule", None))))
                if len(self.worst) > self.pictures:
                    heapq.heappop(self.worst)
        self.count += len(labels)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the file."""
        if trainer.world_size > 1:
            rank_zero_info(f"{self.path} is not written: {trainer.world_size} processes test a part of the images each")
        if not self.parts or trainer.world_size > 1:
            return
        names = ("labels", "predicted", "confidence")
        tensors = {name: torch.cat(parts) for name, parts in zip(names, zip(*self.parts, strict=True), strict=True)}
        if self.worst:
            ordered = sorted(self.worst, key=lambda each: each[:2], reverse=True)
            tensors["mistakes"] = torch.tensor([-index for _, index, _ in ordered])
            tensors["pictures"] = torch.stack([picture for *_, picture in ordered])
        write_tensors(self.path, tensors)


def _picture(image: Tensor, data: Any) -> Tensor:
    """An image with pixels from 0 to 255, as it was before its normalization, and not larger than needed."""
    image = image.detach().float().cpu()
    mean, std = getattr(data, "mean", None) or (0.0,), getattr(data, "std", None) or (1.0,)
    image = image * torch.tensor(list(std)).view(-1, 1, 1) + torch.tensor(list(mean)).view(-1, 1, 1)
    image = image.nan_to_num().clamp(0, 1)
    largest = max(image.shape[1:])
    if largest > LARGEST_SIDE:
        image = F.interpolate(image[None], scale_factor=LARGEST_SIDE / largest, mode="area")[0]
    return (255 * image).round().to(torch.uint8)
