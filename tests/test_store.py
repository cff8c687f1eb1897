"""Runs on disk: whole or not there; what is damaged is named and trained again."""

import json
import os
import re

import pandas as pd
import pytest
import torch
from conftest import quietly, tiny

import unifylens as ul
from unifylens.model import initial_parameters, shape_of, with_parameters
from unifylens.training import store

FILES = ("weights.safetensors", "history.parquet", "experiment.json", "manifest.json")


@pytest.fixture
def run():
    return ul.train(tiny(**{"train.steps": 10}), progress=False)


def parameters(run):
    return run.parameters(run.steps[-1])


def assert_trained_again(remembered, told):
    """Loading tells of the damage, by run, folder and file; training then gives what it gave before."""
    run, before, history = remembered
    with pytest.warns(UserWarning) as caught:
        assert store.load(run.experiment) is None
    (warning,) = caught
    text = str(warning.message)
    assert run.folder.name in text and str(run.folder.parent) in text and re.search(told, text), text
    assert store.load(run.experiment) is None, "reported once, then gone"
    again = ul.train(run.experiment, progress=False)
    assert all(torch.equal(p, before[name]) for name, p in parameters(again).items())
    pd.testing.assert_frame_equal(again.history, history)


@pytest.fixture
def remembered(run):
    """A run, and what it holds before it is damaged."""
    return run, parameters(run), run.history


def test_what_is_stored_is_what_is_read(empty_store):
    experiment = tiny()
    corpus = ul.Corpus.build(experiment)
    shape = shape_of(experiment.model, corpus.d_vocab, corpus.n_ctx)
    fresh = initial_parameters(shape, seed=9)
    states = {step: {name: p * step for name, p in fresh.items()} for step in (100, 5, 20)}
    history = pd.DataFrame({"step": [0, 100], "loss": [1.5, float("nan")], "recall": [0.0, 1 / 3]})
    store.save(experiment, history, states, diverged_at=17)
    loaded = store.load(experiment)
    assert loaded.diverged_at == 17 and store.save(tiny(seed=2), history, states).diverged_at is None
    assert loaded.folder == empty_store / "runs" / experiment.key(store.DATA_FORMAT)
    assert loaded.steps == [5, 20, 100] and loaded.experiment == experiment
    pd.testing.assert_frame_equal(loaded.history, history, check_exact=True)
    for step, state in states.items():
        found = loaded.parameters(step)
        assert set(found) == set(fresh)
        assert all(torch.equal(found[name], p) for name, p in state.items())
        logits = with_parameters(shape, state)(corpus.prompts())
        assert torch.equal(loaded.checkpoint(step)(corpus.prompts()), logits)
    assert torch.equal(loaded.model.W_E, states[100]["embed.W_E"])
    assert ul.Experiment.model_validate_json((loaded.folder / "experiment.json").read_text()) == experiment
    assert sorted(path.name for path in loaded.folder.iterdir()) == sorted(FILES)
    assert store.load(tiny(seed=1)) is None


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "missing"])
def test_damage_is_named_and_trained_again(remembered, name, damage):
    path = remembered[0].folder / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes({"flip": content, "cut": content[: len(content) // 3], "empty": b""}[damage])
    # a manifest in which one digit changed still reads; then the file that this digit is about does not fit
    told = "manifest.json|does not match its checksum" if name == "manifest.json" else name
    assert_trained_again(remembered, told)


@pytest.mark.parametrize("text", ["[]", "null", "{}", '{"sha256": null}', '{"sha256": []}', '{"sha256": {}}'])
def test_a_manifest_that_says_nothing_is_damage(remembered, text):
    (remembered[0].folder / "manifest.json").write_text(text)
    assert_trained_again(remembered, "manifest.json|does not match")


def test_any_flipped_bit_of_the_manifest_is_found_or_harmless(run):
    path = run.folder / "manifest.json"
    content = path.read_bytes()
    manifest = json.loads(content)
    for at in range(len(content)):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        problem = store._damage(run.folder)
        assert problem or json.loads(path.read_text()) == manifest


@pytest.mark.parametrize("target", ["os.replace", "write_text", "to_parquet"])
def test_an_interrupted_writing_leaves_nothing(monkeypatch, empty_store, target):
    experiment = tiny(**{"train.steps": 10})

    def fail(*args, **kwargs):
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        where = {"os.replace": (os, "replace"), "write_text": (store.Path, "write_text")}
        patch.setattr(*where.get(target, (pd.DataFrame, "to_parquet")), fail)
        with pytest.raises(OSError, match="no space left"):
            ul.train(experiment, progress=False)
    assert not [path for path in empty_store.rglob("*") if path.is_file()]
    assert store.load(experiment) is None
    assert ul.train(experiment, progress=False).final["step"] == 10


def test_an_interrupted_saving_of_progress_keeps_the_former(monkeypatch):
    progress = store.Progress([tiny()])
    progress.save({"a": torch.arange(3)}, {"step": 1})

    def fail(*args):
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(OSError):
            progress.save({"a": torch.zeros(3)}, {"step": 2})
    tensors, state = progress.load()
    assert tensors["a"].tolist() == [0, 1, 2] and state == {"step": 1}
    assert [path.name for path in progress.path.parent.iterdir()] == [progress.path.name]
    assert store.Progress([tiny(seed=1)]).load() is None


def test_another_data_format_never_reads_an_old_run(monkeypatch, run):
    monkeypatch.setattr(store, "DATA_FORMAT", store.DATA_FORMAT + 1)
    assert store.load(run.experiment) is None
    assert ul.train(run.experiment, progress=False).folder != run.folder
    assert run.folder.exists()


def test_histories_that_counted_blocks_are_read_by_layer():
    """Blocks were counted from 0 once; layer 0 is the embedding, and 1 the stream after block 0."""
    early = pd.DataFrame({"step": [0], "unification": [0.5], "probe_0": [0.1], "probe_1": [0.2], "probe_10": [0.3]})
    assert list(store.by_layer(early)) == ["step", "unification", "probe_1", "probe_2", "probe_11"]
    assert store.by_layer(early).iloc[0].tolist() == early.iloc[0].tolist()
    assert list(store.by_layer(store.by_layer(early))) == list(store.by_layer(early)), "only once"


def test_a_run_that_was_stored_by_block_is_read_by_layer():
    run = quietly(tiny())[0]
    expected = run.history
    by_block = {f"{name}_{layer}": f"{name}_{layer - 1}" for name in ("probe", "unification") for layer in (1, 2)}
    weights = {step: dict(run.checkpoint(step).named_parameters()) for step in run.steps}
    weights = {step: {name: p.detach() for name, p in of.items()} for step, of in weights.items()}
    early = expected[["step", "recall", "transfer", *by_block]].rename(columns=by_block)
    again = store.save(run.experiment, early, weights)
    assert "probe_0" in pd.read_parquet(again.folder / store.HISTORY)
    pd.testing.assert_frame_equal(again.history, expected[["step", "recall", "transfer", *by_block]])
