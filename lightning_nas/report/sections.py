"""The parts of the report as HTML. Everything that comes from files goes through ``_text``, which escapes it."""

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from lightning_nas.report.curves import Point, panel
from lightning_nas.report.draw import (
    draw_alphas,
    draw_cell,
    draw_curves,
    draw_images,
    draw_ranking,
    png_data_uri,
    svg,
)
from lightning_nas.report.run import Run

MOST_CLASSES, MOST_IMAGES = 10, 8
"""Classes and images a class that the report shows."""


# Pieces of HTML.


def _text(value: Any) -> str:
    return html.escape(str(value))


def _state(name: Any) -> str:
    """Name of a node, ``c_{k-1}`` with its subscript."""
    return re.sub(r"_\{([^{}]*)\}", r"<sub>\1</sub>", _text(name))


def _section(title: str, *parts: str) -> str:
    return f"<section>\n<h2>{title}</h2>\n" + "\n".join(parts) + "\n</section>"


def _note(text: str) -> str:
    return f'<p class="note">{text}</p>'


def _figure(picture: str, caption: str = "", least: int = 0, most: int = 0) -> str:
    """A picture that fills its place between two widths in pixels; a narrow window scrolls below the least."""
    limits = f"min-width:{least}px;" * bool(least) + f"max-width:{most}px" * bool(most)
    inner = f'<div style="{limits}">{picture}</div>' if limits else picture
    return (
        f'<figure><div class="scroll">{inner}</div>'
        + f"<figcaption>{caption}</figcaption>" * bool(caption)
        + "</figure>"
    )


def _table(heads: Sequence[str], rows: Iterable[tuple[str, Sequence[str]]], numbers: Sequence[int] = ()) -> str:
    """A table of ready HTML: rows are ``(class, cells)``, columns in ``numbers`` stand at the right."""

    def line(tag: str, kind: str, cells: Sequence[str]) -> str:
        places = [' class="number"' if i in numbers else "" for i in range(len(cells))]
        made = (f"<{tag}{place}>{cell}</{tag}>" for place, cell in zip(places, cells, strict=True))
        return f'<tr class="{kind}">' * bool(kind) + "<tr>" * (not kind) + "".join(made) + "</tr>"

    body = "\n".join(line("td", kind, cells) for kind, cells in rows)
    head = f"<thead>{line('th', '', heads)}</thead>" if heads else ""
    return f'<div class="scroll"><table>{head}<tbody>\n{body}\n</tbody></table></div>'


def _bar(share: float) -> str:
    """A bar of a share from 0 to 1; nan is none."""
    percent = 100 * min(max(share, 0.0), 1.0) if share == share else 0.0
    return f'<div class="bar"><div style="width:{percent:.1f}%"></div></div>'


# Figures in words.


def _percent(share: float, digits: int = 2) -> str:
    return f"{100 * share:.{digits}f} %"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _large(number: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.0f}"


def _total(run: Run) -> float:
    total = run.summary.optional_number("seconds_total")
    return sum(seconds for _, seconds in run.summary.stages()) if total is None else total


def _searched_on(run: Run) -> tuple[float | None, float | None]:
    return run.summary.optional_number("proxy_images"), run.summary.optional_number("source_images")


# Sections.


def head(run: Run) -> str:
    """The headline and the run in one sentence."""
    accuracy = run.summary.number("test_accuracy")
    proxy, source = _searched_on(run)
    on = f" on {proxy:,.0f} distilled images instead of {source:,.0f}" if proxy and source else ""
    found = f"Searched{on}: a network with {_percent(accuracy)} test accuracy in {_duration(_total(run))}"
    place = " · ".join(_text(run.summary.text(key)) for key in ("date", "run_dir") if run.summary.text(key))
    return f"<header>\n<h1>{found}</h1>\n<p>{place}</p>\n</header>"


