from collections.abc import Callable
from typing import Any

import pytest

from lightning_nas.checks import at_least, greater_than, one_of, within
from lightning_nas.errors import ConfigError

WRONG: list[tuple[Callable[..., None], Any, dict[str, Any], str]] = [
    (at_least, 1, {"budget": 0}, "budget is 0; it must be at least 1."),
    (at_least, 1, {"budget": 5, "paths": -1, "steps": -2}, "paths is -1; it must be at least 1."),
    (greater_than, 0, {"rate": 0.0}, "rate is 0.0; it must be greater than 0."),
    (greater_than, 0, {"rate": float("nan")}, "rate is nan; it must be greater than 0."),
    (within, "[0, 1)", {"dropout": 1.0}, r"dropout is 1.0; it must lie in \[0, 1\)."),
    (within, "[0, 1)", {"dropout": -0.1}, r"dropout is -0.1; it must lie in \[0, 1\)."),
    (within, "(0, 1]", {"share": 0}, r"share is 0; it must lie in \(0, 1\]."),
    (within, "(0, 1]", {"share": float("nan")}, r"share is nan; it must lie in \(0, 1\]."),
    (
        one_of,
        ("loss", "accuracy"),
        {"kind": "x"},
        "kind is 'x'; it must be one of 'loss', 'accuracy'.",
    ),
]


@pytest.mark.parametrize(("check", "bound", "values", "message"), WRONG)
def test_the_first_wrong_argument_is_named_with_what_it_may_be(
    check: Callable[..., None], bound: Any, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=f"^{message}$"):
        check(bound, **values)


def test_bounds_themselves_and_arguments_left_out_pass() -> None:
    at_least(1, budget=1, limit=None, rate=1.5)
    greater_than(0, rate=1e-9, limit=None)
    within("[0, 1)", dropout=0, other=0.999, none=None)
    within("(0, 1]", share=1)
    one_of(("a", 1), first="a", second=1, third=None)
