"""A user's script: mypy finds what is wrong in it before it runs, and nothing in what is right."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import unifylens as ul

CONFIG = """
[mypy]
follow_imports = silent
# the largest packages, which these scripts do not touch themselves
[mypy-torch.*,transformer_lens.*,transformers.*,pandas.*,numpy.*,matplotlib.*,seaborn.*,scipy.*,sklearn.*,joblib.*]
follow_imports = skip
"""
RIGHT = """
import unifylens as ul
from unifylens import hooks, interventions, patching, subspaces

exp = ul.Experiment(corpus=ul.CorpusConfig(parallel=0.3), model=ul.ModelConfig(d_model=32), seed=0)
other = exp.replace(**{"corpus.parallel": 0.1})
turned = ul.Experiment(interventions=(ul.Intervention(name="balance_objects", share=1.0),))
run = ul.train(exp)
print(run.corpus.text(language=1, fact=0), other.key(2), turned.seed, ul.__version__)
table = ul.transfer(run.model, run.corpus)
print(ul.transfer(run), run.transfer(), run.unification("subject"), run.states(run.corpus.parallel))
states = ul.states(run.model, run.corpus, run.corpus.block_facts())
runs = ul.sweep(exp, over={"corpus.parallel": [0, 0.1, 0.3], "seed": range(4)})
print(runs[0].final, runs[1:3].final, runs[0].corpus.text("b"), runs.measure(ul.transfer), ul.store.clear(runs[:2]))
ul.plots.curve(runs.final, "corpus.parallel", "transfer")
balanced = interventions.balance_objects(run.corpus, share=0.5)
print(balanced.statistics().loc["facts", "value"], ul.unification(run.model, balanced))
prompts, metrics = run.corpus.prompts()[:4], {"right": patching.answered(run.corpus.answers[:4])}
patching.by_layer_and_position(run.model, prompts, prompts, metrics)
print(subspaces.span(states[0, 0]), hooks.steer)
"""
PLANTED = {
    "ul.CorpusConfig(paralel=0.3)": 'did you mean "parallel"',
    "ul.TrainConfig(steps='many')": 'expected "int"',
    "ul.ModelConfig(act_fn='swish')": "expected \"Literal['gelu'",
    "ul.Intervention(name='balance_object', share=1.0)": "balance_objects",
    "ul.Experiment().seeed": 'maybe "seed"',
    "ul.train([exp])": 'expected "Experiment"',
    "ul.transfer(run.experiment)": 'expected "Model | Trained"',
    "ul.states(run.model, run.corpus)": 'Missing positional argument "facts"',
    "ul.transfer(run.corpus, run.model)": 'expected "Corpus | None"',
    "ul.Sweep([run], [{}])['seed']": "No overload variant",
    "ul.Sweep([run], [{}])[0].select()": 'no attribute "select"',
    "ul.Sweep([run], [{}])[:1].transfer()": 'no attribute "transfer"',
    "run.histroy": 'maybe "history"',
    "run.corpus.text(language=None, fact=0)": 'expected "int | str"',
    "ul.sweep(exp, ovr={'seed': range(4)})": 'did you mean "over"',
    "ul.unify": 'no attribute "unify"',
    "ul.hooks.steeer": 'maybe "steer"',
}


@pytest.fixture(scope="module")
def complaints(tmp_path_factory):
    """What mypy says of both scripts, by file and line: run once, as most of its time goes into reading the library."""
    folder = tmp_path_factory.mktemp("script")
    (folder / "mypy.ini").write_text(CONFIG)
    (folder / "right.py").write_text(RIGHT)
    wrong = ["import unifylens as ul", "exp = ul.Experiment()", "run = ul.train(exp)", *PLANTED]
    (folder / "wrong.py").write_text("\n".join(wrong))
    command = [sys.executable, "-m", "mypy", "--config-file=mypy.ini", "--cache-dir=cache", "right.py", "wrong.py"]
    home = {"MYPYPATH": str(Path(ul.__file__).parents[1]), "PATH": ""}
    done = subprocess.run(command, cwd=folder, env=home, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout + done.stderr  # 0: nothing found, 2: mypy itself failed
    found: dict[tuple[str, str], str] = {}
    for file, line, text in re.findall(r"^(\S+\.py):(\d+): (.*)$", done.stdout, flags=re.M):
        where = (file, wrong[int(line) - 1] if file == "wrong.py" else line)
        found[where] = f"{found.get(where, '')}{text}\n"
    return found


def test_a_right_script_passes(complaints):
    assert not {where: text for where, text in complaints.items() if where[0] != "wrong.py"}


@pytest.mark.parametrize("line", PLANTED)
def test_a_planted_mistake_is_caught(complaints, line):
    assert PLANTED[line] in complaints.get(("wrong.py", line), "")


def test_what_is_right_in_the_wrong_script_passes(complaints):
    assert {line for file, line in complaints if file == "wrong.py"} == set(PLANTED)
