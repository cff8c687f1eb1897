"""The site's charts, made from the tables in figures/full when the site is built; none is kept in git.

Each is a Vega-Lite specification that stands in its page. Vega's own scripts are written beside the site, so that
nothing is fetched; text and lines have the colour of the page's text (`currentColor`), in the dark as in the light.
"""

import json
from pathlib import Path

import altair as alt
import pandas as pd
import seaborn as sns
import vl_convert

from unifylens.measures import mean_interval

FULL = Path(__file__).parents[1] / "figures" / "full"
FORCES = {
    (0, 1): "both forces weak",
    (1, 1): "objects tied",
    (0, 0.7): "words unshared",
    (1, 0.7): "both forces",
}
"""By object skew and share of shared subject words."""
SHOWN = {
    "transfer": "transfer",
    "transfer_corrected": "transfer, output prior taken off",
    "own": "transfer, own subject word shared",
    "fact_only": "fact-only score",
}
"""What the colour of the phase diagram may show, by column."""
OUTCOMES = ("up", "down", "nothing")
END = 0.65
"""Of the axis of effects, on both sides, with room for what was foretold."""
RIGHT, WRONG = "#56b4e9", "#a50026"
"""Of the palette for the colour-blind: as said beforehand, and not; a tick and a cross say the same."""
PAPER, INK = "white", "black"
MAKO = sns.color_palette("mako", 9).as_hex()


def phase_cells() -> pd.DataFrame:
    """Every cell of the phase diagram: a mean over seeds with its 95 % interval, for each thing that may be shown."""
    models = pd.read_csv(FULL / "phase_diagram.csv")
    rows = []
    for (skew, shared, parallel, bits, revealing), cell in models.groupby(
        ["skew", "shared", "parallel", "bits", "revealing"]
    ):
        place = {
            "forces": FORCES[skew, shared],
            "parallel": round(100 * parallel),
            "bits": bits,
            "revealing": 100 * revealing,
        }
        for column, name in SHOWN.items():
            values = cell[column]
            mean, low, high = mean_interval(values, (-1, 1) if column == "fact_only" else (0, 1))
            found = {"value": mean, "low": low, "high": high, "lowest": values.min(), "highest": values.max()}
            rows.append({**place, "shown": name, **found, "seeds": len(cell)})
    return pd.DataFrame(rows)


def phase_diagram() -> alt.LayerChart:
    """Heatmap of transfer: the share of parallel facts by the two forces."""
    cells = phase_cells()
    cells["interval"] = [interval(row) for row in cells.itertuples()]
    cells["bounds"] = [f"[{row.low:z.2f}, {row.high:z.2f}]" for row in cells.itertuples()]
    cells["range"] = [f"{row.lowest:.2f} to {row.highest:.2f}" for row in cells.itertuples()]
    names = list(SHOWN.values())
    shown = alt.param(name="shown", value=names[0], bind=alt.binding_select(options=names, name="Colour shows"))
    level = alt.param(name="level", value=0.5, bind=alt.binding_range(min=0.2, max=0.9, step=0.05, name="Level"))
    place = (
        alt.Chart(cells)
        .transform_filter("datum.shown == shown")
        .encode(
            x=alt.X("parallel:O", title="facts told in both languages (% of all facts)", axis=alt.Axis(labelAngle=0)),
            y=alt.Y(
                "forces:N", sort=list(FORCES.values()), title=None, axis=alt.Axis(labelExpr="split(datum.label, ' ')")
            ),
        )
    )
    colour = alt.Color(
        "value:Q",
        scale=alt.Scale(domain=[0, 1], range=MAKO, clamp=True),
        legend=alt.Legend(title="mean over seeds (of transfer: a share of facts)", orient="bottom", gradientLength=180),
    )
    tooltip = [
        alt.Tooltip("shown:N", title="shown"),
        alt.Tooltip("interval:N", title="mean [95 % interval]"),
        alt.Tooltip("range:N", title="lowest to highest seed"),
        alt.Tooltip("seeds:Q", title="seeds"),
        alt.Tooltip("parallel:Q", title="facts in both languages, %"),
        alt.Tooltip("bits:Q", title="I(object; language | relation), bits", format=".2f"),
        alt.Tooltip("revealing:Q", title="prompt tokens that reveal the language, %", format=".0f"),
    ]
    on_cell = alt.when("datum.value > 0.6").then(alt.value(INK)).otherwise(alt.value(PAPER))
    sign = "datum.lowest >= level ? '●' : datum.highest >= level ? '✕' : ''"
    boxes = place.mark_rect(stroke="currentColor", strokeOpacity=0.4).encode(color=colour, tooltip=tooltip)
    text = place.encode(color=on_cell, tooltip=tooltip)
    layers = [
        boxes,
        text.mark_text(fontSize=15, dy=-2).encode(text=alt.Text("value:Q", format=".2f")),
        text.mark_text(fontSize=10, dy=15, opacity=alt.expr("width < 380 ? 0 : 1")).encode(text="bounds:N"),
        text.transform_calculate(sign=sign).mark_text(fontSize=11, dy=-20).encode(text="sign:N"),
    ]
    said = "Heatmap: transfer rises with the share of facts told in both languages, and later where a force acts."
    return _of_page(alt.layer(*layers), said, height=300).add_params(shown, level)


