"""Costs of networks, beside the evaluations of another evaluator."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from lightning_nas.architecture import Architecture
from lightning_nas.errors import CheckpointError
from lightning_nas.evaluation.base import Evaluation, Evaluator, is_failure
from lightning_nas.evaluation.wrapper import EvaluatorWrapper
from lightning_nas.metrics.network_costs import MeasuredOnLookup, NetworkCosts


class CostEvaluator(EvaluatorWrapper):
    """Adds the costs of the final network to the evaluations of another evaluator.

    The final network is the one that will be used after the search; it is usually larger than the networks that the
    search trains. Its costs need no query, so that a search can have constraints on them, and trade them off against
    the objective (``costs_to_minimise`` of ``EvolveTask``). Where the wrapped evaluator has a cost of the same name,
    such as the parameters of a smaller network, the cost of the final network replaces it. See ``NetworkCosts`` for the
    costs.

    Checkpoints of the search keep the costs that are known, so that a resumed search compares with the same ones. An
    architecture that is evaluated has all costs. Of an architecture that constraints refuse only the constrained costs
    are measured, in the order of the constraints, up to the first that is exceeded: put cheap ones first and latencies
    last. Nothing else should run while latencies are measured: run the wrapped evaluator in parallel,
    ``CostEvaluator(Parallel(...))``, not this one.

    Attributes:
        evaluator: The wrapped evaluator.
        network_costs: The costs of final networks.

    Args:
        evaluator: The evaluator that measures the objectives.
        costs: The costs of final networks.

    Example:
        ```yaml
        evaluator:
          class_path: CostEvaluator
          init_args:
            evaluator: {class_path: ShortTraining, init_args: {data: ...}}
            costs: {class_path: NetworkCosts, init_args: {channels: 36, cells: 20}}
        constraints: {parameters: 3.5e+6, latency_ms: 20}
        ```
    """

    def __init__(self, evaluator: Evaluator, costs: NetworkCosts) -> None:
        super().__init__(evaluator)
        self.network_costs = costs

    def to(self, device: torch.device) -> None:
        """Evaluate and measure on this device from now on; costs measured on another device are forgotten."""
        if device != self.network_costs.device:
            self.network_costs.known.clear()
        self.network_costs.device = device
        super().to(device)

    def costs(self, architecture: Architecture) -> Mapping[str, float]:
        """The costs of the wrapped evaluator and of the final network, measured when they are looked up."""
        own, others = self.network_costs.costs(architecture), self.evaluator.costs(architecture)
        return MeasuredOnLookup(
            {name: partial(mapping.__getitem__, name) for mapping in (others, own) for name in mapping}
        )

    def evaluate(self, architectures: Sequence[Architecture]) -> list[Evaluation]:
        """The evaluations of the wrapped evaluator, with all costs.

        An evaluation fails if a cost cannot be measured, for example for lack of memory.
        """
        found = self.evaluator.evaluate(architectures)
        return [self._with_costs(*pair) for pair in zip(architectures, found, strict=True)]

    def _with_costs(self, architecture: Architecture, evaluation: Evaluation) -> Evaluation:
        if evaluation.failure is not None:
            return evaluation
        try:
            costs, known = self.costs(architecture), self.evaluator.costs(architecture)
            names = dict.fromkeys((*known, *self.network_costs.recorded))
            return replace(evaluation, cost={**evaluation.cost, **{name: costs[name] for name in names}})
        except Exception as error:
            if not is_failure(error):
                raise
            return Evaluation.failed(error)

    def state_dict(self) -> dict[str, Any]:
        """The state of the wrapped evaluator, and the costs that are known."""
        known = copy.deepcopy(self.network_costs.known)
        return {"evaluator": self.evaluator.state_dict(), "settings": self.network_costs.settings(), "known": known}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned.

        Raises:
            CheckpointError: The costs are those of other networks.
        """
        asked = self.network_costs.settings()
        if state["settings"] != asked:
            raise CheckpointError(
                f"The checkpoint's costs are of {state['settings']}; the configuration asks for {asked}. "
                "Use the same arguments of CostEvaluator, or begin a new search."
            )
        self.evaluator.load_state_dict(state["evaluator"])
        self.network_costs.known = copy.deepcopy(state["known"])
