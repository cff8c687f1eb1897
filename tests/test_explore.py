"""Views of runs: their data, and their pages in a browser, which show what torch computes."""

import base64
import json
import re
import shutil

import numpy as np
import pytest
import torch
from conftest import quietly, tiny

import unifylens as ul
from unifylens.evidence import exploring
from unifylens.evidence.pages import View, module

CHROMIUM = shutil.which("chromium")
LIMIT = 1 / 127.5  # of a cosine in a byte, and a little


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs that differ in what is told in both languages."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNIFYLENS_HOME", str(tmp_path_factory.mktemp("explored")))
        both = quietly(*(tiny(**{"corpus.parallel": share, "train.steps": 120}) for share in (0.5, 0.0)))
        return dict(zip(("unified", "separate"), both, strict=True))


@pytest.fixture(scope="module")
def view(runs):
    return exploring.view(runs)


def frame(view, run, step, layer):
    """Bytes of a run's frame: cosines above the diagonal, places."""
    rows, n_layers = len(view.about["prompts"]), len(view.about["layers"])
    pairs = rows * (rows - 1) // 2
    table = np.frombuffer(view.data, np.uint8).reshape(-1, n_layers, pairs + 2 * rows)
    before = sum(len(each["steps"]) for each in view.about["runs"][:run])
    one = table[before + step, layer]
    return one[:pairs], one[pairs:].reshape(rows, 2)


# --- data ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["unified", "separate"])
def test_cosines_are_those_of_the_states(runs, view, which):
    run, number = runs[which], list(runs).index(which)
    facts, upper = view.about["facts"], np.triu_indices(len(view.about["prompts"]), 1)
    for at, step in enumerate(run.steps):
        states = ul.states(run.checkpoint(step), run.corpus, facts)
        for index, layer in enumerate(view.about["layers"]):
            due = ul.measures.similarity_matrix(states[layer].flatten(0, 1)).numpy()[upper]
            cosines, _ = frame(view, number, at, index)
            assert np.abs(cosines / 127.5 - 1 - due).max() < LIMIT


def test_a_frame_of_sixty_facts_is_small(runs):
    most = exploring.view(runs["unified"], facts=range(60), layers=[1])
    assert len(most.data) / len(runs["unified"].steps) == 119 * 60 + 240  # 7.4 kB for a layer


def test_facts_are_those_of_checkerboards(runs, view):
    corpus, facts = runs["unified"].corpus, np.array(view.about["facts"])
    assert not corpus.parallel[facts].any()
    relation, due = corpus.world.relation[facts], corpus.world.object[facts]
    assert (np.lexsort((due, relation)) == np.arange(len(facts))).all()
    few = np.bincount(relation).min()
    assert set(corpus.block_facts(3, few)) <= set(facts)


def test_answers_are_the_models(runs, view):
    for run, table in zip(runs.values(), view.about["runs"], strict=True):
        rows = torch.from_numpy(run.corpus.rows(view.about["facts"]))
        logits = run.model(run.corpus.prompts(rows.numpy()))[:, -1]
        said = [table["words"][number] for number in table["said"][-1]["word"]]
        assert said == run.corpus.tokenizer.decode(logits.argmax(-1).tolist())
        likely = logits.softmax(-1).amax(-1).detach().numpy()
        assert np.allclose(table["said"][-1]["probability"], likely, atol=6e-4)
        right = (logits.argmax(-1) == run.corpus.answers[rows]).tolist()
        assert [verdict == 0 for verdict in table["said"][-1]["verdict"]] == right


def test_what_is_told_and_from_when():
    later = ul.CorpusChange(step=20, corpus=ul.CorpusConfig(parallel=0.5))
    run = quietly(tiny(**{"corpus.parallel": 0.0, "changes": (later,)}))[0]
    facts = np.flatnonzero(run.corpus.parallel)[:2].tolist() + np.flatnonzero(~run.corpus.parallel)[:2].tolist()
    told = np.array(exploring.view(run, facts).about["runs"][0]["told"], dtype=object).reshape(2, 4)
    for column, fact in enumerate(facts):
        other = 20 if run.corpus.parallel[fact] else None
        assert told[run.corpus.home[fact], column] == 0 and told[1 - run.corpus.home[fact], column] == other


def test_places_stay_in_one_plane():
    units = torch.nn.functional.normalize(torch.randn(5, 8, 6, generator=torch.Generator().manual_seed(0)), dim=-1)
    moved = exploring.places(units).astype(int)[2] - exploring.places(units[[2, 0, 1, 3, 4]])[0]
    assert np.abs(moved).max() <= 1  # by rounding
    assert exploring.places(units[..., :1]).shape == (5, 8, 2)


def test_curves_are_the_history(runs, view):
    for run, table in zip(runs.values(), view.about["runs"], strict=True):
        assert table["history"]["step"] == run.history["step"].tolist()
        assert np.allclose(table["history"]["unification_2"], run.history["unification_2"], atol=1e-4)
    assert json.loads(json.dumps(view.about)) is not None and "NaN" not in json.dumps(view.about)


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"runs": {}}, ValueError, r"runs is empty; allowed: a run, or runs by name\."),
        ({"runs": 3}, TypeError, r"runs has a int as 'run'; allowed: a Run, or Runs by name\."),
        ({"facts": range(61)}, ValueError, r"facts names 61 facts; allowed: up to 60 of 2 languages\."),
        ({"facts": [72]}, ValueError, r"facts=72: the corpus has 72; allowed: 0 to 71"),
        ({"layers": [3]}, ValueError, r"layers is \[3\]; allowed: one or several from 0 \(embedding\) to 2\."),
        ({"layers": []}, ValueError, r"layers is \[\]; allowed"),
    ],
)
def test_what_cannot_be_shown_is_said(runs, arguments, error, said):
    with pytest.raises(error, match=said):
        exploring.view(**{"runs": runs["unified"], **arguments})


def test_runs_of_other_worlds_are_refused(runs):
    other = quietly(tiny(seed=1, **{"train.steps": 10}))[0]
    with pytest.raises(ValueError, match=r"runs 'other' tells other facts than 'one'; allowed: runs of one world"):
        exploring.view({"one": runs["unified"], "other": other})


# --- widgets and pages ---------------------------------------------------------------------------------------


def test_a_widget_and_its_page_have_the_same_script_and_data(runs, tmp_path):
    widget = ul.explore(runs)
    assert widget.chosen == {"step": 120, "layer": 1, "fact": widget.about["facts"][0]}
    page = widget.save_html(tmp_path / "explore.html").read_text(encoding="utf-8")
    assert widget._esm == module("explore") and widget._esm in page
    values = json.loads(re.search(r'id="values">(.*?)</script>', page)[1])
    assert base64.b64decode(values["data"]) == widget.data and values["chosen"] == widget.chosen
    assert values["about"] == json.loads(json.dumps(widget.about))


def test_a_page_names_no_address_and_no_other_module(view):
    named = set(re.findall(r"https?://[^\"'` )]+", view.html()))
    assert named == {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xhtml"}  # of elements, and never fetched
    assert not re.search(r"^\s*import\b|\bimport\(|\bfetch\(", module("explore"), flags=re.M)


def test_no_word_ends_the_script(view):
    page = View("explore", "<i>", {**view.about, "facts": ["</script><b>"]}, b"", {}).html()
    assert "</script><b>" not in page and "<title>&lt;i&gt;</title>" in page
