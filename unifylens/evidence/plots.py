"""Figures: one look for all, drawn on the `ax` they are given, and saved beside the numbers they show.

Nothing here computes a result; the only statistics are the means and bands that are drawn.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from jaxtyping import Float
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, ScalarFormatter
from numpy import ndarray

from unifylens import environment
from unifylens.measures.intervals import ANYWHERE, mean_interval

__all__ = [
    "COLOURS",
    "WIDTH",
    "chance",
    "checkerboard",
    "checkerboard_animation",
    "curve",
    "forest",
    "forests",
    "heatmap",
    "mosaic",
    "phase_intervals",
    "points",
    "save_figure",
    "scatter",
    "set_theme",
    "share_colours",
    "shares",
    "step_axis",
]

WIDTH = 4.5
"""Inches of a figure; where a column is 80 mm wide its letters of 9 points are more than 6 points high."""

COLOURS = {
    "unified": "#0173b2",
    "between": "#029e73",
    "separate": "#de8f05",
    "untrained": "#ca9161",
    "transfer": "black",
    "recall": "#949494",
    "unification score": "#7f3c8d",
    "fact-only score": "#d55e00",
    "all that is lost": "black",
    "beyond the output prior": "#0173b2",
    "in the output prior": "#de8f05",
    "in other answers": "#949494",
    "a unified model's states": "#0173b2",
    "a bias": "#de8f05",
}
"""One colour for one thing: kinds of models, what they know, scores, ways to lose transfer and their repairs."""

SHARES = LinearSegmentedColormap.from_list("shares", [COLOURS[kind] for kind in ("separate", "between", "unified")])

# Text stays text, and ids come from a fixed salt: the same figure gives the same bytes.
_SVG = {"svg.fonttype": "none", "svg.hashsalt": "unifylens"}


def set_theme() -> None:
    """Set the house style of all later figures: colours safe for the colour-blind, `WIDTH` inches wide, letters of 9
    points."""
    letters = ("font.size", "axes.labelsize", "axes.titlesize", "xtick.labelsize", "ytick.labelsize")
    sns.set_theme(
        context="paper",
        style="ticks",
        palette="colorblind",
        rc={
            "figure.figsize": (WIDTH, 3.0),
            **dict.fromkeys((*letters, "legend.fontsize", "legend.title_fontsize"), 9),
            "figure.constrained_layout.use": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "legend.frameon": False,
            **_SVG,
        },
    )


def share_colours(shares: Iterable[float]) -> dict[float, str]:
    """A colour for each share of parallel facts: 0 is that of separate models, 60 % and more that of unified ones.

    >>> colours = ul.plots.share_colours([0.0, 0.6])
    >>> colours
    {0.0: '#de8f05', 0.6: '#0173b2'}
    """
    return {share: to_hex(SHARES(share / 0.6)) for share in shares}


def chance(ax: Axes, level: float, label: str = "chance") -> Axes:
    """A dotted line at a level that needs no knowledge, with its name at the right."""
    ax.axhline(level, color="0.4", linestyle=":", linewidth=1.2)
    place = {"xy": (1, level), "xycoords": ax.get_yaxis_transform(), "textcoords": "offset points"}
    ax.annotate(label, xytext=(-2, 2), ha="right", va="bottom", color="0.4", fontsize=8, **place)
    return ax


def save_figure(fig: Figure, id: str, data: pd.DataFrame | Mapping[str, pd.DataFrame]) -> Path:
    """Save a figure as `<id>.png` and `<id>.svg` and the numbers behind it as `<id>.csv`; returns the PNG's
    path.

    The files go to `unifylens.environment.figures_dir()`. `data` is one tidy table, or one a panel: those are
    stacked in one file with a first column `panel`. The same figure and numbers give the same bytes on the
    same versions.

    Raises ValueError for an id with other characters than a-z, 0-9 and _.
    """
    if not re.fullmatch(r"[a-z0-9_]+", id):
        raise ValueError(f"id is {id!r}; it must be made of a-z, 0-9 and _ only")
    if isinstance(data, Mapping):
        data = pd.concat([table.assign(panel=name) for name, table in data.items()])
        data = data[["panel", *data.columns.drop("panel")]]
    folder = environment.figures_dir()
    folder.mkdir(parents=True, exist_ok=True)
    png = folder / f"{id}.png"
    with plt.rc_context(_SVG):
        fig.savefig(png, dpi=150, bbox_inches="tight", metadata={"Software": None})
        fig.savefig(png.with_suffix(".svg"), bbox_inches="tight", metadata={"Date": None, "Creator": None})
    data.to_csv(png.with_suffix(".csv"), index=False, float_format="%.6g", lineterminator="\n")
    return png


def checkerboard(
    matrix: Float[ndarray, "row row"],
    boundaries: Sequence[int],
    labels: Sequence[str],
    ax: Axes | None = None,
    vmin: float = -1,
    vmax: float = 1,
    colorbar: str | None = "cosine",
) -> Axes:
    """Heatmap of a similarity matrix, ruled where a new block of rows (a language, or a fact) begins.

    `boundaries` are the first rows of all blocks but the first; `labels` name all blocks, one more than there
    are boundaries. Colours part at the middle of `vmin` and `vmax`. `colorbar` is the bar's label, None for no bar.

    Raises ValueError for a matrix that is not square, boundaries out of order or outside it, or labels that
    do not fit them.
    """
    rows, columns = matrix.shape
    if rows != columns:
        raise ValueError(f"matrix has shape {[rows, columns]}; it must be square")
    if len(labels) != len(boundaries) + 1:
        raise ValueError(f"labels has {len(labels)} entries; {len(boundaries)} boundaries need one more")
    edges = [0, *boundaries, rows]
    if any(low >= high for low, high in pairwise(edges)):
        raise ValueError(f"boundaries is {list(boundaries)}; it must increase, within 1..{rows - 1}")
    ax = plt.gca() if ax is None else ax
    # An image, not seaborn's mesh: a mesh would be one SVG path a cell.
    image = ax.imshow(matrix, cmap="vlag", vmin=vmin, vmax=vmax, interpolation="nearest")
    for edge in boundaries:
        ax.axhline(edge - 0.5, color="0.3", linewidth=0.8)
        ax.axvline(edge - 0.5, color="0.3", linewidth=0.8)
    centres = [(low + high - 1) / 2 for low, high in pairwise(edges)]
    ax.set_xticks(centres, labels)
    ax.set_yticks(centres, labels, rotation=90, va="center")
    ax.tick_params(length=0)
    if colorbar is not None:
        ax.figure.colorbar(image, ax=ax, label=colorbar, fraction=0.046)
    return ax


def checkerboard_animation(
    id: str,
    frames: Mapping[int, Mapping[str, Float[ndarray, "row row"]]],
    boundaries: Sequence[int],
    labels: Sequence[str],
    rows: str = "",
) -> Path:
    """Save `<id>.gif`: checkerboards by panel title, a frame for each training step; returns its path.

    `rows` says what rows and columns are. The last frame stays for two seconds.
    """
    first = next(iter(frames.values()))
    fig, axes = plt.subplots(1, len(first), figsize=(WIDTH, 0.7 + WIDTH / len(first)))

    def draw(step: int) -> None:
        for ax, (title, matrix) in zip(axes, frames[step].items(), strict=True):
            ax.clear()
            checkerboard(matrix, boundaries, labels, ax, colorbar=None)
            ax.set(title=title, xlabel=rows)
        fig.suptitle(f"step {step}", fontsize=plt.rcParams["axes.titlesize"])

    path = environment.figures_dir() / f"{id}.gif"
    path.parent.mkdir(parents=True, exist_ok=True)
    steps = [*frames, *[max(frames)] * 7]
    FuncAnimation(fig, draw, frames=steps).save(path, writer=PillowWriter(fps=4), dpi=100)
    plt.close(fig)
    return path


def step_axis(ax: Axes, first: int = 10) -> Axes:
    """Logarithmic axis of training steps, from `first` on."""
    ax.set(xscale="log", xlabel="training step (log scale)")
    ax.set_xticks([tick for tick in (10, 30, 100, 300, 1000, 3000, 10000) if tick >= first])
    ax.xaxis.set_major_formatter(ScalarFormatter())
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlim(first, ax.dataLim.xmax)
    return ax


def phase_intervals(summary: pd.DataFrame, ax: Axes) -> Axes:
    """Mean step and 95 % interval of every boundary of `phases.summarise`, one beneath the other, each with its name.

    Give `ax` its scale first: the name stands at the side of the interval where there is more room.
    """
    found = summary[summary["n"] > 0]
    middle = ax.transAxes.inverted()
    for row, (name, boundary) in enumerate(found.iterrows()):
        bar = [[boundary["mean"] - boundary["ci_low"]], [boundary["ci_high"] - boundary["mean"]]]
        ax.errorbar(boundary["mean"], row, xerr=bar, fmt="o", markersize=4, linewidth=1.2, color="black")
        left, right = (
            middle.transform(ax.transData.transform((boundary[end], row)))[0] for end in ("ci_low", "ci_high")
        )
        side, gap, end = ("right", -5, "ci_low") if left > 1 - right else ("left", 5, "ci_high")
        place = {"textcoords": "offset points", "ha": side, "va": "center"}
        ax.annotate(str(name).replace("_", " "), (boundary[end], row), xytext=(gap, 0), **place)
    ax.set(ylim=(len(found) - 0.5, -0.5), yticks=[])
    ax.spines["left"].set_visible(False)
    return ax


def points(
    data: pd.DataFrame,
    x: str,
    y: str,
    hue: str | None = None,
    ax: Axes | None = None,
    within: tuple[float, float] = ANYWHERE,
    **options: object,
) -> Axes:
    """Mean of column `y` at each category of `x` and `hue` with its 95 % interval.

    The interval is that of `measures.mean_interval`, cut to `within`, such as `(0, 1)` for shares; two rows have none,
    as one that holds the truth would dwarf the figure. `options` go to `seaborn.pointplot`.
    """
    return sns.pointplot(data, x=x, y=y, hue=hue, ax=ax, **_band(options, within))


def shares(data: pd.DataFrame, ax: Axes, colours: Sequence[str] | None = None) -> Axes:
    """Stacked bars of shares that sum to one: a bar a row, a colour a column (None: the palette's), legend below."""
    colours = sns.color_palette("colorblind", data.shape[1]) if colours is None else colours
    data.plot.bar(stacked=True, ax=ax, color=colours, width=0.8, rot=0)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, columnspacing=1)
    return ax


