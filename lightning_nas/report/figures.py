"""What all pictures share: colours, text, axes, and how a figure becomes SVG or PNG.

Figures are made without pyplot, so no display is needed and the caller's settings are left unchanged.
"""

import base64
import html
import io
import re
import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, QUIET, GRID = "#1f2937", "#64748b", "#94a3b8", "#e5e7eb"
"""Colours of text, of secondary marks, of what stays in the background, and of grid lines."""

COLOURS = ("#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#0891b2", "#db2777", "#4b5563")
"""Colours of curves, in the order in which they are used."""


def new_figure(width: float, height: float) -> "Figure":
    """Create an empty figure.

    Args:
        width: Width in inches.
        height: Height in inches.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def as_text(text: str) -> str:
    """Escape a text so that matplotlib shows it as it is; only names of cell inputs, ``c_{k-1}``, get subscripts."""
    return re.sub(r"\b([a-z])_\{([a-z0-9+-]+)\}", r"$\1_{\2}$", text.replace("$", r"\$"))


def style_axes(axes: "Axes") -> None:
    """Give axes a quiet frame and a grid. The ticks of the x-axis are integers, as for epochs and steps."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(QUIET)
    axes.tick_params(colors=MUTED, labelsize=8, length=3)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)


def svg(figure: "Figure", alt: str = "") -> str:
    """Render a figure as an ``<svg>`` element for a page: scalable, without an XML header, dates or clashing ids.

    Args:
        figure: Any figure.
        alt: Description of the picture for screen readers.
    """
    import matplotlib

    file = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "lightning_nas", "svg.fonttype": "path"}):
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", metadata=nothing, transparent=True)
    text = file.getvalue()
    text = text[text.index("<svg") :].strip()
    # several pictures share a page, so their ids must differ; equal pictures may share theirs
    prefix = f"f{zlib.crc32(text.encode()):08x}-"
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\1{prefix}", text)
    label = f'role="img" aria-label="{html.escape(alt)}"' if alt else 'aria-hidden="true"'
    head = re.sub(r' (?:width|height|version|xmlns:xlink)="[^"]*"', "", text[: text.index(">")])
    body = text[text.index(">") :].replace("xlink:href", "href")
    # matplotlib's rule for '*' would apply to the whole page; a style of the root applies to this picture alone
    body = re.sub(r"\s*<defs>\s*<style.*?</style>\s*</defs>", "", body, count=1, flags=re.DOTALL)
    # in a page with a dark mode, a style sheet gives these names other colours
    body = re.sub(r"(?<=[ :])#([0-9a-f]{6})(?=[;\"])", r"var(--c\1, #\1)", body)
    return f'{head} {label} style="stroke-linejoin:round;stroke-linecap:butt"{body}'


def png(figure: "Figure", dpi: int = 100) -> bytes:
    """Render a figure as the content of a PNG file.

    Args:
        figure: Any figure.
        dpi: Resolution in pixels per inch.
    """
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=dpi, metadata={"Software": None})
    return file.getvalue()


def png_data_uri(figure: "Figure", dpi: int = 100) -> str:
    """Render a figure as ``data:image/png;base64,…``, which a page can contain; see ``png``."""
    return "data:image/png;base64," + base64.b64encode(png(figure, dpi)).decode()
