"""What prints a card: a few lines that say what differs, in a notebook a table that holds no code of the user's."""

import shutil
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from conftest import quietly, tiny

import unifylens as ul
from unifylens import cards


@pytest.fixture
def runs():
    return ul.sweep(tiny(**{"train.steps": 10}), over={"corpus.parallel": [0, 0.5], "seed": range(3)}, progress=False)


def test_an_experiment_says_what_differs_from_the_defaults():
    assert repr(ul.Experiment()) == "Experiment()"
    experiment = ul.Experiment(corpus=ul.CorpusConfig(parallel=0.1), seed=3)
    assert repr(experiment) == str(experiment) == "Experiment(corpus.parallel=0.1, seed=3)"
    assert experiment.differences() == {"corpus.parallel": 0.1, "seed": 3}
    assert ul.Experiment().replace(**experiment.differences()) == experiment
    assert repr(ul.Intervention(name="balance_objects", share=0.5)) == "Intervention(name='balance_objects', share=0.5)"


def test_any_experiment_can_be_made_again_from_what_it_says():
    for change in ({"model.d_model": 8}, {"interventions": (ul.Intervention(name="mark_language"),)}):
        experiment = tiny(**change)
        assert ul.Experiment().replace(**experiment.differences()) == experiment


def test_printing_loads_no_torch():
    script = (
        "import sys, unifylens as ul; corpus = ul.Corpus.build(ul.Experiment()); "
        "print(ul.Experiment(seed=1), corpus, corpus.world, corpus._repr_html_()); sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("Experiment(seed=1) Corpus\n"), done.stderr


def test_a_run_says_how_it_ended_and_where_it_lies(runs):
    run = runs[1]
    lines = repr(run).splitlines()
    assert lines[0].startswith(f"Run {run.folder.name} (recall {run.final['recall']:.2f}, transfer ")
    text = "\n".join(lines)
    assert (
        "seed=1" in text and str(run.folder) in text and "after steps 1, 3, 10" in text and "corpus.parallel=0" in text
    )
    assert "model" not in vars(run) and "corpus" not in vars(run), "printing must load neither"
    shutil.rmtree(run.folder)
    assert "its folder is gone" in repr(run.__class__(run.experiment, run.folder))


def test_a_sweep_says_its_dials_and_means(runs):
    lines = dict(line.split(maxsplit=1) for line in repr(runs).splitlines() if not line.startswith("  mean"))
    assert lines["Sweep"] == "of 6 runs" and lines["corpus.parallel"] == "0, 0.5" and lines["seed"] == "0 to 2"
    assert f"mean recall      {runs.final['recall'].mean():.2f}" in repr(runs) and "diverged" not in repr(runs)
    assert repr(runs[:1]).startswith("Sweep of 1 run\n") and repr(runs[:0]) == "Sweep of 0 runs"


def test_a_corpus_and_a_world_say_what_they_hold():
    corpus = ul.Corpus.build(tiny())
    text = repr(corpus)
    for part in ("a, b", "72: 24 subjects, 3 relations, 12 objects", "36 facts (50.0%)", corpus.text(0, 0)):
        assert part in text
    assert f"{corpus.d_vocab} tokens" in text and len(text.splitlines()) == 6
    assert repr(corpus.world).split() == ["World", "facts", "72", "subjects", "24", "relations", "3", "objects", "12"]


class Reader(HTMLParser):
    """Tags that are open, the text, and the styles."""

    def __init__(self, html):
        super().__init__()
        self.open, self.text, self.styles = [], [], ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.styles += dict(attrs).get("style", "")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_tables_hold_what_the_lines_hold_without_colours(runs):
    for shown in (runs, runs[0], runs[0].corpus, runs[0].corpus.world):
        table = Reader(shown._repr_html_())
        title, lines = shown._card()
        assert not table.open and table.text == [title, *(text for line in lines.items() for text in line)]
        assert "color" not in table.styles and "background" not in table.styles
    table = Reader(tiny(seed=3)._repr_html_())
    assert not table.open and ["seed", "3"] == table.text[-2:]
    assert Reader(ul.Experiment()._repr_html_()).text == ["Experiment", "settings", "as by default"]


def test_text_is_escaped():
    html = cards.as_html("<b>&", {"<i>": "<script>alert(1)</script>"})
    assert "<script" not in html and "<i>" not in html and "<b>" not in html
    assert Reader(html).text == ["<b>&", "<i>", "<script>alert(1)</script>"]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([0, 0.1, 0.1 + 0.2, 0], "0, 0.1, 0.3"),
        (range(20), "0 to 19"),
        ([3, 1, 2], "3, 1, 2"),
        ([1, 2], "1, 2"),
        ([x / 2 for x in range(12)], "0, 0.5, 1, 1.5, 2, 2.5, ..., 5.5 (12 values)"),
        (["early", "late"], "early, late"),
        ([("topic",), ["plain"]], "('topic',), ['plain']"),
    ],
)
def test_several_values_are_told_in_short(values, text):
    assert cards.several(values) == text


def test_a_diverged_run_is_told_in_its_sweep():
    run = quietly(tiny())[0]
    run.diverged_at = 7
    assert "diverged at step 7)" in repr(run)
    assert repr(ul.Sweep([run], [{}])).splitlines()[-1].split() == ["diverged", "1", "of", "1"]
