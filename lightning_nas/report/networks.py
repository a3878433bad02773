"""All tested networks of a run: their accuracy with its uncertainty, their costs, and what follows from them."""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lightning_nas.metrics.paired import wilson_interval
from lightning_nas.report.run import Comparison
from lightning_nas.report.summary import Summary

Kind = Literal["win", "lose", ""]

NOUNS = {"random": "random network", "standard": "standard network"}
"""What the found network is compared with, by the ``kind`` of a comparison."""


@dataclass(frozen=True)
class Network:
    """A network that was trained and tested.

    Attributes:
        kind: ``found``, ``random`` or ``standard``.
        label: Its name.
        accuracy: Test accuracy as a fraction; the mean over seeds where there are several.
        deviation: Standard deviation over seeds; None where there is one.
        interval: Wilson's 95 % interval of the accuracy; None where the number of test images is not known.
        parameters: Number of parameters; None if not known.
        macs: Multiply-accumulates per image; None if not known.
        latency_ms: Milliseconds of a forward pass of one image; None if they were not measured.
    """

    kind: str
    label: str
    accuracy: float
    deviation: float | None
    interval: tuple[float, float] | None
    parameters: float | None
    macs: float | None
    latency_ms: float | None = None

    @property
    def ends(self) -> tuple[float, float]:
        """Ends of the interval, or the accuracy twice."""
        return self.interval or (self.accuracy, self.accuracy)


def networks(summary: Summary) -> list[Network]:
    """List all networks of a run, the most accurate first."""

    def network(kind: str, label: str, accuracies: list[float], accuracy: float, *costs: float | None) -> Network:
        deviation = statistics.stdev(accuracies) if len(accuracies) > 1 else None
        interval = wilson_interval(accuracy, summary.test_images) if summary.test_images else None
        return Network(kind, label, accuracy, deviation, interval, *costs)

    found = network(
        *("found", "found network", summary.test_accuracies, summary.test_accuracy),
        *(summary.parameters, summary.macs, summary.latency_ms),
    )
    accuracies = summary.random_test_accuracies
    unknown: list[Any] = [None] * len(accuracies)
    costs = [
        values if len(values) == len(accuracies) else unknown
        for values in (
            *(summary.random_parameters, summary.random_macs, summary.random_latencies_ms),
            summary.random_test_accuracies_by_seed,
        )
    ]
    randoms = [
        network("random", f"random {i}", by_seed or [], accuracy, parameters, macs, latency)
        for i, (accuracy, parameters, macs, latency, by_seed) in enumerate(zip(accuracies, *costs, strict=True))
    ]
    if not randoms and summary.random_test_accuracy is not None:
        randoms = [network("random", "random, mean", [], summary.random_test_accuracy, None, None)]
    standard = [
        network(
            *("standard", each["label"], each["test_accuracies"], each["test_accuracy"]),
            *(each["parameters"], each["macs"], each["latency_ms"]),
        )
        for each in summary.baselines
    ]
    return sorted([found, *randoms, *standard], key=lambda each: -each.accuracy)


def scale(found: list[Network]) -> tuple[float, float]:
    """Ends of an axis that has room for the accuracies of all networks with their intervals."""
    low, high = min(each.ends[0] for each in found), max(each.ends[1] for each in found)
    room = 0.04 * (high - low) or 0.01
    return max(0.0, low - room), min(1.0, high + room)


@dataclass(frozen=True)
class Statement:
    """A sentence of the verdict.

    Attributes:
        kind: ``win`` or ``lose`` where the test images or seeds show it, and empty where they don't.
        words: The sentence.
    """

    kind: Kind
    words: str


