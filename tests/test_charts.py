"""The pages of "See it": charts show what tables say, nothing is asked of another host, every claim has a card."""

import json
import re
from html.parser import HTMLParser
from types import SimpleNamespace

import altair as alt
import charts
import pandas as pd
import predict
import pytest
import sources
import wall

from unifylens.evidence import plots
from unifylens.evidence.ledger import CLAIMS
from unifylens.evidence.records import shipped_records
from unifylens.measures import mean_interval

CHARTS = {
    "phase_diagram": charts.phase_diagram,
    "forest_of_interventions": lambda: charts.forest("forest_of_interventions"),
    "ways_to_align": lambda: charts.forest("ways_to_align"),
}
TABLES = [name for name in CHARTS if name != "phase_diagram"]


@pytest.mark.parametrize("name", CHARTS)
def test_specifications_are_vega_lite_for_any_width_and_theme(name):
    spec = CHARTS[name]().to_dict(validate=True)
    alt.Chart.from_dict(spec)
    assert spec["width"] == "container" and len(spec["description"]) > 50
    assert spec["config"]["axis"]["labelColor"] == "currentColor" and spec["background"] == "transparent"


@pytest.mark.parametrize("name", CHARTS)
def test_what_stands_in_a_page_names_no_other_host(name):
    html = charts.figure(CHARTS[name](), name)
    assert "http" not in html and "//" not in html
    spec = json.loads(re.search(r'<script type="application/json">(.*?)</script>', html)[1])
    assert spec["params"] and "$schema" not in spec


def shown(chart) -> pd.DataFrame:
    """The chart's largest table of data, as it is drawn."""
    return pd.DataFrame(max(chart.to_dict()["datasets"].values(), key=len))


def test_cells_are_the_means_of_their_seeds():
    models, cells = pd.read_csv(charts.FULL / "phase_diagram.csv"), shown(charts.phase_diagram())
    assert len(cells) == len(charts.SHOWN) * len(models) / models["seed"].nunique()
    for column, name in charts.SHOWN.items():
        values = models[(models["skew"] == 1) & (models["shared"] == 1) & (models["parallel"] == 0.2)][column]
        (cell,) = cells[cells["shown"] == name].query("forces == 'objects tied' and parallel == 20").itertuples()
        assert (cell.value, cell.low, cell.high) == pytest.approx(mean_interval(values))
        assert (cell.lowest, cell.highest, cell.seeds) == (values.min(), values.max(), len(values))


@pytest.mark.parametrize("name", TABLES)
def test_effects_are_those_of_the_table(name):
    table = pd.read_csv(charts.FULL / f"{name}.csv")
    table = table[table["panel"].isin(["transfer", "transfer gained"])].set_index(table.columns[1])
    drawn = shown(charts.forest(name)).set_index("name")
    assert list(drawn.index) == sorted(table.index)
    numbers = ["value", "low", "high"]
    pd.testing.assert_frame_equal(drawn[numbers], table.loc[drawn.index, numbers], check_names=False)
    for row in drawn.itertuples():
        assert row.outcome == ("nothing" if row.low <= 0 <= row.high else "up" if row.value > 0 else "down")


def test_no_effect_lies_outside_the_axis():
    for name in TABLES:
        assert charts.effects(name)[["low", "high"]].abs().max().max() < charts.END


class Tags(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize("name", TABLES)
def test_every_effect_can_be_foretold_and_none_is_told_before(name):
    table, page = charts.effects(name), Tags(predict.form(name))
    assert set(predict.WHAT[name]) == set(table["name"])
    rows = [attrs["data-outcome"] for tag, attrs in page.tags if tag == "fieldset"]
    assert rows == list(table["outcome"])
    choices = {(attrs["name"], attrs["value"]) for tag, attrs in page.tags if attrs.get("type") == "radio"}
    assert choices == {(row, choice) for row in table["name"] for choice in charts.OUTCOMES}
    assert not re.search(r"\d\.\d\d", page.text)
    assert charts.interval(table.iloc[0]) in predict.table(name)


def test_the_projects_own_predictions_are_counted():
    assert predict.foretold().split("\n")[1] == (
        "10 of the 12 came true. Ten seeds tell no effect of these: language token added, objects tied to languages."
    )


def test_the_table_of_the_phase_diagram_has_every_cell():
    lines = predict.phase_table().split("\n")
    assert len(lines) == 2 + 2 + 16
    cells = charts.phase_cells()
    (cell,) = cells.query("forces == 'both forces' and parallel == 80 and shown == 'transfer'").itertuples()
    assert lines[-2].startswith(f"| both forces | 80 % | {charts.interval(cell)} |")


def test_every_claim_has_a_card_with_its_record():
    html = wall.wall()
    cards = re.findall(r'<li class="see-card" data-verdict="(.*?)"><h2 id="card-(.*?)">(.*?)</li>', html)
    records = shipped_records()
    assert [(verdict, name) for verdict, name, _ in cards] == [(r.verdict, r.id.lower()) for r in records]
    assert {r.id for r in records} == set(CLAIMS)
    for record, (_, _, card) in zip(records, cards, strict=True):
        text = Tags(card).text
        for part in (record.statement, record.interval, record.threshold, f"{len(record.attempts)} attempt"):
            assert part in text, record.id
        assert f'href="../notebooks/{record.notebook}.html"' in card
        if record.how_far:
            assert f"of {record.how_far['dishes']}, a share of {record.how_far['share']:.2f}" in text
    assert "http" not in html


def test_filters_wait_for_their_script():
    """Without JavaScript all cards are there, and no form that does nothing."""
    tags = Tags(wall.wall()).tags + Tags(predict.form("ways_to_align")).tags
    assert all("hidden" in attrs for tag, attrs in tags if tag == "form")
    assert not any("hidden" in attrs for tag, attrs in tags if tag in ("li", "ul"))


def test_colours_have_one_meaning():
    assert not {charts.RIGHT, charts.WRONG} & set(plots.COLOURS.values())


def test_what_draws_charts_is_written_beside_the_site(tmp_path):
    (tmp_path / "_static").mkdir()
    app = SimpleNamespace(builder=SimpleNamespace(format="html"), outdir=tmp_path)
    charts.write_scripts(app, ValueError())
    assert not (tmp_path / "_static" / "vega.js").exists()
    charts.write_scripts(app, None)
    script = (tmp_path / "_static" / "vega.js").read_text(encoding="utf-8")
    assert "window.vegaEmbed" in script and 100_000 < len(script) < 3_000_000


def test_our_script_fetches_nothing():
    script = (sources.DOCS / "style" / "see.js").read_text(encoding="utf-8")
    assert not re.search(r"https?:|fetch\(|XMLHttpRequest|import\(|storage", script, flags=re.I)
