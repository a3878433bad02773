"""Random search."""

from lightning_nas.architecture import Architecture
from lightning_nas.strategies.base import Strategy


class RandomSearch(Strategy):
    """Draws uniformly, each network once: what every other strategy must beat at the same number of queries."""

    def ask(self, count: int) -> list[Architecture]:
        """Draw; see ``Strategy.ask``."""
        return self.sample_unseen(count)
