"""Notebooks that teach: a schematic first, words linked to the glossary, a dial, three exercises that can be solved."""

import ast
import re

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import nbformat
import pytest
import sources
from PIL import Image
from solutions import NOTEBOOKS, exercises, solved

import unifylens as ul

FIGURES = NOTEBOOKS.parent / "figures"
SAVED = re.compile(r'plots\.save_figure\(\w+, "(\w+)"')

TEACHING = sorted(path.stem for path in NOTEBOOKS.glob("[0-9]*.ipynb"))
"""Every notebook is written by the pattern of docs/contributing.md."""


def read(name):
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)


@pytest.mark.parametrize("name", TEACHING)
def test_a_notebook_has_what_teaches(name):
    cells = read(name).cells
    code = [cell.source for cell in cells if cell.cell_type == "code"]
    prose = [cell.source for cell in cells if cell.cell_type == "markdown"]
    assert 15 <= len(code) <= 40
    assert "schematics.draw(" in code[1], "the schematic stands before the first number"
    dials = [i for i, cell in enumerate(cells) if cell.cell_type == "markdown" and "## Turn this dial" in cell.source]
    assert len(dials) == 1 and cells[dials[0] + 1].cell_type == "code"
    assert len(exercises(read(name))) == 3
    assert "**Next.**" in prose[-1]
    assert any("docs/glossary.md#term-" in text for text in prose)


@pytest.mark.parametrize("name", TEACHING)
def test_figures_are_as_wide_as_a_column_and_have_captions(name):
    cells = read(name).cells
    saved = [
        (i, id) for i, cell in enumerate(cells) for id in SAVED.findall(cell.source if "code" in cell.cell_type else "")
    ]
    assert saved
    for i, id in saved:
        with Image.open(FIGURES / f"{id}.png") as image:
            assert image.width / 150 <= ul.plots.WIDTH + 0.4, f"{id} is {image.width / 150:.1f} inches wide"
        assert re.match(r"\*(Figure|Schematic)\.\*", cells[i + 1].source), f"no caption below {id}"


@pytest.mark.parametrize("name", TEACHING)
def test_solutions_are_code(name):
    for _, code in exercises(read(name)):
        assigned = [node for node in ast.walk(ast.parse(code)) if isinstance(node, (ast.Assign, ast.FunctionDef))]
        names = {n.id for node in assigned for n in getattr(node, "targets", []) if isinstance(n, ast.Name)}
        assert "answer" in names | {node.name for node in assigned if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("name", TEACHING)
def test_links_to_the_glossary_name_its_terms(name):
    text = "\n".join(cell.source for cell in read(name).cells if cell.cell_type == "markdown")
    anchors = re.findall(r"docs/glossary\.md#([\w-]+)", text)
    assert anchors and set(anchors) <= set(sources.terms())


def test_on_the_site_links_lead_to_terms():
    told = sources._with_terms('["a", "*[facts](../docs/glossary.md#term-fact)* and [b](c.md)"]')
    assert told == '["a", "*{term}`facts <fact>`* and [b](c.md)"]'
    assert sources._with_terms("[yours](../docs/howto/your_model.md)") == "[yours](../howto/your_model.md)"
    with pytest.raises(ValueError, match=r"links to glossary.md#term-fcat; allowed: term-ablation, "):
        sources._with_terms("[facts](../docs/glossary.md#term-fcat)")


def test_on_the_site_captions_describe_figures_to_those_who_do_not_see_them():
    cells = [
        nbformat.v4.new_code_cell("plt.show()"),
        nbformat.v4.new_markdown_cell("*Figure.* Lines *rise* to [the top](a.md),\nall.\n\nMore text."),
        nbformat.v4.new_code_cell("1"),
    ]
    told = nbformat.reads(sources._with_alt(nbformat.writes(nbformat.v4.new_notebook(cells=cells))), as_version=4)
    assert told.cells[0].metadata == {"mystnb": {"image": {"alt": "Lines rise to the top, all."}}}
    assert not told.cells[2].metadata


def test_an_exercise_without_a_solution_is_found():
    check = nbformat.v4.new_code_cell("answer = ...\nul.exercises.check(answer, bool, 'a hint')")
    empty = nbformat.v4.new_notebook(cells=[check, nbformat.v4.new_markdown_cell("none")])
    with pytest.raises(ValueError, match="cell 0: an exercise has one line"):
        exercises(empty)


def test_what_is_wrong_with_an_answer_is_said(capsys):
    for answer in (..., 3, 4, None):
        ul.exercises.check(answer, lambda value: value > 3, "count again")
    first, second, third, fourth = capsys.readouterr().out.splitlines()
    assert (first, second, third) == ("not answered yet", "not right yet: count again", "right")
    assert fourth.startswith("not right yet: TypeError: ") and fourth.endswith("(count again)")


@pytest.mark.filterwarnings("ignore:.*non-interactive.*")
def test_solutions_of_the_quickstart_are_right_in_the_smaller_dish(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("UNIFYLENS_REPORTED", "0")
    monkeypatch.setenv("UNIFYLENS_FIGURES", str(tmp_path))
    experiment = ul.Experiment
    changes = {**ul.designs.SMALL, "world.n_subjects": 120}
    monkeypatch.setattr(ul, "Experiment", lambda **settings: experiment(**settings).replace(**changes))
    namespace: dict = {}
    for cell in solved(read("00_quickstart")).cells:
        if cell.cell_type == "code":
            exec(cell.source, namespace)
    plt.close("all")
    assert re.findall("^right$", capsys.readouterr().out, flags=re.M) == ["right"] * 3
