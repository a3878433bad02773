"""Selection errors in words."""

from collections.abc import Mapping
from typing import Any

KINDS = {"edges": "E1", "operations": "E2"}
"""Short names of the kinds of decisions."""


def is_decided(errors: Mapping[str, Any]) -> bool:
    """Whether decisions within the error of the measurement are told apart, which older files do not do.

    Args:
        errors: The entry of a kind, as ``SelectionErrors.to_dict`` makes it.
    """
    return "decided" in errors


def count(errors: Mapping[str, Any]) -> str:
    """Errors and decisions, such as ``2 of 5 decided``.

    Args:
        errors: The entry of a kind.
    """
    if not is_decided(errors):
        return f"{errors['errors']} of {errors['count']}"
    return f"{errors['errors']} of {errors['decided']} decided"


def interval(errors: Mapping[str, Any]) -> str:
    """The 95 % interval of the rate, such as ``12% to 77%``; empty where it is not known.

    Args:
        errors: The entry of a kind.
    """
    low, high = errors.get("low"), errors.get("high")
    return "" if low is None or high is None else f"{100 * low:.0f}% to {100 * high:.0f}%"


def undecided(errors: Mapping[str, Any]) -> str:
    """The number of undecided decisions, such as ``3 (1 tie)``; empty where it is not known.

    Args:
        errors: The entry of a kind.
    """
    if not is_decided(errors):
        return ""
    ties = errors["ties"]
    words = f" ({ties} {'tie' if ties == 1 else 'ties'})" if ties else ""
    return f"{errors['undecided']}{words}"


def images(errors: Mapping[str, Any]) -> str:
    """The number of images, such as ``up to 2,048``; empty where it is not known.

    Args:
        errors: The entry of a kind.
    """
    return f"up to {errors['images']:,}" if is_decided(errors) else ""
