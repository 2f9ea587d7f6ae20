"""Figures as SVG that takes its colours from the page around it, and is the same to the byte each time."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from common.errors import SimulationError
from common.log import printable
from simulations.reports.page import Markup, escaped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, LINE, PAPER = "#1d2430", "#667080", "#dfe3e8", "#fdfdfe"
SERIES = ("#2f6db3", "#c8651b", "#3d8a5f", "#8057a8", "#a8892a", "#b83f5e", "#3a8f9e", "#7a6a5a")
"""Colours on light paper; the page names each, and has others for dark paper."""

GOOD, LATE, DROPPED, FAILED = SERIES[0], "#e0b04c", "#a3acb8", SERIES[5]

NAMES = {
    INK: "ink",
    MUTED: "muted",
    LINE: "line",
    PAPER: "paper",
    LATE: "late",
    DROPPED: "dropped",
    **{colour: f"s{number}" for number, colour in enumerate(SERIES)},
}

_STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": LINE,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.labelcolor": MUTED,
    "axes.labelsize": 9,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.use": True,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "grid.color": LINE,
    "grid.linewidth": 0.8,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "legend.columnspacing": 1.2,
    "legend.handleheight": 0.8,
    "legend.handlelength": 1.0,
    "legend.handletextpad": 0.5,
    "lines.linewidth": 1.8,
    "svg.fonttype": "none",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": LINE,
    "xtick.labelcolor": MUTED,
    "xtick.labelsize": 8.5,
    "ytick.color": LINE,
    "ytick.labelcolor": MUTED,
    "ytick.labelsize": 8.5,
    "ytick.major.size": 0,
}

_NO_METADATA = {"Creator": None, "Date": None, "Format": None, "Type": None}


@contextmanager
def in_style() -> Iterator[None]:
    """All figures are made within this, for they look as is set when their parts are made.

    Raises:
        SimulationError: FA-9301, matplotlib is not installed.
    """
    try:
        import matplotlib.figure
    except ImportError as error:
        raise SimulationError(
            "FA-9301",
            "A report needs matplotlib, which is not installed.",
            "Install it: pip install 'fedaudio[plots]'",
        ) from error
    # The page's reader has fonts for letters that the one used for measuring lacks.
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        yield


class Drawing:
    """One figure, within `in_style`: draw on `axes`, then take `svg` once.

    Args:
        height: inches, as 5.4 are wide; the page scales both.
    """

    def __init__(self, height: float = 2.9, width: float = 5.4) -> None:
        from matplotlib.figure import Figure

        self.figure: Figure = Figure(figsize=(width, height))
        self.axes: Axes = self.figure.subplots()

    def legend(self, columns: int = 4) -> None:
        """Say what the colours are, above the axes, where no line runs."""
        self.axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=columns, borderaxespad=0.2)

    def svg(self, title: str) -> Markup:
        """The figure as an element of a page; `title` says what it shows to those who do not see it."""
        import matplotlib

        file = io.StringIO()
        with matplotlib.rc_context({"svg.hashsalt": title}):
            self.figure.savefig(file, format="svg", metadata=_NO_METADATA)
        _, _, text = file.getvalue().partition("<svg ")
        head, _, body = text.partition(">")
        box = re.search(r'viewBox="[\d. ]+"', head)
        # Groups carry numbers that every figure counts from 1; the page has them once at most.
        body = re.sub(r' id="[\w.]+_\d+"', "", body)
        for colour, name in NAMES.items():
            body = body.replace(f": {colour}", f": var(--{name})")
        return Markup(f'<svg role="img" aria-label="{escaped(title)}" {box[0] if box else ""}>{body}')


def name_of(text: str, most: int = 18) -> str:
    """`text` as a label of a figure: one line, not too long."""
    text = printable(text)
    return text if len(text) <= most else text[: most - 1] + "…"
