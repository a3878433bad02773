"""Architectures in the order of their fitness, kept sorted while more of them become known."""

from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping


class FitnessRanking:
    """Keys in the order of their fitness, the highest first; among equals the one that became known first.

    The order is that of ``sorted(fitness, key=fitness.__getitem__, reverse=True)``, but a new value takes only as many
    comparisons as the number of keys has binary digits.

    Args:
        fitness: Values that are known already, by their keys, in the order in which they became known.

    Example:
        ```python
        ranking = FitnessRanking({"a": 0.5})
        ranking.put("b", 0.7)
        list(ranking)  # ["b", "a"]
        ```
    """

    def __init__(self, fitness: Mapping[str, float] | None = None) -> None:
        known = {} if fitness is None else fitness
        self._entries = {key: (-value, place, key) for place, (key, value) in enumerate(known.items())}
        self._sorted = sorted(self._entries.values())

    def put(self, key: str, value: float) -> None:
        """Add a value, or replace that of a known key, which keeps its place among equals.

        Args:
            key: The key.
            value: Its fitness.
        """
        old = self._entries.get(key)
        if old is not None:
            del self._sorted[bisect_left(self._sorted, old)]
        entry = (-value, len(self._entries) if old is None else old[1], key)
        self._entries[key] = entry
        insort(self._sorted, entry)

    def __iter__(self) -> Iterator[str]:
        """The keys, the highest fitness first."""
        return (key for _, _, key in self._sorted)
