"""NEvoNAS, pEvoNAS and DC-NAS on supernets: further methods of ``benchmarks.evolve``, which describes the data.

- nevonas: NEvoNAS, novelty alone, DC-NAS and random search on a supernet (generations times population queries), and
  NEvoNAS that trains the supernet on every generation; measured is the true accuracy of the best architecture. For the
  same methods on the table: lightning-nas compare --config compare/evolution_nasbench201
- pevonas: a chain of three supernets with 4, 3 and 2 operations per edge, as described in ``PEvoNAS``, against the same
  chain with new weights in every link, and against one supernet of the whole space with as many steps as the chain.
  Measured is Kendall's tau in the space of each link, over architectures drawn uniformly (global) and from its truly
  best tenth, at least 20 (local), the same for all that are compared.
- dcnas: whether early accuracies rank better within clusters than overall. Architectures are trained briefly, clustered
  by how much the outputs of their layers change in this training, and compared with the table.

A supernet is trained for a tenth of ``--steps``; in pevonas every link is. Intervals are 95 % intervals over resamples
of seeds and architectures.
"""

import copy
import itertools
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.evolve import SCORED, Bench, spread
from benchmarks.rank_gains import cluster_correlations, gain_interval
from lightning_nas.architecture import Architecture
from lightning_nas.data.images import ArrayDataModule
from lightning_nas.errors import DataError
from lightning_nas.metrics.ranking import kendall_tau
from lightning_nas.pipeline.config import read_yaml
from lightning_nas.predictors.regressors import one_hot
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from lightning_nas.supernets.scoring import fixed_images

PUBLISHED = {"NEvoNAS": "93.50 ± 0.30", "novelty alone": "90.75", "accuracy alone": "90.64"}
"""CIFAR-10 test accuracies in NAS-Bench-201 that the authors of NEvoNAS report."""


