"""The rows of ``benchmarks.proxies``: how their proxies are made, and how many images fit into so many bytes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from lightning_nas.pipeline.config import merge

EPOCHS = 10
"""Epochs of a distillation."""
REAL_PER_CLASS = 32
"""Real images per class and step of a distillation."""
SIDE = 16
"""Side in pixels of the images that networks are ranked on, and of the images of some rows."""
CLASSES = 10
VALUES = 3 * SIDE**2
"""Numbers of an image of the rows with a size."""
SIZES = {"77 kB": 77_000, "350 kB": 350_000, "1.23 MB": 1_230_000}
"""Bytes of the rows with a size."""
HALLUCINATORS = 5


@dataclass(frozen=True)
class Row:
    """How the proxy of a row is made.

    Attributes:
        config: File of ``configs/distill``.
        changes: Changes of it.
        side: Side in pixels that images are averaged down to; None leaves them unchanged.
        bits: Bits per stored number.
    """

    config: str
    changes: dict[str, Any] = field(default_factory=dict)
    side: int | None = None
    bits: int = 32


def rows_of(steps: int, width: int, most: int) -> dict[str, Row]:
    """Return all rows by name.

    Args:
        steps: Steps of distribution matching.
        width: Channels of the networks whose features are matched, and of those that choose images.
        most: Images per class that may be distilled.
    """
    return {**_rows_in_floats(steps, width, most), **_rows_of_a_size(steps, width, most)}


def _trained(
    steps: float, matcher: dict[str, Any], optimizer: dict[str, Any], scheme: Any = None, beside: Sequence[str] = ()
) -> dict[str, Any]:
    model: dict[str, Any] = {"matcher": {"init_args": matcher}, "optimizer": {"init_args": optimizer}}
    if scheme is not None:
        model["scheme"] = scheme
    if beside:
        narrow = {"width": 32, "depth": 3}
        model["regularizers"] = [
            {"class_path": f"lightning_nas.distill.{name}", "init_args": narrow} for name in beside
        ]
    data = {"images_per_class": REAL_PER_CLASS, "steps_per_epoch": max(1, round(steps / EPOCHS))}
    return {"model": {"init_args": model}, "data": {"init_args": data}, "trainer": {"max_epochs": EPOCHS}}


def _rows_in_floats(steps: int, width: int, most: int) -> dict[str, Row]:
    """Images of 32 pixels in float32, and all images in bytes."""
    distribution = (steps, {"width": width}, {"lr": 1.0})
    gradient = (steps / 5, {"width": width, "network_steps": 5}, {"lr": 1.0})
    # nine bases per class and the hallucinators take as many bytes as ten images per class
    bases = {
        "class_path": "lightning_nas.distill.bases.HallucinatedBases",
        "init_args": {"bases_per_class": 9, "hallucinators": 5, "hallucinator_lr": 0.01},
    }
    relations = {
        "class_path": "lightning_nas.distill.relations.RelationMappings",
        "init_args": {"bases": 64, "mappings": 50, "mapping_lr": 0.01, "label_lr": 0.1},
    }
    contrast, relation = "contrast.AdversarialContrast", "relation_matching.RelationMatching"
    features = {"width": 32, "steps": 150}
    found = {
        "random subset": Row("random_subset", _subset(10)),
        "random subset, a byte a pixel": Row("random_subset", _subset(40)),
        "noise": Row("noise", _subset(10)),
        "herding": Row("herding", _subset(10, **features)),
        "k-centre": Row("k_center", _subset(10, **features)),
        "distribution matching": Row("distribution_matching", _trained(*distribution)),
        "gradient matching": Row("gradient_matching", _trained(*gradient)),
        "scheme 1": Row("scheme1", _trained(*distribution, bases, [contrast])),
        "scheme 1, gradient matching": Row("gradient_matching", _trained(*gradient, bases)),
        "scheme 2": Row("scheme2", _trained(*distribution, relations, [relation])),
        "scheme 2, gradient matching": Row("gradient_matching", _trained(*gradient, relations)),
        "scheme 2, hallucinators": Row("scheme2_hallucinators", _trained(*distribution, None, [contrast, relation])),
    }
    found[f"all images, {SIDE} pixels"] = Row("random_subset", _subset(most), SIDE, 8)
    return found


def fitting(size: int, bits_per_image: float, fixed: int) -> int:
    """Return how many images per class fit into so many bytes.

    Args:
        size: Bytes of the whole file.
        bits_per_image: Bits of an image, with its label.
        fixed: Bytes of what all images share.
    """
    return int((size - fixed) * 8 / (CLASSES * bits_per_image))


def _rows_of_a_size(steps: int, width: int, most: int) -> dict[str, Row]:
    """Schemes and controls in some storages, with as many images as fit into the bytes of a size."""
    easy = {"class_path": "DifficultySelection", "init_args": {"fraction": 0.5, "width": width, "epochs": 5}}
    features = {"width": min(width, 32), "steps": 150}
    distribution = (steps, {"width": width}, {"lr": 10.0})
    found: dict[str, Row] = {}
    for label, size in SIZES.items():
        for bits in (8, 4, 3, 2):
            end = f"{bits} bits, {label}"
            count = fitting(size, VALUES * bits + 4, 3 * 8)
            if count <= most:
                found[f"random subset, {end}"] = Row("random_subset", _subset(count), SIDE, bits)
                found[f"herding, {end}"] = Row("herding", _subset(count, **features), SIDE, bits)
                found[f"k-centre, {end}"] = Row("k_center", _subset(count, **features), SIDE, bits)
                plain = merge(_subset(count), _trained(*distribution))
                found[f"distribution matching, {end}"] = Row("distribution_matching", plain, SIDE, bits)
            if count <= most // 2:
                found[f"easy half, {end}"] = Row("easy_images", _subset(count, selection=easy), SIDE, bits)
                begun = merge(_subset(count, selection=easy, downscale=1), _trained(*distribution))
                name = f"distribution matching from the easy half, {end}"
                found[name] = Row("easy_distribution_matching", begun, SIDE, bits)
            # weights, scales, shifts and biases of the hallucinators, in 6 tensors
            shared = HALLUCINATORS * (2 * 9 * 9 + 6 + 2 * VALUES) * bits / 8 + 6 * HALLUCINATORS * 8 + 3 * 8
            bases = fitting(size, VALUES * bits + 4, round(shared))
            if 0 < bases <= most // 2:
                scheme = {"bases_per_class": bases, "hallucinators": HALLUCINATORS, "selection": easy}
                changes = merge({"model": {"init_args": {"scheme": {"init_args": scheme}}}}, _trained(*distribution))
                found[f"scheme 1 from the easy half, {end}"] = Row("scheme1_easy", changes, SIDE, bits)
        found |= _codes(label, size, steps, width, most)
    return found


def _codes(label: str, size: int, steps: int, width: int, most: int) -> dict[str, Row]:
    """Scheme 2 as a code, with as many images as fit into the bytes, trained and as it begins."""
    found: dict[str, Row] = {}
    for components, bits in ((32, 4), (64, 4), (64, 8), (128, 4), (128, 8)):
        # bases, the ranges of bases and codes, and the unused logits of the labels with their ranges
        shared = components * VALUES * bits / 8 + 2 * components * 8 + CLASSES**2 * bits / 8 + CLASSES * 8
        count = fitting(size, components * bits, -int(-shared // 1))
        if not components // CLASSES < count <= most:
            continue
        counts = {"bases": components, "mappings": count, "banks": 1, "downscale": 1, "mappings_per_step": 20}
        for name, lr in (("", 0.1), (" untrained", 0.0)):
            changes = _trained(steps if lr else 1, {"width": width}, {"lr": lr})
            changes["model"]["init_args"]["scheme"] = {"init_args": {**counts, "mapping_lr": lr / 10}}
            found[f"scheme 2{name}, {components} components, {bits} bits, {label}"] = Row(
                "scheme2_codes", changes, SIDE, bits
            )
    return found


def _subset(count: int, **arguments: Any) -> dict[str, Any]:
    """The configuration of a scheme with so many images per class."""
    return {"model": {"init_args": {"scheme": {"init_args": {"images_per_class": count, **arguments}}}}}