def forest(data: pd.DataFrame, ax: Axes, hue: str | None = None) -> Axes:
    """Columns `value` with its interval `low` to `high`, a row a line of the figure, the first on top; a line at zero.

    The index names the rows; rows of one value of column `hue` have one colour.
    """
    kinds = pd.Series("", index=data.index) if hue is None else data[hue]
    heights = pd.Series(range(len(data)), index=data.index)
    ax.axvline(0, color="grey", linewidth=1)
    for (kind, rows), colour in zip(data.groupby(kinds, sort=False), sns.color_palette("colorblind"), strict=False):
        bars = [rows["value"] - rows["low"], rows["high"] - rows["value"]]
        ax.errorbar(rows["value"], heights[rows.index], xerr=bars, fmt="o", color=colour, label=kind)
    ax.set_yticks(heights, [str(name) for name in data.index])
    ax.set_ylim(len(data) - 0.5, -0.5)
    ax.grid(axis="y", alpha=0.4)
    return ax


def forests(
    tables: Mapping[str, pd.DataFrame],
    xlabel: str,
    ax: Axes | None = None,
    colours: Mapping[str, str] = COLOURS,
) -> Figure:
    """Several values a line, one beneath the other: tables as `forest` takes them, of one index, by name.

    They stand in a figure of their own where no `ax` is given. A name without a colour gets one that no other has.

    An index of two levels is drawn in groups of the first, which are ruled apart and named at the right: by the name
    of the level (`notebook` where it has none) and the group's.
    """
    index = next(iter(tables.values())).index
    grouped = index.nlevels > 1
    names = [str(name[-1]) if grouped else str(name) for name in index]
    if ax is None:
        _, ax = plt.subplots(figsize=(WIDTH, 0.9 + 0.07 * len(index) * (len(tables) + 1)))
    ax.axvline(0, color="grey", linewidth=1)
    others = iter(sns.color_palette("colorblind")[4:])
    for number, (name, table) in enumerate(tables.items()):
        heights = np.arange(len(table)) + 0.8 * ((number + 0.5) / len(tables) - 0.5)
        bars = [table["value"] - table["low"], table["high"] - table["value"]]
        colour = colours[name] if name in colours else next(others)
        ax.errorbar(table["value"], heights, xerr=bars, fmt="o", markersize=3, linewidth=1.2, color=colour, label=name)
    ax.set_yticks(range(len(index)), names, fontsize=8)
    ax.set_ylim(len(index) - 0.4, -0.6)
    ax.set_xlabel(xlabel, fontsize=9)
    ax.tick_params(axis="x", labelsize=8)
    for row in range(1, len(index)):
        apart = grouped and index[row][0] != index[row - 1][0]
        ax.axhline(row - 0.5, color="black" if apart else "0.9", linewidth=1 if apart else 0.5, zorder=0)
    if grouped:
        for group in dict.fromkeys(index.get_level_values(0)):
            middle = np.flatnonzero(index.get_level_values(0) == group).mean()
            place = {"transform": ax.get_yaxis_transform(), "rotation": 270, "va": "center", "fontsize": 8}
            ax.text(1.02, middle, f"{index.names[0] or 'notebook'} {group}", **place)
    return ax.figure


