"""What a worker does: it holds a function, and answers every item with a result or a failure that can be sent back."""

import pickle
import traceback
from collections.abc import Callable
from typing import Any

import torch

from lightning_nas.errors import TrainingError

Failure = tuple[type[BaseException], tuple[Any, ...], dict[str, Any]]
"""The class, the arguments and the attributes of an exception."""

Outcome = tuple[Any, Failure | None]
"""The result of a call, or its failure."""


class Worker:
    """Holds the function in a worker.

    Args:
        function: The pickled function.
    """

    def __init__(self, function: bytes) -> None:
        self._pickled = function
        self._function: Callable[[Any], Any] | None = None

    def call(self, item: Any) -> Outcome:
        """Call the function, which the first call unpickles, so that an error of that has a message.

        An exception is taken apart: one whose arguments differ from those of its constructor cannot be unpickled.

        Args:
            item: Argument of the function.
        """
        try:
            self.load()
            assert self._function is not None
            return self._function(item), None
        except SystemExit as error:
            return failed(TrainingError(f"The call ended with sys.exit({error.code!r})."))
        except Exception as error:
            error.add_note(f"In a worker:\n{traceback.format_exc()}")
            return failed(error)

    def load(self) -> None:
        """Unpickle the function, unless that has happened."""
        if self._function is None:
            torch.set_num_threads(1)
            self._function = pickle.loads(self._pickled)


def failed(error: BaseException) -> Outcome:
    """The outcome of a call that raised an error."""
    return None, (type(error), error.args, vars(error))


def error_of(outcome: Outcome) -> BaseException | None:
    """The error of a call, as it was raised, or None."""
    failure = outcome[1]
    if failure is None:
        return None
    kind, arguments, attributes = failure
    error = kind.__new__(kind, *arguments)
    error.args = arguments  # which a MemoryError takes in its constructor alone
    vars(error).update(attributes)
    return error
