"""Draws the pictures of these pages from a run folder of the digits pipeline.

``lightning-nas pipeline --config pipeline/digits --run_dir runs/digits`` makes the folder, and
``python docs/pictures.py runs/digits`` draws it.
"""

import sys
from pathlib import Path

from lightning_nas.report import draw_alphas, draw_cell, draw_curves, draw_images, png
from lightning_nas.report.run import read_run

IMAGES = Path(__file__).parent / "images"


def main(folder: Path) -> None:
    """Write the PNG files.

    Args:
        folder: A run folder of the digits pipeline.
    """
    run = read_run(folder)
    curves = {
        name: [(point.epoch + 1, point.value) for point in run.curves["search"][f"{half}/loss"]]
        for half, name in (("train", "train half"), ("search", "search half"))
    }
    rows = [
        (title if k == 0 else "", run.pictures[name][:, k])
        for name, title in (("real", "real"), ("proxy", "distilled"))
        for k in range(2)
    ]
    edges = [f"{source} → {node}" for source, node in run.rows]
    figures = {f"cell_{graph.name}": draw_cell(graph) for graph in run.graphs} | {
        "proxy": draw_images(rows),
        "curves": draw_curves(curves, "loss of the supernet"),
        "alphas": draw_alphas(run.alphas["normal"], "normal cell", run.operations, edges),
    }
    for name, figure in figures.items():
        path = IMAGES / f"{name}.png"
        path.write_bytes(png(figure, dpi={"proxy": 100, "alphas": 110}.get(name, 150)))
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
