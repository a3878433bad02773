"""Strategies: which architectures a search evaluates next."""

from lightning_nas.strategies.bananas import BANANAS
from lightning_nas.strategies.base import Strategy
from lightning_nas.strategies.bayesian import BayesianOptimization
from lightning_nas.strategies.dcnas import DCNAS
from lightning_nas.strategies.history import QueryHistory
from lightning_nas.strategies.local_search import LocalSearch
from lightning_nas.strategies.nevonas import NEvoNAS
from lightning_nas.strategies.nsga import NSGA2, FrontStrategy
from lightning_nas.strategies.pevonas import PEvoNAS
from lightning_nas.strategies.population import PopulationEvolution
from lightning_nas.strategies.race import Race
from lightning_nas.strategies.random_search import RandomSearch
from lightning_nas.strategies.refine import Refine
from lightning_nas.strategies.regularized_evolution import RegularizedEvolution
from lightning_nas.strategies.screen import Screen
from lightning_nas.strategies.shifting import Shifting
from lightning_nas.strategies.tnao import CodeSearch, GradientAscent, SwarmSearch
from lightning_nas.strategies.weaknas import WeakPredictors

__all__ = [
    "BANANAS",
    "BayesianOptimization",
    "CodeSearch",
    "DCNAS",
    "FrontStrategy",
    "GradientAscent",
    "LocalSearch",
    "NEvoNAS",
    "NSGA2",
    "PEvoNAS",
    "PopulationEvolution",
    "QueryHistory",
    "Race",
    "RandomSearch",
    "Refine",
    "RegularizedEvolution",
    "Screen",
    "Shifting",
    "Strategy",
    "SwarmSearch",
    "WeakPredictors",
]