def short_steps(bench: Bench) -> int:
    """Number of training steps of a supernet here."""
    return int(bench.options.steps // 10)


def searched(
    bench: Bench, folder: Path, seed: int, supernet: str, config: str, strategy: Mapping[str, Any], **changes: Any
) -> Any:
    """Search a supernet with a file of ``configs`` and changes to its strategy, and return the task."""
    data = {"class_path": "lightning_nas.data.images.ArrayDataModule", "init_args": bench.images}
    options = bench.options
    model = {
        "strategy": strategy,
        "evaluator": {"init_args": {"supernet_path": supernet, "data": data, "images": SCORED}},
        "objective": "loss",
        "budget": options.generations * options.population,
        "generation_size": options.population,
        **changes.pop("model", {}),
    }
    return bench.fit(config, folder, seed, {"model": {"init_args": model}, **changes})


def outcome(bench: Bench, task: Any) -> dict[str, float]:
    """True accuracy of the best architecture of a search, its rank in the whole space, and the number of queries."""
    (row,) = bench.table.rows([task.history.best[0]]).tolist()
    accuracy = float(bench.accuracies[row])
    rank = 1 + sum(value > accuracy for value in bench.ranked)
    return {"accuracy": accuracy, "rank": float(rank), "queries": float(len(task.history.results))}


# -- NEvoNAS ----------------------------------------------------------------------------------------------------------


def nevonas(bench: Bench, seed: int) -> dict[str, Any]:
    """Run all searches of a seed."""
    options, folder, start = bench.options, bench.folder / str(seed), time.perf_counter()
    found: dict[str, dict[str, float]] = {}
    supernet = bench.train(folder / "start", seed, short_steps(bench), options.lr)
    own = {"population_size": options.population}
    strategies: dict[str, dict[str, Any]] = {
        "NEvoNAS": {"class_path": "NEvoNAS", "init_args": own},
        "novelty alone": {"class_path": "NEvoNAS", "init_args": {**own, "novelty_only": True}},
        "DC-NAS": {"class_path": "DCNAS"},
        "random search": {"class_path": "RandomSearch"},
    }
    for name, strategy in strategies.items():
        task = searched(bench, folder / name, seed, supernet, "evolve/spos.yaml", strategy)
        found[f"supernet, {name}"] = outcome(bench, task)
    shift = {"init_args": {"optimizer": {"init_args": {"lr": options.shift_lr}}, "steps": options.shift_steps}}
    model = {"generation_size": 2 * options.population, "shifting": shift}
    config = "evolve/nevonas_supernet.yaml"
    task = searched(bench, folder / "trained", seed, supernet, config, {"init_args": own}, model=model)
    found["supernet, NEvoNAS that trains it"] = outcome(bench, task)
    print(json.dumps({"seed": seed, "found": {name: each["accuracy"] for name, each in found.items()}}), flush=True)
    return {"found": found, "seconds": time.perf_counter() - start}


def report_nevonas(bench: Bench, runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Print a table, and return the line of JSON."""
    line: dict[str, Any] = {"feasible": len(bench.ranked), "published": PUBLISHED}
    print(f"{'':34}{'test accuracy':>16}{'median rank':>14}{'queries':>10}")
    for name in runs[0]["found"]:
        values = [run["found"][name] for run in runs]
        accuracy = spread([each["accuracy"] for each in values])
        rank = statistics.median(each["rank"] for each in values)
        queries = statistics.mean(each["queries"] for each in values)
        line[name] = {"accuracy": accuracy, "median_rank": rank, "queries": queries}
        print(f"{name:34}{f'{accuracy[0]:.2f} ± {accuracy[1]:.2f}':>16}{rank:14g}{queries:10.1f}")
    for name, published in PUBLISHED.items():
        print(f"{'published, ' + name:34}{published:>16}")
    return line


# -- pEvoNAS ----------------------------------------------------------------------------------------------------------


def within(bench: Bench, folder: Path | None) -> Bench:
    """The bench in the space that a search has written to its folder, or in the whole space.

    Its sets are sorted by ascending true accuracy. As Kendall's tau depends only on the order of the true accuracies,
    the sets of all seeds, whose spaces differ, then have the same target 0, 1, 2, ...
    """
    link = copy.copy(bench)
    if folder is not None:
        given = read_yaml(folder / "space.yaml")["model"]["init_args"]["space"]["init_args"]
        link.sizes = {**bench.sizes, **given}
    link.space = NASBench201Space(**link.sizes)
    ranked = everything(link)
    generator = torch.Generator().manual_seed(2024)
    link.sets = {}
    for name, start in (("global", 0), ("local", len(ranked) - max(20, len(ranked) // 10))):
        drawn = start + torch.randperm(len(ranked) - start, generator=generator)[: bench.options.architectures]
        link.sets[name] = [ranked[i] for i in drawn.sort().values.tolist()]
    return link


def everything(bench: Bench) -> list[Architecture]:
    """All architectures of the space of a bench, by ascending true accuracy."""
    edges = [row.nonzero().flatten().tolist() for row in bench.space.allowed["cell"]]
    inside = [bench.space.architecture(choices) for choices in itertools.product(*edges)]
    return [inside[i] for i in np.argsort(bench.accuracies[bench.table.rows(inside)], kind="stable")]


class Chain:
    """The links of the chains of one seed.

    Args:
        bench: The bench in the whole space.
        seed: Seed of everything random.
    """

    def __init__(self, bench: Bench, seed: int) -> None:
        self.folder = bench.folder / str(seed)
        self.seed = seed
        self.found: dict[str, dict[str, Any]] = {}

    def train(self, name: str, bench: Bench, links: int = 1, number: int = 1, start: str | None = None) -> str:
        """Train a supernet of the space of a bench with the steps of ``links`` links, and return its file."""
        seed = self.seed + 1000 * number  # other batches in every link, but the same in both chains
        return bench.train(self.folder / f"{name} trained", seed, links * short_steps(bench), bench.options.lr, start)

    def score(self, name: str, bench: Bench, supernet: str) -> None:
        """Note the scores of a supernet in the space of a bench."""
        targets = bench.accuracies[bench.table.rows(everything(bench))]
        space = {"space_mean": float(targets.mean()), "space_best": float(targets[-1])}
        self.found[name] = {"scores": bench.scores(supernet), **space}

    def search(self, name: str, bench: Bench, supernet: str, keep: int | None) -> Path:
        """Search, note the outcome, and return the folder, which holds the space of the next link."""
        folder = self.folder / name
        narrow = {"class_path": "NarrowedSpace", "init_args": {"keep": keep}}
        trainer = {"callbacks": [narrow] if keep else []}
        strategy = {"init_args": {"population_size": bench.options.population}}
        config = "evolve/pevonas_supernet.yaml"
        task = searched(bench, folder, self.seed, supernet, config, strategy, trainer=trainer)
        self.found[name] |= outcome(bench, task)
        return folder


def pevonas(bench: Bench, seed: int) -> dict[str, Any]:
    """Run the chain with inherited and with new weights, and the supernet of the whole space."""
    chain, start = Chain(bench, seed), time.perf_counter()
    whole = within(bench, None)
    first = chain.train("4", whole)
    chain.score("4", whole, first)
    second = within(bench, chain.search("4", whole, first, 3))
    thirds = {}
    for weights in ("inherited", "new"):
        name = f"3, {weights}"
        supernet = chain.train(name, second, number=2, start=first if weights == "inherited" else None)
        chain.score(name, second, supernet)
        third = thirds[weights] = within(bench, chain.search(name, second, supernet, 2))
        name = f"2, {weights}"
        last = chain.train(name, third, number=3, start=supernet if weights == "inherited" else None)
        chain.score(name, third, last)
        chain.search(name, third, last, None)
    third = thirds["inherited"]
    chain.score("2, new, space of inherited", third, chain.train("2, new, space of inherited", third, number=3))
    unshrunk = chain.train("unshrunk", whole, links=3)
    for name, link in (("4", whole), ("3", second), ("2", third)):
        chain.score(f"unshrunk, in {name}", link, unshrunk)
    strategy = {"init_args": {"population_size": bench.options.population, "keep": [3, 2]}}
    model = {"budget": 3 * bench.options.generations * bench.options.population}
    config, none = "evolve/pevonas_supernet.yaml", {"callbacks": []}
    task = searched(bench, chain.folder / "unshrunk", seed, unshrunk, config, strategy, model=model, trainer=none)
    chain.found["unshrunk, in 4"] |= outcome(bench, task)
    accuracies = {name: each.get("accuracy") for name, each in chain.found.items()}
    print(json.dumps({"seed": seed, "found": accuracies}), flush=True)
    return {"found": chain.found, "seconds": time.perf_counter() - start}


COMPARED = {
    "inheritance_3": ("3, new", "3, inherited"),
    "inheritance_2": ("2, new, space of inherited", "2, inherited"),
    "chain_against_unshrunk_2": ("unshrunk, in 2", "2, inherited"),
}


def report_pevonas(bench: Bench, runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Print a table, and return the line of JSON."""
    line: dict[str, Any] = {"feasible": len(bench.ranked), "steps_a_link": short_steps(bench)}
    print(f"{'operations per edge':30}{'local tau':>16}{'global tau':>16}{'found':>16}{'mean of space':>16}")
    for name in runs[0]["found"]:
        values = [run["found"][name] for run in runs]
        shown = {}
        for kind in ("local", "global"):
            taus = [kendall_tau(each["scores"][kind], range(len(each["scores"][kind]))) for each in values]
            shown[f"{kind}_tau"] = spread(taus)
        for key in ("accuracy", "rank", "queries", "space_mean", "space_best"):
            if key in values[0]:
                shown[key] = spread([each[key] for each in values])
        line[name] = shown
        cells = [("local_tau", 3), ("global_tau", 3), ("accuracy", 2), ("space_mean", 2)]
        texts = [f"{shown[k][0]:.{n}f} ± {shown[k][1]:.{n}f}" if k in shown else "" for k, n in cells]
        print(f"{name:30}" + "".join(f"{text:>16}" for text in texts))
    for name, pair in COMPARED.items():
        for kind in ("local", "global"):
            worse, better = ([run["found"][each]["scores"][kind] for run in runs] for each in pair)
            gains = [
                kendall_tau(new, range(len(new))) - kendall_tau(old, range(len(old)))
                for old, new in zip(worse, better, strict=True)
            ]
            low, high = gain_interval(worse, better, range(len(worse[0])), kendall_tau, samples=bench.options.resamples)
            line[f"{name}_{kind}_gain"] = [*spread(gains), low, high]
            text = f"{statistics.mean(gains):+.3f} [{low:+.3f}, {high:+.3f}]"
            print(f"gain of {kind} tau, {pair[1]} less {pair[0]}: {text}")
    return line


# -- DC-NAS -----------------------------------------------------------------------------------------------------------

CLUSTERS = 5


def brief_training(
    network: nn.Module, batches: Sequence[tuple[Tensor, Tensor]], held: tuple[Tensor, Tensor], lr: float
) -> tuple[float, list[float]]:
    """Early accuracy, and the relative change of the output of every layer."""
    outputs: list[Tensor] = []
    layers: list[Any] = [network.stem, *network.cells, network.lastact, network.classifier]  # type: ignore[misc]
    for layer in layers:
        layer.register_forward_hook(lambda module, args, output: outputs.append(output.detach()))

    def look() -> tuple[list[Tensor], Tensor]:
        outputs.clear()
        with torch.no_grad():
            logits = network(held[0])  # with batch statistics, as running ones are far off so early
        return list(outputs), logits

    network.train()
    before, _ = look()
    optimizer = torch.optim.SGD(network.parameters(), lr, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(batches))
    for images, labels in batches:
        optimizer.zero_grad()
        F.cross_entropy(network(images), labels).backward()
        optimizer.step()
        schedule.step()
        outputs.clear()
    after, logits = look()
    changes = [float((a - b).norm() / b.norm()) for a, b in zip(after, before, strict=True)]
    return float((logits.argmax(1) == held[1]).float().mean()), changes


def dcnas(bench: Bench, seed: int) -> dict[str, Any]:
    """Run the brief trainings of a seed."""
    start = time.perf_counter()
    data = ArrayDataModule(**{**bench.images, "augmentations": None})
    batch = bench.images["batch_size"]
    needed = bench.options.brief_steps * batch
    if len(data.train_set) < needed:
        raise DataError(
            f"There are {len(data.train_set)} training images; {needed} are needed. Use fewer --brief_steps."
        )
    images, labels = fixed_images(data, data.train_set, needed, seed)
    batches = list(zip(images.split(batch), labels.split(batch), strict=True))
    held = fixed_images(data, data.validation_set, SCORED, seed)
    generator = torch.Generator().manual_seed(seed)
    drawn = {bench.space.key(a): a for a in (bench.space.sample(generator) for _ in range(bench.options.architectures))}
    early, changes = [], []
    for architecture in drawn.values():
        torch.manual_seed(seed)
        sizes = {"channels": bench.options.channels, "cells": bench.options.cells}
        network = bench.space.network(architecture, num_classes=10, image_shape=data.image_shape, **sizes)
        accuracy, change = brief_training(network, batches, held, bench.options.lr)
        early.append(accuracy)
        changes.append(change)
    logs = np.log(np.maximum(changes, 1e-6))
    features = (logs - logs.mean(0)) / np.maximum(logs.std(0), 1e-6)
    final = [float(value) for value in bench.accuracies[bench.table.rows(list(drawn.values()))]]
    choices = one_hot([a.choices for a in drawn.values()], bench.space.num_values)
    print(json.dumps({"seed": seed, "early": statistics.mean(early)}), flush=True)
    clustered_by = {"changes": features, "choices": np.asarray(choices)}
    return {"early": early, "final": final, "features": clustered_by, "seconds": time.perf_counter() - start}


def claim(run: Mapping[str, Any], kind: str, chosen: Any = slice(None)) -> tuple[float, float]:
    """Kendall's tau overall and within clusters, over some architectures of a run."""
    early, final = (np.asarray(run[name])[chosen].tolist() for name in ("early", "final"))
    return cluster_correlations(run["features"][kind][chosen], early, final, CLUSTERS)


def report_dcnas(bench: Bench, runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Print a table, and return the line of JSON."""
    line: dict[str, Any] = {
        "steps": bench.options.brief_steps,
        "clusters": CLUSTERS,
        "architectures": bench.options.architectures,
    }
    line["early_accuracy"] = spread([statistics.mean(run["early"]) for run in runs])
    print(f"{'clustered by':14}{'tau overall':>18}{'within clusters':>18}{'gain':>18}  95 % interval")
    for kind in runs[0]["features"]:
        pairs = [claim(run, kind) for run in runs]
        generator = np.random.default_rng(0)
        means = []
        for _ in range(bench.options.resamples // 5):
            gains = []
            for place in generator.integers(len(runs), size=len(runs)):
                count = len(runs[place]["early"])
                overall, inside = claim(runs[place], kind, generator.integers(count, size=count))
                gains.append(inside - overall)
            means.append(statistics.mean(gains))
        low, high = np.nanpercentile(means, [2.5, 97.5])
        found = {"all": spread([a for a, _ in pairs]), "within": spread([b for _, b in pairs])}
        found["gain"] = [*spread([b - a for a, b in pairs]), float(low), float(high)]
        line[kind] = found
        shown = "".join(f"{f'{each[0]:.3f} ± {each[1]:.3f}':>18}" for each in found.values())
        print(f"{kind:14}{shown}  [{low:+.3f}, {high:+.3f}]")
    return line


METHODS = {
    "nevonas": (nevonas, report_nevonas),
    "pevonas": (pevonas, report_pevonas),
    "dcnas": (dcnas, report_dcnas),
}
"""For each method, the function that runs a seed, and the one that reports all seeds."""
