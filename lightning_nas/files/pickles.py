"""Limits on pickles of others, which are checked before anything is built from them."""

import pickletools
from typing import IO, Any

LARGEST_KEY = 10**4
"""Number of values in the largest tuple that a pickle may hold, where a shared value counts each time it is reached.

Tuples can be keys, and the hash of a key visits all of them: a hundred bytes that nest the same tuples describe more
values than any walk could visit."""

_TUPLES = ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3")
"""Instructions of a pickle that make a tuple; frozen sets keep their hash."""


def check_keys(data: IO[bytes] | bytes) -> None:
    """Refuse a pickle whose keys would take endless time to hash, by its instructions alone.

    Args:
        data: The pickle, or a file that is read from where it stands to the end of the pickle.

    Raises:
        ValueError: A tuple has too many values, or it is not a pickle.
        LookupError: An instruction asks for a value that there is not.
    """
    stack: list[int] = []  # the number of values that can be reached from each
    marks: list[int] = []
    memo: dict[Any, int] = {}
    for opcode, argument, _ in pickletools.genops(data):
        name, before, index = opcode.name, opcode.stack_before, argument
        if name == "MARK":
            marks.append(len(stack))
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if name == "MEMOIZE" else index] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[index])
        elif name == "DUP":
            stack.append(stack[-1])
        else:
            sliced = pickletools.markobject in before
            start = marks.pop() if sliced else len(stack) - len(before)
            first = start - before.index(pickletools.markobject) if sliced else start
            if first < 0 or start > len(stack):
                raise LookupError("a value is missing")
            size = 1 + sum(stack[start:]) if name in _TUPLES else 1
            if size > LARGEST_KEY:
                raise ValueError(f"a tuple has more than {LARGEST_KEY} values, nested or repeated endlessly")
            del stack[first:]
            stack.extend([size] * len(opcode.stack_after))