def effects(name: str) -> pd.DataFrame:
    """What was tried, in alphabetical order so that the order tells nothing: name, kind, value, low, high, outcome.

    An outcome is `nothing` where the 95 % interval holds zero. `name` is that of a table in figures/full.
    """
    table = pd.read_csv(FULL / f"{name}.csv")
    table = table[table["panel"] == table["panel"].iloc[0]]
    table = table.rename(columns={"intervention": "name", "method": "name", "on": "kind"})
    table["outcome"] = ["up" if row.low > 0 else "down" if row.high < 0 else "nothing" for row in table.itertuples()]
    return table[["name", "kind", "value", "low", "high", "outcome"]].sort_values("name", ignore_index=True)


def forest(name: str) -> alt.LayerChart:
    """Effects with their intervals, none of which is drawn before its name is in the parameter `revealed`.

    The parameter `predicted` has what the reader foretold by name, one of `OUTCOMES`.
    """
    table = effects(name)
    table["interval"] = [interval(row) for row in table.itertuples()]
    params = [alt.param(name="revealed", value=[]), alt.param(name="predicted", value={})]
    place = alt.Chart(table).encode(
        y=alt.Y(
            "name:N",
            title=None,
            scale=alt.Scale(domain=list(table["name"])),
            axis=alt.Axis(labelExpr="split(datum.label, ', ')", labelLimit=190, grid=True),
        ),
        tooltip=[
            alt.Tooltip("name:N", title="what was tried"),
            alt.Tooltip("interval:N", title="change [95 % interval]"),
        ],
    )
    found = place.transform_filter("indexof(revealed, datum.name) >= 0")
    x = alt.X("value:Q", title="change of transfer (share of facts)", scale=alt.Scale(domain=[-END, END], nice=False))
    told = place.transform_calculate(said="predicted[datum.name]").transform_filter("isValid(datum.said)")
    told = told.transform_calculate(
        known="indexof(revealed, datum.name) >= 0",
        right="datum.said == datum.outcome",
        sign="({up: '↑', down: '↓', nothing: '0'})[datum.said] + (!datum.known ? '' : datum.right ? ' ✓' : ' ✗')",
    )
    shade = (
        alt.when("datum.known && datum.right")
        .then(alt.value(RIGHT))
        .when("datum.known")
        .then(alt.value(WRONG))
        .otherwise(alt.value("currentColor"))
    )
    layers = [
        alt.Chart(pd.DataFrame({"zero": [0]})).mark_rule(color="currentColor", opacity=0.6).encode(x="zero:Q"),
        found.mark_rule(color="currentColor", strokeWidth=2).encode(x="low:Q", x2="high:Q"),
        found.encode(x=x).mark_point(color="currentColor", filled=True, size=60, opacity=1),
        told.mark_text(align="right", fontSize=13, fontWeight="bold").encode(
            x=alt.datum(END), text="sign:N", color=shade
        ),
    ]
    said = "Forest plot: the change of transfer with its 95 % interval, a line for each thing tried, once revealed."
    return _of_page(alt.layer(*layers), said, height=28 * len(table)).add_params(*params)


def interval(row) -> str:
    """A table's row in words."""
    return f"{row.value:z.2f} [{row.low:z.2f}, {row.high:z.2f}]"


def _of_page(chart: alt.LayerChart, said: str, height) -> alt.LayerChart:
    """As wide as the page, without a ground of its own; `said` is what a screen reader says of it."""
    axes = {"labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal", "gridOpacity": 0.15}
    colours = dict.fromkeys(("labelColor", "titleColor", "domainColor", "tickColor", "gridColor"), "currentColor")
    legend = {"labelColor": "currentColor", "titleColor": "currentColor", "titleFontWeight": "normal"}
    legend |= {"labelFontSize": 12, "titleFontSize": 12, "titleLimit": 300}
    fit = alt.AutoSizeParams(type="fit-x", contains="padding")
    chart = chart.properties(width="container", height=height, autosize=fit, description=said, background="transparent")
    return chart.configure_axis(**axes, **colours).configure_legend(**legend).configure_view(stroke=None)


def figure(chart: alt.LayerChart, name: str) -> str:
    """A chart as HTML that `see.js` draws; `name` is how a form finds it."""
    spec = chart.to_dict()
    del spec["$schema"]  # an address, which nobody needs to look up
    text = json.dumps(spec, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    return raw(
        f'<div class="see-chart" id="{name}"><div class="see-plot"></div>\n'
        f'<script type="application/json">{text}</script></div>\n'
        "<noscript><p>Without JavaScript there is no chart here; the table below has all of its numbers.</p></noscript>"
    )


def raw(html: str) -> str:
    """HTML as it stands, within a page of Markdown."""
    return f"```{{raw}} html\n{html}\n```"


def scripts(*names: str) -> str:
    """Scripts of the folder of static files, where a page of this section ends."""
    return raw("\n".join(f'<script src="../_static/{name}"></script>' for name in names))


def write_scripts(app, exception: Exception | None) -> None:
    """Put what draws the charts, Vega with all that it needs, into the built site."""
    if exception is None and app.builder.format == "html":
        bundle = f"(() => {{{vl_convert.javascript_bundle()}}})();"  # its short names would meet those of other scripts
        (Path(app.outdir) / "_static" / "vega.js").write_text(bundle, encoding="utf-8")
