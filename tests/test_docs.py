"""The README and the site's pages, without building it: code runs, links lead somewhere, numbers are the record's."""

import ast
import builtins
import doctest
import re
import shutil
from functools import partial
from operator import attrgetter
from pathlib import Path

import docstrings
import matplotlib.pyplot as plt
import pytest
import reference
import sources
import torch
from conftest import tiny
from safetensors.torch import load_file, save_file
from test_pretrained import folder, tokenizer  # noqa: F401 - a model as others train them, of random weights

import unifylens as ul
from unifylens.evidence.records import shipped_records

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"

WRITTEN = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
NOT_RUN = "# not run here"


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.M | re.S)


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


PAGES_WITH_CODE = [page for page in WRITTEN if blocks(page, "python")]


def test_all_code_is_found():
    assert {name(page) for page in PAGES_WITH_CODE} == {
        "README.md",
        "docs/start.md",
        *(f"docs/howto/{page}.md" for page in ("your_model", "your_facts", "your_corpus", "cluster", "gpu")),
    }
    for page in WRITTEN:
        text = page.read_text(encoding="utf-8")
        assert text.count("```py") == len(blocks(page, "python")) + len(blocks(page, "pycon"))


@pytest.fixture(scope="module")
def facts():
    """What the random model's tokenizer is trained on."""
    return ul.factsets.from_cldr(("en", "fr", "ru", "ar")).table


def as_series(folder, target):  # noqa: F811
    """Two checkpoints: the model, and the model a little further."""
    for step in (0, 500):
        shutil.copytree(folder, target / f"checkpoint-{step}")
    weights = load_file(folder / "model.safetensors")
    further = {name: 1.01 * w for name, w in weights.items()}
    save_file(further, target / "checkpoint-500" / "model.safetensors", {"format": "pt"})


@pytest.fixture
def small_settings(monkeypatch, folder, tmp_path):  # noqa: F811
    """Settings that a page leaves at their defaults are small, and weights of 330 MB random ones."""
    experiment, load, small = ul.Experiment, ul.pretrained.load, tiny(**{"world.n_subjects": 96, "model.n_layers": 3})

    def of_small_size(**settings):
        world = {} if "real" in settings else {"world": small.world.model_copy(update={"n_relations": 4})}
        return experiment(**{"model": small.model, "train": small.train} | world | settings)

    as_series(folder, tmp_path / "checkpoints")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ul, "Experiment", of_small_size)
    monkeypatch.setattr(ul.pretrained, "load", lambda name: load(folder))
    monkeypatch.setattr(ul.factsets, "from_cldr", partial(ul.factsets.from_cldr, per_relation=16))


@pytest.mark.parametrize("page", PAGES_WITH_CODE, ids=name)
@pytest.mark.filterwarnings("ignore:.*dashboard.*")
def test_code_runs_from_top_to_bottom(page, small_settings):
    namespace: dict = {}
    for block in blocks(page, "python"):
        if not block.startswith(NOT_RUN):
            exec(block, namespace)
    plt.close("all")


def names(block: str) -> tuple[set[str], set[str]]:
    """Names that a block takes from elsewhere, and those that it makes."""
    nodes = list(ast.walk(ast.parse(block)))
    used = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    made = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    made |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    imports = (node for node in nodes if isinstance(node, (ast.Import, ast.ImportFrom)))
    made |= {alias.asname or alias.name.split(".")[0] for node in imports for alias in node.names}
    return used - made - set(vars(builtins)), made


def test_code_that_is_not_run_names_what_is_there():
    """For a cluster: every name comes from the blocks before or from itself, and unifylens has what it is asked for."""
    (page,) = (page for page in PAGES_WITH_CODE if any(b.startswith(NOT_RUN) for b in blocks(page, "python")))
    *before, block = blocks(page, "python")
    assert names(block)[0] <= set().union(*(names(other)[1] for other in before))
    assert names("joblib.f(x); y = [z for z in x]")[0] == {"joblib", "x"}
    assert {attrgetter(path)(ul).__name__ for path in re.findall(r"\bul\.([\w.]+)\(", block)} == {"sweep"}


def test_errors_say_what_the_page_shows(trained):
    given = {"ul": ul, "torch": torch, "exp": tiny(), "run": trained}
    (page,) = (page for page in WRITTEN if blocks(page, "pycon"))
    report: list[str] = []
    for block in blocks(page, "pycon"):
        example = doctest.DocTestParser().get_doctest(block, given, name(page), None, 0)
        doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example, out=report.append, clear_globs=False)
        given |= example.globs
    assert not report, "".join(report)


