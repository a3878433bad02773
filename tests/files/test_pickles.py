"""Pickles are followed without building what they describe."""

import io
import pickle
from collections import OrderedDict
from typing import Any

import pytest

from lightning_nas.files.pickles import LARGEST_KEY, check_keys

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
PLAIN: list[Any] = [
    {("cifar10", 777): [1.5, None, True], "text": {1, 2}, b"bytes" * 100: frozenset([1])},
    OrderedDict(a=(1, (2, (3, 4, 5, 6))), b=2**200, c=set(), d=()),
    tuple(range(LARGEST_KEY - 1)),
    [[i] for i in range(3000)],
]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plain_values_pass(protocol: int) -> None:
    for value in PLAIN:
        check_keys(pickle.dumps(value, protocol))
    file = io.BytesIO(b"".join(pickle.dumps(value, protocol) for value in PLAIN))
    for _ in PLAIN:  # one after the other
        check_keys(file)
    assert not file.read()


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("copies", [1, 2, 3, 4])
def test_nested_tuples_are_refused(protocol: int, copies: int) -> None:
    nested: Any = (1,)
    for _ in range(14):
        nested = (nested, *[nested] * copies)
    for value in (nested, [nested], {"a": nested}):
        with pytest.raises(ValueError, match="more than 10000 values"):
            check_keys(pickle.dumps(value, protocol))


@pytest.mark.parametrize("data", [b"", b"(", b"\x86.", b"t.", b"e.", b"0.", b"2.", b"h\x05.", b"not a pickle"])
def test_what_is_no_pickle_is_an_error(data: bytes) -> None:
    with pytest.raises((ValueError, LookupError)):
        check_keys(data)
