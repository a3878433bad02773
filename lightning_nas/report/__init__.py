"""Reports of runs as web pages, and the pictures in them."""

from lightning_nas.report.curves import Point, read_curves
from lightning_nas.report.draw import draw_alphas, draw_cell, draw_curves, draw_heat_map, draw_images, draw_ranking
from lightning_nas.report.figures import png, png_data_uri, svg
from lightning_nas.report.front import Front
from lightning_nas.report.page import write_report

__all__ = [
    "Front",
    "Point",
    "draw_alphas",
    "draw_cell",
    "draw_curves",
    "draw_heat_map",
    "draw_images",
    "draw_ranking",
    "png",
    "png_data_uri",
    "read_curves",
    "svg",
    "write_report",
]
