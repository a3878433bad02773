"""Random search."""

from lightning_nas.architecture import Architecture
from lightning_nas.strategies.base import Strategy


class RandomSearch(Strategy):
    """Samples architectures uniformly, each network once.

    The baseline that every other strategy has to beat with the same number of queries.

    Example:
        ```yaml
        strategy: RandomSearch
        ```
    """

    def ask(self, count: int) -> list[Architecture]:
        """Sample architectures; see ``Strategy.ask``."""
        return self.sample_unseen(count)