def heatmap(
    table: pd.DataFrame, ax: Axes, label: str | None, vmin: float = -1, vmax: float = 1, **options: object
) -> Axes:
    """Annotated table of numbers; `label` names the colour bar, None for no bar. `options` go to `seaborn.heatmap`."""
    bar = {"cbar": False} if label is None else {"cbar_kws": {"label": label}}
    look = {"annot": True, "fmt": ".2f", "cmap": "vlag", "vmin": vmin, "vmax": vmax}
    return sns.heatmap(table, ax=ax, **look | bar | options)


def mosaic(
    data: pd.DataFrame, x: str, y: str, part: str, share: str, colours: Mapping[str, str], ax: Axes | None = None
) -> Axes:
    """A grid of cells, `x` by `y`, each filled from the left by the shares of its parts, in the order of `colours`.

    `data` has a row a cell and part. What is left of a cell stays white. Values of `x` and `y` are places in the order
    in which they come first, the first of `y` at the bottom.

    Raises ValueError for a part without a colour.
    """
    if unknown := sorted(set(data[part]) - set(colours)):
        raise ValueError(f"data has parts {unknown}; allowed: those with a colour, {', '.join(map(repr, colours))}")
    ax = plt.gca() if ax is None else ax
    columns, rows = list(dict.fromkeys(data[x])), list(dict.fromkeys(data[y]))
    shares = data.pivot(index=[y, x], columns=part, values=share).reindex(columns=list(colours)).fillna(0)
    for (row, column), parts in shares.iterrows():
        left, low = columns.index(column) - 0.45, rows.index(row)
        ax.barh(low, 0.9 * parts, 0.9, left + 0.9 * (parts.cumsum() - parts), color=list(colours.values()), linewidth=0)
        ax.barh(low, 0.9, 0.9, left, color="none", edgecolor="0.4", linewidth=0.6)
    ax.set_xticks(range(len(columns)), [str(name) for name in columns])
    ax.set_yticks(range(len(rows)), [str(name) for name in rows])
    ax.set(xlim=(-0.55, len(columns) - 0.45), ylim=(-0.55, len(rows) - 0.45))
    ax.tick_params(length=0)
    sns.despine(ax=ax, left=True, bottom=True)
    return ax