def cards(run: Run) -> str:
    """The key figures."""
    summary = run.summary
    proxy, source = _searched_on(run)
    random, spread = (
        summary.optional_number("random_test_accuracy"),
        summary.optional_number("random_test_accuracy_std"),
    )
    count = len(summary.numbers("random_test_accuracies"))
    errors = summary.selection()
    accuracy = summary.number("test_accuracy")
    entries = [
        ("Test accuracy, found", _percent(accuracy), f"{_percent(1 - accuracy)} errors"),
        (
            "Test accuracy, random",
            "none trained" if random is None else _percent(random),
            f"mean of {count}" * bool(count) + (f" ± {100 * spread:.2f}" if spread else ""),
        ),
        ("Time of all stages", _duration(_total(run)), f"{len(summary.stages())} stages"),
        (
            "Images searched on",
            f"{proxy:,.0f}" if proxy else "all",
            f"of {source:,.0f} ({_percent(proxy / source, 1)})" if proxy and source else "no distillation",
        ),
        ("Parameters", _large(summary.number("parameters")), f"{summary.number('parameters'):,.0f}"),
        ("Multiply-accumulates", _large(summary.number("macs")), "for one image"),
        (
            "Selection errors",
            " / ".join("–" if errors[k]["rate"] is None else _percent(errors[k]["rate"], 0) for k in _KINDS)
            if errors
            else "–",
            "E1 edges / E2 operations" if errors else "not measured",
        ),
    ]
    fidelity = summary.fidelity()
    if fidelity is not None:
        few = ", informative only" * fidelity["informative_only"]
        entries.append(("Proxy's rank fidelity", _tau(fidelity), f"{fidelity['architectures']} architectures{few}"))
    memory = summary.optional_number("peak_memory_mb")
    entries.append(("Peak memory", "–" if memory is None else f"{memory:,.0f} MB", "of the whole run" * bool(memory)))
    made = [
        f'<div class="card{" first" * (i == 0)}"><div class="name">{name}</div><div class="value">{value}</div>'
        f'<div class="more">{more or "&nbsp;"}</div></div>'
        for i, (name, value, more) in enumerate(entries)
    ]
    return '<div class="cards">\n' + "\n".join(made) + "\n</div>"


def comparison(run: Run) -> str:
    """The found network beside random ones that were trained alike, whoever wins."""
    summary = run.summary
    found, mean = summary.number("test_accuracy"), summary.optional_number("random_test_accuracy")
    if mean is None:
        return _section("Found against random", _note("No random architectures were trained to compare with."))
    accuracies, sizes = summary.numbers("random_test_accuracies"), summary.numbers("random_parameters")
    kind, verdict = _verdict(found, mean, summary.optional_number("random_test_accuracy_std"), accuracies)
    if len(sizes) != len(accuracies):
        sizes = []
    networks: list[tuple[float, str, str, float | None]] = [(found, "found", "found", summary.number("parameters"))]
    networks += [(accuracy, f"random {i}", "", sizes[i] if sizes else None) for i, accuracy in enumerate(accuracies)]
    if not accuracies:
        networks.append((mean, "random, mean", "", None))
    rows = []
    for accuracy, name, style, size in sorted(networks, key=lambda entry: -entry[0]):
        points = "" if style else f"{100 * (accuracy - found):+.2f} points"
        count = "" if size is None else f"{size:,.0f}"
        rows.append((style, [name, _percent(accuracy), points, count, _bar(accuracy)]))
    heads = ["network", "test accuracy", "against found", "parameters", ""]
    explanation = (
        "Random architectures are drawn uniformly from the same search space and trained in the same way; a search "
        "is worth its time only where it beats them."
    )
    return _section(
        "Found against random",
        f'<p class="verdict {kind}">{verdict}</p>',
        f"<p>{explanation}</p>",
        _table(heads, rows, numbers=(1, 2, 3)),
    )


def _verdict(found: float, mean: float, spread: float | None, accuracies: Sequence[float]) -> tuple[str, str]:
    """A style (``win``, ``lose``, or nothing where neither is shown) and the comparison in words."""
    points = 100 * (found - mean)
    count = len(accuracies)
    randoms = "the random one that was trained" if count == 1 else f"the mean of {f'{count} ' * bool(count)}random ones"
    if points > 0:
        kind, words = "win", f"The found network is {points:.2f} points better than {randoms}."
    elif points < 0:
        kind, words = (
            "lose",
            f"The random networks win: the found network is {-points:.2f} points worse than {randoms}.",
        )
    else:
        kind, words = "", f"The found network is exactly as good as {randoms}."
    better = sum(accuracy > found for accuracy in accuracies)
    if count > 1:
        words += f" {better} of {count} random networks {'has' if better == 1 else 'have'} a higher test accuracy."
        kind = "" if better and kind == "win" else kind
    if spread and abs(points) <= 100 * spread:
        kind = "" if kind == "win" else kind
        words += (
            f" The difference is within the random networks' own standard deviation ({100 * spread:.2f} points): "
            "one run does not show that it is more than chance."
        )
    elif count == 1 and points:
        words += " One random network is too few to tell this from chance."
        kind = "" if kind == "win" else kind
    return kind, words


def stages(run: Run) -> str:
    """Seconds of every stage."""
    all_stages = run.summary.stages()
    longest = max((seconds for _, seconds in all_stages), default=0.0) or 1.0
    rows = [("", [_text(name), f"{seconds:,.1f}", _bar(seconds / longest)]) for name, seconds in all_stages]
    rows.append(("found", ["all", f"{_total(run):,.1f}", ""]))
    return _section("Stages", _table(["stage", "seconds", ""], rows, numbers=(1,)))