def headline(summary: Summary, comparison: Comparison | None) -> Statement:
    """Say in one sentence what the run has shown. It is a ``win`` only if every comparison on the images is one."""
    known = [each for each in summary.comparisons if each["verdict"] is not None]
    by = {name: [f"the {_noun(summary, each)}" for each in known if each["verdict"] == name] for name in _VERDICTS}
    if by["worse"]:
        verb = "is" if len(by["worse"]) == 1 else "are"
        return Statement("lose", f"{_capital(' and '.join(by['worse']))} {verb} better than the found network")
    if by["equal"] and by["better"]:
        return Statement(
            "", f"Better than {by['better'][0]}, but cannot be told apart from {by['equal'][0]} on these test images"
        )
    if by["equal"]:
        return Statement("", f"The found network cannot be told apart from {' and '.join(by['equal'])}")
    if by["better"]:
        return Statement("win", f"The found network is better than {' and '.join(by['better'])}")
    if comparison is None:
        return Statement("", "The found network was compared with nothing")
    words = {
        "win": "The found network is better than the random ones",
        "lose": "The random networks are better than the found one",
        "": "The found network cannot be told apart from random ones",
    }
    return Statement(comparison.verdict, words[comparison.verdict])


_VERDICTS: dict[str, Kind] = {"better": "win", "worse": "lose", "equal": ""}


def statements(summary: Summary) -> list[Statement]:
    """Describe the found network against the best random and the best standard one, image by image."""
    return [_statement(summary, each) for each in summary.comparisons]


def _statement(summary: Summary, each: Mapping[str, Any]) -> Statement:
    against = f"{each['label']}, the {_noun(summary, each)} ({100 * each['test_accuracy']:.2f}%)"
    if each["verdict"] is None:
        return Statement("", f"Against {against}: results by image were not kept, so that chance cannot be ruled out.")
    several = len(summary.test_accuracies) > 1
    right = "is right more often over the seeds" if several else "alone is right"
    test = "sign test over images" if several else "McNemar's test"
    p = each["p"]
    chance = f"{'p < 0.001' if p < 0.001 else f'p = {p:.3f}'}, exact {test}"
    images = "test image" if each["better"] == 1 else "test images"
    tie = "is a tie" if each["ties"] == 1 else "are ties"
    counts = (
        f"the found network {right} on {each['better']:,} {images}, the other one on {each['worse']:,}, and "
        f"{each['ties']:,} {tie}"
    )
    verdict = {
        "better": "The found network is better",
        "worse": "The found network is worse",
        "equal": "They cannot be told apart",
    }
    return Statement(_VERDICTS[each["verdict"]], f"Against {against}: {counts}. {verdict[each['verdict']]} ({chance}).")


def _noun(summary: Summary, each: Mapping[str, Any]) -> str:
    count = len(summary.baselines if each["kind"] == "standard" else summary.random_test_accuracies)
    noun = NOUNS.get(each["kind"], "other network")
    return f"best of {count} {noun}s" if count > 1 else noun


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


@dataclass(frozen=True)
class Light:
    """How far a proxy can be trusted, as a traffic light.

    Attributes:
        colour: ``green``, ``amber`` or ``red``.
        word: The same as a word.
        words: One sentence with the figures.
    """

    colour: Literal["green", "amber", "red"]
    word: str
    words: str


def light(fidelity: Mapping[str, Any] | None) -> Light | None:
    """Judge a proxy by its rank fidelity; None if it was not measured.

    It is green if the whole interval of tau is above 0 and the threshold, if there is one, is reached; red if tau is
    undefined, not above 0 or below the threshold; and amber otherwise.
    """
    if fidelity is None:
        return None
    tau, low = fidelity["kendall_tau"], fidelity["interval"][0]
    architectures, points = fidelity["architectures"], fidelity["regret_points"]
    price = f"its first choice of {architectures:.0f} costs {points:.2f} points of accuracy"
    interval = "" if low is None else f" (95% interval {low:.2f} to {fidelity['interval'][1]:.2f})"
    figures = f"{'tau is undefined' if tau is None else f'tau {tau:.2f}{interval}'}, and {price}"
    if tau is None or tau <= 0 or not fidelity["passed"]:
        return Light("red", "not to be trusted", f"The proxy does not rank architectures correctly: {figures}.")
    if low is not None and low > 0 and not fidelity["informative_only"]:
        return Light("green", "trustworthy", f"The proxy ranks architectures better than chance: {figures}.")
    return Light("amber", "uncertain", f"The proxy may rank architectures no better than chance: {figures}.")
