"""Figures: what is drawn is what was given, and what is saved is the same every time."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from unifylens.evidence import plots
from unifylens.measures import mean_interval


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("UNIFYLENS_FIGURES", str(tmp_path / "figures"))
    with plt.rc_context():
        plots.set_theme()
        yield tmp_path / "figures"
    plt.close("all")


def test_shares_of_parallel_facts_go_from_separate_to_unified():
    colours = plots.share_colours([0.0, 0.3, 0.6, 0.9])
    assert list(colours.values())[:3] == [plots.COLOURS[kind] for kind in ("separate", "between", "unified")]
    assert colours[0.9] == colours[0.6]


def test_chance_is_a_line_with_a_name():
    ax = plots.chance(plt.gca(), 0.125)
    assert list(ax.lines[0].get_ydata()) == [0.125, 0.125] and ax.texts[0].get_text() == "chance"


def test_boundaries_stand_with_their_names_where_there_is_room():
    found = {"mean": [100, 800], "ci_low": [90, 700], "ci_high": [110, 900], "n": [4, 4]}
    summary = pd.DataFrame(found, index=["baseline_reached", "recall_complete"])
    summary.loc["unification_start"] = [np.nan, np.nan, np.nan, 0]  # in no run
    ax = plt.gca()
    ax.set_xlim(0, 1000)
    plots.phase_intervals(summary, ax)
    named = {text.get_text(): (text.xy[0], text.get_ha()) for text in ax.texts}
    assert named == {"baseline reached": (110, "left"), "recall complete": (700, "right")}


def test_cells_of_a_mosaic_are_filled_by_shares():
    data = pd.DataFrame({"x": [0, 0, 1], "y": [0, 0, 0], "part": list("aba"), "share": [0.25, 0.75, 0.5]})
    ax = plots.mosaic(data, "x", "y", "part", "share", {"a": "red", "b": "blue"}, plt.gca())
    widths = [bar.get_width() / 0.9 for bar in ax.patches if bar.get_facecolor()[3]]
    assert np.allclose(widths, [0.25, 0.75, 0.5, 0])
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0", "1"]
    with pytest.raises(ValueError, match=r"parts \['b'\]; allowed: those with a colour, 'a'"):
        plots.mosaic(data, "x", "y", "part", "share", {"a": "red"})


def table():
    rng = np.random.default_rng(0)
    rows = [(lang, step, seed) for lang in "ab" for step in (0, 1, 2) for seed in range(4)]
    data = pd.DataFrame(rows, columns=["language", "step", "seed"])
    return data.assign(accuracy=data["step"] / 3 + rng.normal(0, 0.1, len(data)))


def draw():
    fig, (left, right) = plt.subplots(1, 2)
    plots.curve(table(), "step", "accuracy", hue="language", ax=left)
    plots.checkerboard(np.eye(6), [3], ["one", "two"], ax=right)
    return fig


def test_a_figure_is_saved_with_its_numbers(folder):
    data = pd.DataFrame({"step": [1, 2], "score": [1 / 3, 2e-9]})
    path = plots.save_figure(draw(), "a_figure_1", data)
    assert path == folder / "a_figure_1.png"
    assert sorted(p.name for p in folder.iterdir()) == ["a_figure_1.csv", "a_figure_1.png", "a_figure_1.svg"]
    assert path.with_suffix(".csv").read_bytes() == b"step,score\n1,0.333333\n2,2e-09\n"
    svg = path.with_suffix(".svg").read_text()
    assert "accuracy</text>" in svg and "<dc:date>" not in svg
    with Image.open(path) as image:
        assert image.info.keys() <= {"dpi"}


def test_the_same_figure_gives_the_same_bytes(folder):
    saved = []
    for theme in (True, False):
        if not theme:
            plt.rcParams.update({"svg.hashsalt": None, "svg.fonttype": "path"})
        path = plots.save_figure(draw(), "twice", table())
        saved.append([path.with_suffix(s).read_bytes() for s in (".png", ".svg", ".csv")])
    assert saved[0] == saved[1]


def test_panels_are_stacked_with_their_names(folder):
    panels = {"left": pd.DataFrame({"x": [1]}), "right": pd.DataFrame({"x": [2], "y": [0.5]})}
    path = plots.save_figure(plt.figure(), "panels", panels)
    assert path.with_suffix(".csv").read_text() == "panel,x,y\nleft,1,\nright,2,0.5\n"


@pytest.mark.parametrize("id", ["", "Upper", "a-b", "../up", "a b", "line\n"])
def test_ids_are_plain(id, folder):
    with pytest.raises(ValueError, match="id is"):
        plots.save_figure(plt.figure(), id, table())
    assert not folder.exists()


def test_curve_draws_the_means():
    ax = plots.curve(table(), "step", "accuracy", hue="language", ax=plt.figure().subplots())
    means = table().groupby(["language", "step"])["accuracy"].mean()
    for line, name in zip(ax.lines[:2], "ab", strict=True):
        np.testing.assert_allclose(line.get_ydata(), means[name])
    assert len(ax.collections) == 2, "a band for each line"


def test_scatter_draws_every_row():
    ax = plots.scatter(table(), "step", "accuracy", hue="language", ax=plt.figure().subplots())
    np.testing.assert_allclose(ax.collections[0].get_offsets(), table()[["step", "accuracy"]])


def cells():
    return pd.DataFrame([[0.25, -1.0], [0.5, 3.0]], index=["first", "second"], columns=["a", "b"])


def test_heatmap_writes_the_numbers_on_their_colours():
    ax = plots.heatmap(cells(), plt.figure().subplots(), "cosine")
    np.testing.assert_array_equal(ax.collections[0].get_array(), cells().to_numpy())
    assert ax.collections[0].get_clim() == (-1, 1)
    assert [text.get_text() for text in ax.texts] == ["0.25", "-1.00", "0.50", "3.00"]
    assert [text.get_text() for text in ax.get_xticklabels()] == ["a", "b"]
    _, bar = ax.figure.axes
    assert bar.get_ylabel() == "cosine"


def test_heatmap_takes_seaborns_options_and_none_for_no_bar():
    options = {"fmt": ".0%", "cmap": "mako", "vmin": 0, "vmax": 4, "annot_kws": {"size": 5}}
    ax = plots.heatmap(cells(), plt.figure().subplots(), None, **options)
    assert len(ax.figure.axes) == 1, "no colour bar"
    assert ax.collections[0].get_clim() == (0, 4) and ax.collections[0].get_cmap().name == "mako"
    assert [text.get_text() for text in ax.texts] == ["25%", "-100%", "50%", "300%"]
    assert {text.get_size() for text in ax.texts} == {5}
    assert not plots.heatmap(cells(), plt.figure().subplots(), "cosine", annot=False).texts


def test_forest_draws_intervals_from_the_top():
    data = pd.DataFrame(
        {"value": [0.3, -0.2, 0.1], "low": [0.1, -0.4, 0.0], "high": [0.4, -0.1, 0.3], "kind": ["x", "y", "x"]},
        index=["first", "second", "third"],
    )
    ax = plots.forest(data, plt.figure().subplots(), hue="kind")
    assert [text.get_text() for text in ax.get_yticklabels()] == ["first", "second", "third"]
    low, high = ax.get_ylim()
    assert low > high, "the first is on top"
    drawn = {}
    for container in ax.containers:
        points, _, (bars,) = container
        for x, y, bar in zip(*points.get_data(), bars.get_segments(), strict=True):
            drawn[data.index[int(y)]] = (x, *np.sort(bar[:, 0]), container.get_label())
    for name, row in data.iterrows():
        np.testing.assert_allclose(drawn[name][:3], row[["value", "low", "high"]].astype(float))
        assert drawn[name][3] == row["kind"]
    assert len(plots.forest(data, plt.figure().subplots()).containers) == 1


def test_checkerboard_rules_the_blocks():
    matrix = np.random.default_rng(0).normal(size=(10, 10))
    ax = plots.checkerboard(matrix, [4], ["en", "xx"], ax=plt.figure().subplots(), vmin=-1, vmax=1)
    np.testing.assert_array_equal(ax.images[0].get_array(), matrix)
    assert ax.images[0].get_clim() == (-1, 1)
    assert sorted({*ax.lines[0].get_ydata(), *ax.lines[1].get_xdata()}) == [3.5]
    assert ax.get_xticks().tolist() == [1.5, 6.5]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["en", "xx"]
    assert len(ax.figure.axes) == 2, "a colour bar"


def test_checkerboard_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="square"):
        plots.checkerboard(np.zeros((2, 3)), [], ["a"])
    with pytest.raises(ValueError, match="labels has 1"):
        plots.checkerboard(np.zeros((2, 2)), [1], ["a"])
    with pytest.raises(ValueError, match="boundaries"):
        plots.checkerboard(np.zeros((2, 2)), [3], ["a", "b"])


def test_bands_are_the_intervals_of_the_claims():
    draw = np.random.default_rng(1)
    data = pd.DataFrame({"x": np.repeat([0, 1], 5), "y": draw.normal(size=10)})

    def band(**options):
        _, ax = plt.subplots()
        plots.curve(data, "x", "y", ax=ax, **options)
        vertices = ax.collections[0].get_paths()[0].vertices
        return [(vertices[vertices[:, 0] == x, 1].min(), vertices[vertices[:, 0] == x, 1].max()) for x in (0, 1)]

    means = [mean_interval(rows["y"]) for _, rows in data.groupby("x")]
    np.testing.assert_allclose(band(), [(low, high) for _, low, high in means])
    assert np.abs(np.subtract(band(), band(errorbar=("ci", 95)))).max() > 0.1, "the comparison can fail"
    assert min(low for low, _ in band()) < -0.2
    cut = [mean_interval(rows["y"], within=(-0.2, 9)) for _, rows in data.groupby("x")]
    np.testing.assert_allclose(band(within=(-0.2, 9)), [(low, high) for _, low, high in cut])
    ax = plots.points(data, "x", "y", ax=plt.figure().subplots())
    drawn = [
        line.get_ydata()
        for line in ax.lines
        if len(line.get_ydata()) == 2 and line.get_xdata()[0] == line.get_xdata()[1]
    ]
    np.testing.assert_allclose(drawn, [(low, high) for _, low, high in means])


def test_two_values_make_no_band_that_dwarfs_the_figure():
    data = pd.DataFrame({"x": [0, 0, 1, 1], "y": [0.1, 0.2, 0.3, 0.5]})
    ax = plots.curve(data, "x", "y", ax=plt.figure().subplots())
    low, high = ax.get_ylim()
    assert 0 < low < high < 0.6


def test_forests_draw_every_table_beneath_the_other_within_its_line():
    index = pd.MultiIndex.from_tuples([("07", "x"), ("07", "y"), ("08", "x")])
    first = pd.DataFrame({"value": [0.3, -0.2, 0.1], "low": 0.0, "high": 0.4}, index=index)
    first["low"] = first["value"] - 0.1
    tables = {"in the output prior": first, "a bias": first + 0.2, "another": first + 0.3}
    ax = plots.forests(tables, "share").axes[0]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["x", "y", "x"]
    assert [text.get_text() for text in ax.texts] == ["notebook 07", "notebook 08"]
    given = plt.figure().subplots()
    assert plots.forests({"recall": first}, "share", given, {"recall": "#123456"}) is given.figure
    assert {to_hex(bar.get_color()[0]) for bar in given.collections} == {"#123456"}
    named = plots.forests({"recall": first.rename_axis(["dish", None])}, "share").axes[0]
    assert [text.get_text() for text in named.texts] == ["dish 07", "dish 08"]
    heights = []
    for container, table in zip(ax.containers, tables.values(), strict=True):
        x, y = container.lines[0].get_data()
        np.testing.assert_allclose(np.asarray(x, dtype=float), table["value"])
        assert (np.round(y) == [0, 1, 2]).all()
        heights.append(y[0])
    assert heights == sorted(heights), "in the order given, from the top"
    colours = [container.lines[0].get_color() for container in ax.containers]
    assert colours[0] == colours[1] and colours[2] not in colours[:2], "a way and its repair have one colour"
