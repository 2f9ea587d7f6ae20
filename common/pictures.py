"""Pictures as PNG files. Matplotlib is loaded when the first is begun: no listener carries it."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

from common.errors import TrainingError
from common.files import make_folder, storage_error, write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, ORANGE, GREY = "#2f6db3", "#c8651b", "#667080"
SERIES = (BLUE, ORANGE, "#3d8a5f", "#8057a8", "#a8892a", "#b83f5e", "#3a8f9e", "#7a6a5a")
"""Colours to tell curves apart by."""


def require_matplotlib() -> None:
    """Say at once what would be said when the first picture is begun.

    Raises:
        TrainingError: FA-7061, matplotlib is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise TrainingError(
            "FA-7061",
            "A picture needs matplotlib, which is not installed.",
            "Install it: pip install 'fedaudio[plots]'",
        ) from error


def prepare_folder(folder: Path) -> None:
    """Make sure that pictures can be written to `folder`, before anything is done for them.

    Raises:
        TrainingError: FA-7061, matplotlib is not installed.
        StorageError: FA-8001.
    """
    require_matplotlib()
    make_folder(folder)
    try:
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise storage_error(f"Nothing can be written to {folder}", error) from error


def as_written(text: str) -> str:
    """`text` such that a figure shows it as it is: between dollar signs it would be taken for a formula."""
    return text.replace("$", r"\$")


def begin_figure(width: float, height: float) -> Figure:
    """An empty figure, `width` by `height` inches.

    Raises:
        TrainingError: FA-7061, matplotlib is not installed.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Figure, path: Path) -> Path:
    """Write `figure` to `path` as PNG, the same bytes for the same figure.

    Raises:
        StorageError: FA-8001.
    """
    drawn = io.BytesIO()
    with warnings.catch_warnings():
        # Labels may be in a script that the font does not have; a box in a picture is no reason to fail.
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        figure.savefig(drawn, format="png", dpi=130, metadata={"Software": None})
    make_folder(path.parent)
    write_atomic(path, drawn.getvalue())
    return path
