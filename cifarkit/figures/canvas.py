"""What all figures share: paper, colours, lettering, and the way to a file."""

from __future__ import annotations

import os
import textwrap
import unicodedata
import uuid
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.text import Text
from numpy.typing import NDArray

from cifarkit.errors import CifarkitError

Image = NDArray[np.generic]

DPI = 150
TITLE_SIZE = 11

# Okabe & Ito (2008): told apart under every common colour blindness, and in grey print by lightness.
BLUE, VERMILLION, GREEN, ORANGE = "#0072B2", "#D55E00", "#009E73", "#E69F00"
SKY, PURPLE, INK, GRAY, PALE = "#56B4E9", "#CC79A7", "#222222", "#767676", "#E6E6E6"
CYCLE = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, INK)

# What a prediction says and what is true keep their colours through all figures.
PREDICTED, TRUE = VERMILLION, BLUE

# matplotlib brings DejaVu Sans, which has no East Asian letters; the others help where installed.
FALLBACK_FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "WenQuanYi Zen Hei",
    "Microsoft YaHei",
    "PingFang SC",
    "Hiragino Sans",
    "Yu Gothic",
    "Malgun Gothic",
)


def blank(width: float, height: float) -> Figure:
    """Blank paper, in inches."""
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def new_figure(width: float, height: float) -> Figure:
    """Blank paper, in inches, on which every axes makes room for its lettering."""
    figure = blank(width, height)
    figure.set_layout_engine(ConstrainedLayoutEngine(w_pad=0.04, h_pad=0.05, wspace=0, hspace=0))
    return figure


def finish(figure: Figure, suptitle: str = "") -> Figure:
    """Add the wrapped title and give all lettering the same fonts."""
    if suptitle:
        figure.suptitle(wrapped(suptitle, figure.get_figwidth()), fontsize=TITLE_SIZE, color=INK)
    for text in figure.findobj(Text):
        text.set_fontfamily(families())
    for ax in figure.axes:
        ax.tick_params(labelfontfamily=families())
    return figure


def wrapped(title: str, width: float) -> str:
    """A title in lines that are no wider than a paper of this many inches."""
    # A letter of DejaVu Sans at 11 points is about 0.09 inch wide.
    letters = max(12, int(width / 0.09))
    lines = (textwrap.wrap(plain(line), letters, break_on_hyphens=False) for line in title.splitlines())
    return "\n".join(part for line in lines for part in line)


def save(figure: Figure, path: Path) -> Path:
    """Write a PNG, whole or not at all, creating the folders above it.

    Raises:
        CifarkitError: the file cannot be written.
    """
    # Not named after the target, whose name may already be as long as the file system allows.
    scratch = path.parent / f".{uuid.uuid4().hex}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            # `savefig` would lay the page out twice.
            figure.canvas.print_png(scratch)
            os.replace(scratch, path)
        finally:
            scratch.unlink(missing_ok=True)
    except OSError as error:
        raise CifarkitError(f"cannot write the figure {path}: {error.strerror or error}") from error
    return path


def plain(text: str) -> str:
    """One line that any name can become: no control characters, no formulas, no missing glyphs."""
    return _without_formulas(_drawable(text))


def short(name: str, width: int = 14) -> str:
    """The name in at most ``width`` columns, an ellipsis in place of its middle where that was cut: names
    differ at their ends as often as at their beginnings."""
    line = _drawable(name)
    begin, end = (len(line) + 1) // 2, len(line) // 2
    while _columns(line[:begin]) + _columns(line[len(line) - end :]) > width - (begin + end < len(line)):
        begin, end = (begin - 1, end) if begin > end else (begin, end - 1)
    if begin + end < len(line):
        line = f"{line[:begin].rstrip()}…{line[len(line) - end :].lstrip()}"
    return _without_formulas(line)


def _drawable(text: str) -> str:
    """One line in which a letter that no font has is its number: as a box it could be any other."""
    known = _fonts()[1]
    return "".join(c if ord(c) in known else f"U+{ord(c):04X}" for c in " ".join(str(text).split()))


def _without_formulas(line: str) -> str:
    """A pair of dollar signs would be read as TeX."""
    return line.replace("$", r"\$")


def percent(share: float, digits: int = 0) -> str:
    return f"{100 * share:.{digits}f}%" if np.isfinite(share) else "–"


def tidy(ax: Axes, *, grid: Literal["x", "y", "both"] | None = None) -> None:
    """Leave two spines, small ticks and, along one axis or ``"both"``, a faint grid."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(GRAY)
    ax.tick_params(labelsize=8, color=GRAY, labelcolor=INK)
    ax.set_axisbelow(True)
    if grid:
        ax.grid(axis=grid, color=PALE, linewidth=0.7)


def say_nothing_to_show(ax: Axes, text: str) -> None:
    ax.set_axis_off()
    ax.text(0.5, 0.5, plain(text), transform=ax.transAxes, ha="center", va="center", color=GRAY, fontsize=9)


def families() -> list[str]:
    """The font families of all lettering, best first."""
    return list(_fonts()[0])


@cache
def _fonts() -> tuple[tuple[str, ...], frozenset[int]]:
    """The families to use, best first, and the code points they can draw."""
    installed = {font.name for font in fontManager.ttflist}
    families = ("DejaVu Sans", *(name for name in FALLBACK_FONTS if name in installed))
    paths = [findfont(FontProperties(family=family)) for family in families]
    return families, frozenset().union(*(get_font(path).get_charmap() for path in paths))


def _columns(text: str) -> int:
    """Width in letters; East Asian letters are two wide."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
