"""Memory of processes, as far as the operating system tells."""

import sys


def peak_memory(*, children: bool = False) -> int | None:
    """The largest memory that this process has taken so far, in bytes.

    Args:
        children: Whether processes that it has started, and that have ended, count as well: the largest of all.

    Returns:
        The number of bytes, or None on systems without ``getrusage``, such as Windows.
    """
    try:
        import resource
    except ImportError:
        return None
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN) if children else (resource.RUSAGE_SELF,)
    used = max(resource.getrusage(each).ru_maxrss for each in who)
    return used if sys.platform == "darwin" else used * 1024  # bytes on macOS, kB elsewhere