def curve(
    data: pd.DataFrame,
    x: str,
    y: str,
    hue: str | None = None,
    ax: Axes | None = None,
    within: tuple[float, float] = ANYWHERE,
    **options: object,
) -> Axes:
    """Mean of column `y` over the rows that share `x` and `hue`, with its 95 % interval as a band.

    The interval is that of `measures.mean_interval`, cut to `within`, such as `(0, 1)` for shares; two rows have none,
    as one that holds the truth would dwarf the figure. `options` go to `seaborn.lineplot`.

    >>> runs = ul.sweep(exp, over={"corpus.parallel": [0, 0.5], "seed": range(2)}, progress=False)
    >>> ul.plots.curve(runs.final, "corpus.parallel", "transfer").get_xlabel()
    'corpus.parallel'
    """
    return sns.lineplot(data, x=x, y=y, hue=hue, ax=ax, **_band(options, within))


def _band(options: dict[str, object], within: tuple[float, float]) -> dict[str, object]:
    """Options of seaborn with the interval of the claims for a mean; another estimator or band is seaborn's own."""
    if {"estimator", "errorbar", "units", "n_boot", "weights"}.isdisjoint(options):
        return {"errorbar": partial(_interval, within=within), **options}
    # a fixed seed, as a bootstrap would differ from one drawing to the next
    return {"errorbar": ("ci", 95), "seed": 0, **options}


def _interval(values: pd.Series, within: tuple[float, float]) -> tuple[float, float]:
    values = values.dropna().to_numpy()
    return mean_interval(values, within)[1:] if len(values) > 2 else (np.nan, np.nan)


def scatter(
    data: pd.DataFrame, x: str, y: str, hue: str | None = None, ax: Axes | None = None, **options: object
) -> Axes:
    """A point a row; `options` go to `seaborn.scatterplot`."""
    return sns.scatterplot(data, x=x, y=y, hue=hue, ax=ax, **options)