def cells(run: Run) -> str:
    """Pictures of the found cells, and their text."""
    figures = []
    for graph in run.graphs:
        figure = draw_cell(graph)
        edges = [f"{graph.nodes[s]} to {graph.nodes[t]}: {label}" for s, t, label in graph.edges if label]
        width = 96 * figure.get_figwidth()
        picture = svg(figure, f"The {graph.name} cell. {'; '.join(edges)}.")
        figures.append(f"<h3>{_text(graph.name)} cell</h3>" + _figure(picture, "", int(0.7 * width), int(1.15 * width)))
    return _section("The found cells", *figures, "<h3>As text</h3>", f"<pre>{_text(run.genotype)}</pre>")


_KINDS = ("edges", "operations")


def selection(run: Run) -> str:
    """Selection errors, explained, with every decision."""
    errors = run.summary.selection()
    if errors is None:
        return _section("Selection errors", _note("Selection errors were not measured in this run."))
    explanation = (
        "E1 is the share of nodes with more than two inputs whose two chosen inputs differ from the two whose removal "
        "raises the loss on held-out search images most. E2 is the share of chosen edges whose operation differs from "
        "the one whose removal hurts most."
    )
    names = {"edges": "E1, edges", "operations": "E2, operations"}
    rows = []
    for kind in _KINDS:
        rate = errors[kind]["rate"]
        cells_of = [names[kind], "nothing to decide" if rate is None else _percent(rate, 1)]
        rows.append(("", [*cells_of, f"{errors[kind]['errors']} of {errors[kind]['count']}", _bar(rate or 0.0)]))
    parts = [f"<p>{explanation}</p>", _table(["", "rate", "wrong", ""], rows, numbers=(1, 2))]
    if errors["details"]:
        table = _table(
            ["decision", "cell", "node", "chosen", "by removal", ""],
            [("wrong" if entry.get("wrong") else "", _decision(run, entry)) for entry in errors["details"]],
        )
        parts.append(f"<details><summary>All {len(errors['details'])} decisions</summary>{table}</details>")
    return _section("Selection errors", *parts)


def _decision(run: Run, entry: Mapping[str, Any]) -> list[str]:
    """One decision as table cells; sources and edges by name where the space tells them."""
    kind, node, row = entry.get("kind"), entry.get("node"), entry.get("edge")
    names = next((graph.nodes for graph in run.graphs if graph.name == entry.get("cell")), ())
    what = {"edges": "inputs", "operations": "operation"}.get(str(kind), "")
    if isinstance(row, int) and 0 <= row < len(run.rows):
        what += f" from {_state(run.rows[row][1])}"

    def shown(values: Sequence[Any]) -> str:
        if kind == "edges":
            known = [v for v in values if str(v).isdecimal() and int(v) < len(names)]
            values = [names[int(v)] if v in known else v for v in values]
        return ", ".join(_state(v) for v in values)

    verdict = "differs" if entry.get("wrong") else "agrees"
    return [what, _text(entry.get("cell")), _text(node), shown(entry["chosen"]), shown(entry["reference"]), verdict]


def weights(run: Run) -> str:
    """Heat maps and curves of the alphas."""
    parts = []
    for name, history in run.alphas.items():
        operations = run.operations if len(run.operations) == history.shape[2] else ()
        rows = [f"{source} → {node}" for node, source in run.rows] if len(run.rows) == history.shape[1] else []
        figure = draw_alphas(history, f"{name} cell", operations, rows)
        alt = f"Weights of the operations in the {name} cell over {history.shape[0]} epochs, and by edge in the end"
        parts.append(f"<h3>{_text(name)} cell</h3>" + _figure(svg(figure, alt), "", 640))
    if parts:
        parts.insert(0, "<p>How the weights of the operations moved while searching, and all of them in the end.</p>")
    return _section("Weights of the operations", *parts, *_why(run, "alphas.safetensors"))


def _why(run: Run, name: str) -> list[str]:
    """The sentence that says why a part is missing, if it is."""
    return [_note(_text(run.missing[name]))] if name in run.missing else []


def pictures(run: Run) -> str:
    """Proxy images beside real ones."""
    titles = {"proxy": "Proxy: what the search saw", "real": "Real images of the same classes"}
    parts = []
    for name, title in titles.items():
        if name in run.pictures:
            uri = png_data_uri(draw_images(_rows(run, run.pictures[name])))
            image = f'<img src="{uri}" alt="{title}, a row for every class">'
            parts.append(f"<div><h3>{title}</h3>{_figure(image)}</div>")
        elif "pictures.safetensors" not in run.missing:
            parts.append(_note(f"pictures.safetensors has no '{name}' images."))
    shown = [f'<div class="pair">{"".join(parts)}</div>'] if parts else []
    return _section("Proxy beside real images", *shown, *_why(run, "pictures.safetensors"))