@pytest.mark.parametrize("page", WRITTEN, ids=name)
def test_what_a_page_names_is_there(page):
    text = re.sub(r"^```pycon\n.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for path in sorted(set(re.findall(r"\bul\.([a-zA-Z_]\w*(?:\.\w+)*)", text))):
        assert attrgetter(path)(ul) is not None, path


@pytest.fixture(scope="module")
def staged(tmp_path_factory):
    """All that Sphinx is to read."""
    pages = tmp_path_factory.mktemp("site") / "pages"
    sources.stage(pages)
    return pages


def test_every_page_is_in_a_table_of_contents(staged):
    listed = {"index"}
    for page in staged.rglob("*.md"):
        for tree in re.findall(r"^```\{toctree\}\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.M | re.S):
            here = page.parent.relative_to(staged)
            listed |= {str(here / line) for line in tree.split("\n") if line and not line.startswith(":")}
    pages = [*staged.rglob("*.md"), *staged.rglob("*.ipynb")]
    there = {str(page.relative_to(staged).with_suffix("")) for page in pages}
    assert listed == there
    assert {f"notebooks/{path.stem}" for path in (ROOT / "notebooks").glob("*.ipynb")} <= there


def test_links_between_pages_lead_somewhere(staged):
    for page in staged.rglob("*.md"):
        text = re.sub(r"^```.*?^```|`[^`\n]+`", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
        for _, link, _ in sources.LINK.findall(text):
            assert (page.parent / link).exists(), f"{page.relative_to(staged)} links to {link}"
        assert not sources.MADE.search(text)


def test_the_readme_is_short_and_its_links_lead_somewhere():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert sum(bool(re.search(r"\w", word)) for word in text.split()) < 900
    for _, link, _ in sources.LINK.findall(text):
        assert (ROOT / link).exists(), link


def test_every_public_name_has_an_entry():
    described = {id(thing) for thing in reference.documented().values()}
    for room in (ul, *(attrgetter(room)(ul) for room in reference.ROOMS)):
        for public, thing in reference.public(room).items():
            if callable(thing) and str(getattr(thing, "__module__", "")).startswith("unifylens"):
                assert id(thing) in described, f"{room.__name__}.{public}"
    text = "".join(reference.pages().values())
    for path in ("unifylens.train", "unifylens.measures.fact_only"):
        assert re.search(rf":: {path}$", text, flags=re.M)


def test_docstrings_become_restructuredtext():
    here = [ul.measures]
    assert docstrings.as_rest("As `fact_only`, not `x_i`.", here) == (
        "As :py:obj:`fact_only <unifylens.measures.fact_only>`, not ``x_i``."
    )
    assert docstrings.as_rest("a *random* one of n * m, some_ and a|b") == r"a *random* one of n \* m, some\_ and a\|b"
    assert docstrings.as_rest("So:\n\n>>> f(`x`) | 2\n*3*\n\nand `y`") == "So:\n\n>>> f(`x`) | 2\n*3*\n\nand ``y``"
    assert docstrings.laid_out("Columns:\n- `a`: one\n  more\n- `b`") == "Columns:\n\n- `a`: one\n  more\n- `b`"
    setting = "\nSettings:\n\nx = 1 (a or\n        b)\n    What."
    assert docstrings.laid_out(setting) == "\nSettings:\n\nx = 1 (a or b)\n    What."


def test_notebooks_have_a_question_and_minutes():
    assert list(sources.QUESTIONS) == sources.notebooks() and set(sources.MINUTES) == set(sources.QUESTIONS)


def test_numbers_of_claims_are_those_recorded():
    found = {record.id: record.interval for record in shipped_records()}
    quoted = []
    for page in WRITTEN:
        text = " ".join(page.read_text(encoding="utf-8").split())
        quoted += re.findall(r"(-?\d\.\d\d \[-?\d\.\d\d, -?\d\.\d\d\])(?: over [\w ]+)? \(([CB]\d[\w-]*)[,)]", text)
    assert {claim for _, claim in quoted} >= {"C1", "C10", "B2", "B6", "C11"}
    for interval, claim in quoted:
        assert interval == found[claim], claim
