"""The measurements of an architecture, which searches compare and reports show."""

from dataclasses import dataclass, field

from torch import Tensor

LONGEST_REASON = 500
"""Number of characters that are kept of the reason for which an evaluation failed."""


@dataclass(frozen=True)
class Evaluation:
    """The measurements of one architecture.

    Attributes:
        objectives: Values that a search optimises, by name. Lower is better where the name ends in ``loss``, higher is
            better everywhere else.
        cost: Costs by name, lower is better: what the evaluation took (``seconds``) and what the network needs
            (``parameters``, ``latency_ms``, ...).
        features: Numbers that describe the architecture, for strategies that compare architectures by them, such as
            ``DCNAS``; None where the evaluator has none.
        failure: Why the evaluation failed; None where it succeeded. A failed evaluation has no objectives.

    Example:
        ```python
        Evaluation({"accuracy": 0.93}, {"seconds": 12.0, "parameters": 3.3e6})
        ```
    """

    objectives: dict[str, float]
    cost: dict[str, float] = field(default_factory=dict)
    features: Tensor | None = None
    failure: str | None = None

    @classmethod
    def failed(cls, reason: BaseException | str) -> "Evaluation":
        """Return a failed evaluation.

        Args:
            reason: The error that ended it, or a sentence.
        """
        if isinstance(reason, BaseException):
            reason = f"{type(reason).__name__}: {reason}"
        return cls({}, failure=" ".join(reason.split())[:LONGEST_REASON])


def sign_of(objective: str) -> float:
    """Return the factor that makes higher values of an objective better: -1 for a loss, 1 for everything else.

    Args:
        objective: Name of the objective.
    """
    return -1.0 if objective.endswith("loss") else 1.0
