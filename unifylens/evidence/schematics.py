"""What is trained on what, and which way is measured or cut: a drawing of named boxes and labelled arrows.

A notebook shows one before its first number. One colour means one thing in all of them.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
from matplotlib.text import Text

from unifylens.evidence import plots
from unifylens.evidence.pages import LANGUAGE_COLOURS

__all__ = ["COLOURS", "Arrow", "Box", "draw"]

COLOURS = {
    "plain": "#949494",
    "language a": LANGUAGE_COLOURS[0],
    "language b": LANGUAGE_COLOURS[1],
    "model": "black",
    "unified": plots.COLOURS["unified"],
    "between": plots.COLOURS["between"],
    "separate": plots.COLOURS["separate"],
    "number": "#ca9161",
    "cut": "#d55e00",
}
"""One colour for one thing: whose words, which model, a number that is measured, a way that is cut."""

ROW = 0.66
"""Inches of one row of a drawing."""

FONT = 9.5

EDGE = 0.4
"""Columns left free beside the middle of the outermost boxes."""


class Box(NamedTuple):
    """A thing with a name, at a column and a row (fractions may be used; row 0 is on top)."""

    name: str
    column: float
    row: float
    kind: str = "plain"
    """Whose colour it has, one of `COLOURS`."""


class Arrow(NamedTuple):
    """A way from one box to another."""

    start: str
    end: str
    label: str = ""
    kind: str = "flow"
    """`flow`, `measured` (dotted), or `cut` (dashed, with a cross)."""
    bend: float = 0.0
    """How far it bows to one side, as a share of its length."""


LINES = {"flow": "-", "measured": ":", "cut": "--"}


def draw(boxes: Iterable[tuple[Any, ...]], arrows: Iterable[tuple[Any, ...]]) -> tuple[Figure, dict[str, pd.DataFrame]]:
    """A drawing, and what it shows as two tables: `boxes` and `arrows`, for `plots.save_figure`.

    `boxes` are `Box`es and `arrows` are `Arrow`s, or their fields in order.

    Raises ValueError for an unknown kind, two boxes of one name, or an arrow to a box that is not there.

    >>> fig, shown = ul.schematics.draw([("facts", 0, 0), ("model", 1, 0, "model")], [("facts", "model", "read")])
    >>> shown["arrows"]["label"].tolist()
    ['read']
    """
    placed, ways = [Box(*box) for box in boxes], [Arrow(*arrow) for arrow in arrows]
    _check(placed, ways)
    columns, rows = [box.column for box in placed], [box.row for box in placed]
    height = ROW * (max(rows) - min(rows) + 1)
    fig, ax = plt.subplots(figsize=(plots.WIDTH, height))
    ax.set(xlim=(min(columns) - EDGE, max(columns) + EDGE), ylim=(max(rows) + 0.5, min(rows) - 0.5))
    ax.axis("off")
    texts = {box.name: _box(ax, box) for box in placed}
    fig.canvas.draw()  # sizes of boxes are those of their text, which arrows end at
    for way in ways:
        _arrow(ax, way, texts)
    named = {"boxes": pd.DataFrame(placed), "arrows": pd.DataFrame(ways, columns=list(Arrow._fields))}
    return fig, {what: table.replace("\n", " ", regex=True) for what, table in named.items()}


def _check(boxes: list[Box], arrows: list[Arrow]) -> None:
    names = [box.name for box in boxes]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"boxes has {sorted(twice)} twice; allowed: a name of its own for each box")
    for what, kind, allowed in (
        *(("kind of a box", box.kind, COLOURS) for box in boxes),
        *(("kind of an arrow", arrow.kind, LINES) for arrow in arrows),
        *(("end of an arrow", end, names) for arrow in arrows for end in (arrow.start, arrow.end)),
    ):
        if kind not in allowed:
            raise ValueError(f"{what} is {kind!r}; allowed: {', '.join(map(repr, allowed))}")


def _box(ax: Axes, box: Box) -> Text:
    colour = to_rgb(COLOURS[box.kind])
    tint = tuple(1 - 0.2 * (1 - part) if box.kind != "model" else 0.93 for part in colour)
    look: dict[str, Any] = {"boxstyle": "round,pad=0.35", "facecolor": tint, "edgecolor": colour, "linewidth": 1.4}
    place: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": FONT, "linespacing": 1.1, "zorder": 3}
    return ax.text(box.column, box.row, box.name, bbox=look, **place)


def _arrow(ax: Axes, arrow: Arrow, texts: dict[str, Text]) -> None:
    start, end = texts[arrow.start], texts[arrow.end]
    colour = COLOURS["cut"] if arrow.kind == "cut" else "black"
    way = FancyArrowPatch(
        start.get_position(),
        end.get_position(),
        arrowstyle="-|>",
        mutation_scale=11,
        connectionstyle=f"arc3,rad={arrow.bend}",
        patchA=start.get_bbox_patch(),
        patchB=end.get_bbox_patch(),
        shrinkA=1,
        shrinkB=2,
        linestyle=LINES[arrow.kind],
        linewidth=1.3,
        color=colour,
        zorder=4,  # drawn after the boxes, whose edges are known then
    )
    ax.add_patch(way)
    middle = np.array([0.25, 0.5, 0.25]) @ np.asarray(way.get_path().vertices)[:3]  # of the curve between the boxes
    cut = arrow.kind == "cut"
    if cut:
        ax.plot(*middle, marker="x", markersize=9, markeredgewidth=2.2, color=colour, zorder=5)
    level = abs(end.get_position()[1] - start.get_position()[1]) < 0.3
    gap = (0, 9 if cut else 7) if level else (8 if cut else 0, 0)
    place: dict[str, Any] = {"ha": "left" if cut and not level else "center", "va": "center", "fontsize": FONT - 0.3}
    paper = {"boxstyle": "square,pad=0.05", "facecolor": "white", "edgecolor": "none"}
    if arrow.label:
        look: dict[str, Any] = {"color": colour, "bbox": None if level else paper, "zorder": 5} | place
        ax.annotate(arrow.label, tuple(middle), xytext=gap, textcoords="offset points", **look)
