"""SIGTERM ends a command with its own exit code, whatever the command was doing."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from lightning_nas.errors import InterruptedTrainingError


@contextmanager
def interruptible(what: str, forward: Callable[[int], bool] | None = None) -> Iterator[None]:
    """Turn SIGTERM into ``InterruptedTrainingError`` while the body runs.

    The error arises wherever the signal arrives. A library in whose code that is may turn it into an error of its own,
    such as that of a damaged file, or swallow it. The signal is therefore remembered, and the body ends with
    ``InterruptedTrainingError`` in these cases, too. In a thread other than the main one, signals keep their effect; so
    they do in processes that the body forks, and where SIGTERM is ignored.

    Args:
        what: What is stopped, for the message.
        forward: Passes the signal on to another process that the body waits for, and returns whether there is one. The
            error is not raised then: the other process ends, and the body says what comes of it.

    Raises:
        InterruptedTrainingError: SIGTERM has arrived.

    Example:
        ```python
        with interruptible("lightning-nas export"):
            export(args)
        ```
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) is signal.SIG_IGN:
        yield
        return
    owner, arrived = os.getpid(), False

    def answer(number: int, frame: Any) -> None:
        nonlocal arrived
        if os.getpid() != owner:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        arrived = True
        if forward is None or not forward(number):
            raise InterruptedTrainingError(f"SIGTERM stopped {what}.")

    before = signal.signal(signal.SIGTERM, answer)
    try:
        yield
    except InterruptedTrainingError:
        raise
    except BaseException as error:
        if arrived:
            raise InterruptedTrainingError(f"SIGTERM stopped {what}.") from error
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
    if arrived:
        raise InterruptedTrainingError(f"SIGTERM stopped {what}.")
