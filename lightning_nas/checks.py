"""Checks of arguments, with one message for each wrong argument.

A constructor calls these before it does anything else, so that a wrong argument is refused before the first step:

```python
at_least(1, budget=budget, generation_size=generation_size)
within("[0, 1)", dropout=dropout)
one_of(("loss", "accuracy"), objective=objective)
```

The keyword is the name of the argument as a user writes it. ``None`` stands for an argument that was left out and
passes every check. Not-a-number passes none.
"""

from collections.abc import Collection
from typing import Any

from lightning_nas.errors import ConfigError


def at_least(minimum: float, /, **values: float | None) -> None:
    """Refuse arguments that are smaller than a minimum.

    Args:
        minimum: The smallest value allowed.
        **values: Arguments by name.

    Raises:
        ConfigError: An argument is smaller; the message names the first one.
    """
    for name, value in values.items():
        if value is not None and not value >= minimum:
            raise ConfigError(f"{name} is {value}; it must be at least {minimum}.")


def integer_at_least(minimum: int, /, **values: int | None) -> None:
    """Refuse arguments that are not integers, or smaller than a minimum.

    Args:
        minimum: The smallest value allowed.
        **values: Arguments by name.

    Raises:
        ConfigError: An argument is of another type, or smaller; the message names the first one.
    """
    for name, value in values.items():
        if value is not None and (type(value) is not int or value < minimum):
            raise ConfigError(f"{name} is {value!r:.50}; it must be an integer of at least {minimum}.")


def greater_than(bound: float, /, **values: float | None) -> None:
    """Refuse arguments that are not greater than a bound.

    Args:
        bound: The largest value that is not allowed.
        **values: Arguments by name.

    Raises:
        ConfigError: An argument is not greater; the message names the first one.
    """
    for name, value in values.items():
        if value is not None and not value > bound:
            raise ConfigError(f"{name} is {value}; it must be greater than {bound}.")


def within(interval: str, /, **values: float | None) -> None:
    """Refuse arguments outside an interval.

    Args:
        interval: The interval as mathematicians write it: ``[0, 1)`` holds 0 and does not hold 1.
        **values: Arguments by name.

    Raises:
        ConfigError: An argument lies outside; the message names the first one.
    """
    low, high = (float(bound) for bound in interval[1:-1].split(","))
    for name, value in values.items():
        if value is None:
            continue
        above = value >= low if interval[0] == "[" else value > low
        below = value <= high if interval[-1] == "]" else value < high
        if not (above and below):
            raise ConfigError(f"{name} is {value}; it must lie in {interval}.")


def one_of(options: Collection[Any], /, **values: Any) -> None:
    """Refuse arguments that are not among some options.

    Args:
        options: The values allowed.
        **values: Arguments by name.

    Raises:
        ConfigError: An argument is another value; the message names the first one.
    """
    for name, value in values.items():
        if value is not None and value not in options:
            raise ConfigError(f"{name} is {value!r}; it must be one of {', '.join(map(repr, options))}.")
