"""The README's Python runs, in order and in one namespace, on a smaller dish; and what the README names is there."""

import ast
import builtins
import re
import shutil
from functools import partial
from operator import attrgetter
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from conftest import tiny
from safetensors.torch import load_file, save_file
from test_pretrained import facts, folder, tokenizer  # noqa: F401 - a model as others train them, of random weights

import unifylens as ul

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, flags=re.M | re.S)
WITH_WEIGHTS = 'pretrained.load("gemma-3-270m")'
ANY_MODEL = "patching.by_head(model, target, source, metrics"
ON_A_CLUSTER = "from dask_jobqueue import SLURMCluster"
READERS_OWN = """
model, tokens = run.model, run.corpus.prompts()[:8]
target, source, french, german, dutch = run.corpus.prompts().unflatten(0, (5, -1))[:, :8]
answer, states = run.corpus.answers[:8], ul.states(model, run.corpus, run.corpus.block_facts(2, 2))[2]
"""
"""What readers have in front of the block for any model: a model and prompts, here those of the dish."""


def names(block: str) -> tuple[set[str], set[str]]:
    """Names that a block takes from elsewhere, and those that it makes."""
    nodes = list(ast.walk(ast.parse(block)))
    used = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    made = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    made |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    imports = (node for node in nodes if isinstance(node, (ast.Import, ast.ImportFrom)))
    made |= {alias.asname or alias.name.split(".")[0] for node in imports for alias in node.names}
    return used - made - set(vars(builtins)), made


def test_all_blocks_are_found():
    assert len(BLOCKS) == README.count("```python")
    for mark in (WITH_WEIGHTS, ANY_MODEL, ON_A_CLUSTER):
        assert sum(mark in block for block in BLOCKS) == 1, mark


def as_series(folder, target):  # noqa: F811
    """Two checkpoints: the model, and the model a little further."""
    for step in (0, 500):
        shutil.copytree(folder, target / f"checkpoint-{step}")
    weights = load_file(folder / "model.safetensors")
    save_file(
        {name: 1.01 * w for name, w in weights.items()},
        target / "checkpoint-500" / "model.safetensors",
        {"format": "pt"},
    )


def test_blocks_run_in_order(monkeypatch, folder, tmp_path):  # noqa: F811
    """Settings that the README leaves at their defaults are small, and weights of 330 MB random ones."""
    experiment, load, small = ul.Experiment, ul.pretrained.load, tiny(**{"world.n_subjects": 96, "model.n_layers": 3})

    def of_small_size(**settings):
        world = {} if "real" in settings else {"world": small.world.model_copy(update={"n_relations": 4})}
        return experiment(**{"model": small.model, "train": small.train} | world | settings)

    as_series(folder, tmp_path / "checkpoints")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ul, "Experiment", of_small_size)
    monkeypatch.setattr(ul.pretrained, "load", lambda name: load(folder))
    monkeypatch.setattr(ul.factsets, "from_cldr", partial(ul.factsets.from_cldr, per_relation=6))
    namespace: dict = {}
    for block in BLOCKS:
        if ANY_MODEL in block:
            exec(READERS_OWN, namespace)
        if ON_A_CLUSTER not in block:
            exec(block, namespace)
    plt.close("all")
    assert len(namespace["runs"]) == 12 and namespace["real"].romanised
    assert len(namespace["logits"]) == 8 and namespace["series"].steps == [0, 500]


def test_the_block_for_a_cluster_names_what_is_there():
    """It is not run: every name comes from the blocks before or from itself, and unifylens has what it is asked for."""
    (block,) = (block for block in BLOCKS if ON_A_CLUSTER in block)
    known = set().union(*(names(other)[1] for other in BLOCKS[: BLOCKS.index(block)]))
    assert names(block)[0] <= known
    assert names("joblib.f(x); y = [z for z in x]")[0] == {"joblib", "x"}
    assert {attrgetter(path)(ul).__name__ for path in re.findall(r"\bul\.([\w.]+)\(", block)} == {"sweep"}


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\bul\.([a-zA-Z_]\w*(?:\.\w+)*)", README))))
def test_what_the_readme_names_is_there(path):
    assert attrgetter(path)(ul) is not None


def test_minutes_are_those_that_the_time_left_is_told_by():
    from unifylens.reproduce import SECONDS

    minutes = dict(re.findall(r"^\| \[`(\w+)`\].*\| ([\d.]+) \|$", README, re.MULTILINE))
    assert {name: f"{seconds / 60:.1f}" for name, seconds in SECONDS.items()}.items() <= minutes.items()