def _tau(fidelity: Mapping[str, Any]) -> str:
    tau = fidelity["kendall_tau"]
    return "tau not defined" if tau is None else f"tau {tau:.2f}"


def fidelity(run: Run) -> str:
    """How the proxy ranks architectures, compared with what they are worth; nothing where it was not checked."""
    found = run.summary.fidelity()
    if found is None:
        return ""
    (low, high), threshold = found["interval"], found["threshold"]
    passed = threshold is None or (found["kendall_tau"] is not None and found["kendall_tau"] >= threshold)
    words = f"Kendall's {_tau(found)}"
    words += "" if low is None else f", 95 % interval {low:.2f} to {high:.2f}"
    words += f": the order of {found['architectures']:.0f} random architectures by the proxy against their true one."
    words += "" if threshold is None else f" The threshold is {threshold:g}: {'passed' if passed else 'not reached'}."
    if found["informative_only"]:
        words += " So few architectures are informative only: the interval is too wide to decide on."
    explanation = (
        "Tau is 1 for the same order, 0 for one that is no better than chance, -1 for the opposite. The architecture "
        f"that the proxy likes best is {found['regret_points']:.2f} points less accurate than the best of them "
        f"({_percent(found['best_truth'])}); on average they have {_percent(found['mean_truth'])}."
    )
    parts = [f'<p class="verdict{" lose" * (not passed)}">{words}</p>', f"<p>{explanation}</p>"]
    if run.ranked:
        objective = found["objective"]
        figure = draw_ranking(run.ranked, f"{objective} on the proxy", "true accuracy", objective.endswith("loss"))
        parts.append(_figure(svg(figure, f"True accuracy over {objective} on the proxy; {words}"), most=640))
    return _section("Can the proxy be trusted?", *parts, *_why(run, "fidelity.json"))


def _rows(run: Run, images: Tensor) -> list[tuple[str, Tensor]]:
    images = images[:MOST_CLASSES, :MOST_IMAGES]
    names = run.class_names if len(run.class_names) >= len(images) else [f"class {i}" for i in range(len(images))]
    return [(names[i], images[i]) for i in range(len(images))]


def curves(run: Run) -> str:
    """Loss and accuracy of every stage; those of random architectures folded away."""
    parts: list[str] = []
    folded: list[str] = []
    for stage, logged in run.curves.items():
        (folded if stage.startswith("random_") else parts).append(_stage_curves(stage, logged))
    if folded:
        parts.append(f"<details><summary>Random architectures</summary>{''.join(folded)}</details>")
    return _section("Curves", *(parts or [_note("The run folder has no metrics.csv of any stage.")]))


def _stage_curves(stage: str, logged: Mapping[str, list[Point]]) -> str:
    """The panels of one stage."""
    made = []
    logged = {name: points for name, points in logged.items() if not name.startswith("health/")}
    for word in ("loss", "accuracy", "tau", "diversity"):
        shown = panel(logged, word)
        if shown is None:
            continue
        figure = draw_curves(shown.series, word, log=shown.log and word == "loss", xlabel=shown.xlabel)
        ends = ", ".join(f"{name} ends at {points[-1][1]:.4g}" for name, points in shown.series.items())
        caption = f"{shown.skipped} values were not finite and are left out." if shown.skipped else ""
        picture = svg(figure, f"{word} of the stage {stage} by {shown.xlabel}: {ends}")
        made.append(_figure(picture, caption, most=560))
    body = f'<div class="pair">{"".join(made)}</div>' if made else _note("This stage logged no loss and no accuracy.")
    return f"<h3>{_text(stage)}</h3>{body}"


def reproduce(run: Run) -> str:
    """Command, seed, versions, hardware."""
    summary = run.summary
    facts = [
        ("seed", f"{summary.number('seed'):.0f}"),
        ("date", _text(summary.text("date"))),
        ("hardware", _text(summary.text("hardware"))),
        ("versions", _text(summary.text("versions"))),
        ("run folder", _text(summary.text("run_dir"))),
    ]
    memory, difference = summary.optional_number("peak_memory_mb"), summary.optional_number("export_difference")
    if memory is not None:
        facts.append(("peak memory", f"{memory:,.0f} MB"))
    if difference is not None:
        facts.append(("export", f"outputs of network.py and of the trained network differ by at most {difference:.1e}"))
    missing = [name for name, value in facts if not value] + ["command"] * (not summary.text("command"))
    parts = [f"<pre>{_text(summary.text('command'))}</pre>"] if summary.text("command") else []
    parts.append(_table([], [("", [f"<b>{name}</b>", value]) for name, value in facts if value]))
    if missing:
        parts.append(_note(f"summary.json does not tell: {', '.join(missing)}."))
    again = "This page was made from the files of the run folder; <code>lightning-nas report</code> makes it again."
    return _section("How to reproduce", *parts) + f"\n<footer>{again}</footer>"
