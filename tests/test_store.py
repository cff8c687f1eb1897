"""Runs on disk: whole or not there; what is damaged is named and trained again."""

import json
import os
import pickle
import re
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import quietly, tiny

import unifylens as ul
from unifylens.model import initial_parameters, shape_of, with_parameters
from unifylens.training import progress, store
from unifylens.training import run as runs

ROOT = Path(__file__).parents[1]
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
    assert loaded.folder == empty_store / "runs" / experiment.key(runs.DATA_FORMAT)
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
        problem = runs.damage(run.folder, run.folder.name)
        assert problem or json.loads(path.read_text()) == manifest


@pytest.mark.parametrize("target", ["os.rename", "write_text", "to_parquet"])
def test_an_interrupted_writing_leaves_nothing(monkeypatch, empty_store, target):
    experiment = tiny(**{"train.steps": 10})

    def fail(*args, **kwargs):
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        where = {"os.rename": (os, "rename"), "write_text": (store.Path, "write_text")}
        patch.setattr(*where.get(target, (pd.DataFrame, "to_parquet")), fail)
        with pytest.raises(OSError, match="no space left"):
            ul.train(experiment, progress=False)
    assert not [path for path in empty_store.rglob("*") if path.is_file()]
    assert store.load(experiment) is None
    assert ul.train(experiment, progress=False).final["step"] == 10


def test_an_interrupted_saving_of_progress_keeps_the_former(monkeypatch):
    saved = progress.Progress([tiny()])
    saved.save({"a": torch.arange(3)}, {"step": 1})

    def fail(*args):
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(OSError):
            saved.save({"a": torch.zeros(3)}, {"step": 2})
    tensors, state = saved.load()
    assert tensors["a"].tolist() == [0, 1, 2] and state == {"step": 1}
    assert [path.name for path in saved.path.parent.iterdir()] == [saved.path.name]
    assert progress.Progress([tiny(seed=1)]).load() is None


def test_another_data_format_never_reads_an_old_run(monkeypatch, run):
    monkeypatch.setattr(runs, "DATA_FORMAT", runs.DATA_FORMAT + 1)
    assert store.load(run.experiment) is None
    assert ul.train(run.experiment, progress=False).folder != run.folder
    assert run.folder.exists()


def test_histories_that_counted_blocks_are_read_by_layer():
    """Blocks were counted from 0 once; layer 0 is the embedding, and 1 the stream after block 0."""
    early = pd.DataFrame({"step": [0], "unification": [0.5], "probe_0": [0.1], "probe_1": [0.2], "probe_10": [0.3]})
    assert list(runs.by_layer(early)) == ["step", "unification", "probe_1", "probe_2", "probe_11"]
    assert runs.by_layer(early).iloc[0].tolist() == early.iloc[0].tolist()
    assert list(runs.by_layer(runs.by_layer(early))) == list(runs.by_layer(early)), "only once"


def test_a_run_that_was_stored_by_block_is_read_by_layer():
    run = quietly(tiny())[0]
    expected = run.history
    by_block = {f"{name}_{layer}": f"{name}_{layer - 1}" for name in ("probe", "unification") for layer in (1, 2)}
    weights = {step: dict(run.checkpoint(step).named_parameters()) for step in run.steps}
    weights = {step: {name: p.detach() for name, p in of.items()} for step, of in weights.items()}
    early = expected[["step", "recall", "transfer", *by_block]].rename(columns=by_block)
    store.clear(run)
    again = store.save(run.experiment, early, weights)
    assert "probe_0" in pd.read_parquet(again.folder / store.HISTORY)
    pd.testing.assert_frame_equal(again.history, expected[["step", "recall", "transfer", *by_block]])


# --- what is there -------------------------------------------------------------------------------------------


@pytest.fixture
def three(empty_store):
    """Runs of seeds 0 to 2."""
    return ul.sweep(tiny(**{"train.steps": 10}), over={"seed": range(3)}, progress=False)


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def interrupted(*experiments):
    saved = progress.Progress(list(experiments))
    saved.save({"a": torch.arange(3)}, {"step": 1})
    return saved.path


def test_an_empty_store_is_listed(empty_store):
    assert not len(store.runs()) and store.size() == 0 and not len(store.clear(everything=True))
    assert "state" in store.runs() and not empty_store.exists()


def test_runs_are_listed_and_measured(three, empty_store):
    path = interrupted(tiny(seed=8), tiny(seed=9))
    table = store.runs().set_index("key")
    for run in three:
        row = table.loc[run.folder.name]
        assert (row["seed"], row["steps"], row["state"], row["ours"]) == (run.experiment.seed, 10, "intact", True)
        assert "world.n_subjects=24" in row["differs"] and "seed" not in row["differs"]
        assert row["MB"] == sum(map(len, files(run.folder).values())) / 1e6
        assert abs(row["modified"] - pd.Timestamp.now()) < pd.Timedelta(minutes=5)
    assert table.loc[path.stem, ["differs", "state"]].tolist() == ["2 experiments", "interrupted"] and len(table) == 4
    assert store.size() == sum(map(len, files(empty_store).values()))


@pytest.mark.parametrize("name", ["key", "experiment", "run", "list", "series", "sweep"])
def test_what_is_named_is_cleared_and_nothing_else(three, empty_store, name):
    named = {
        "key": three[1].folder.name,
        "experiment": three[1].experiment,
        "run": three[1],
        "list": [three[1].experiment],
        "series": store.runs().query("seed == 1")["key"],
        "sweep": three[1:2],
    }[name]
    before, listed = files(empty_store), store.runs().query("seed == 1").reset_index(drop=True)
    pd.testing.assert_frame_equal(store.clear(named), listed)
    gone = {path for path in before if three[1].folder.name in path}
    assert len(gone) == 4 and files(empty_store) == {path: text for path, text in before.items() if path not in gone}
    assert not list(empty_store.glob("runs/.*"))
    assert store.load(three[1].experiment) is None and store.load(three[0].experiment) is not None


def test_a_run_of_another_home_clears_nothing_in_this_one(three, monkeypatch, tmp_path):
    other = three[0]
    monkeypatch.setenv("UNIFYLENS_HOME", str(tmp_path / "second"))
    own = ul.train(other.experiment, progress=False)
    with pytest.raises(ValueError, match=re.escape(f"run {other.folder} is not in {tmp_path / 'second'}")):
        store.clear([own, other])
    assert own.folder.exists() and other.folder.exists()
    (tmp_path / "link").symlink_to(tmp_path / "second")
    monkeypatch.setenv("UNIFYLENS_HOME", str(tmp_path / "link"))
    assert len(store.clear(own)) == 1 and not own.folder.exists()


def test_a_stack_goes_with_all_its_experiments_or_by_its_key(three):
    path = interrupted(*(run.experiment for run in three[:2]))
    store.clear(three[0])
    assert path.exists()
    store.clear(path.stem)
    assert not path.exists() and len(store.runs()) == 2
    path = interrupted(*(run.experiment for run in three[1:]))
    assert len(store.clear(three[1:])) == 3 and not path.exists() and not len(store.runs())


def foreign(empty_store, three):
    """What is no run, by what it is called."""
    runs = empty_store / "runs"
    (runs / "my notes").mkdir()
    (runs / "my notes" / "weights.safetensors").write_text("mine")
    (runs / "list.txt").write_text("mine")
    (three[0].folder / "notes.txt").write_text("mine")
    os.rename(three[1].folder, runs / "other name")
    (runs / "broken").mkdir()
    (runs / "broken" / "experiment.json").write_text("{")
    (runs / "link").symlink_to(three[2].folder)
    (empty_store / "interrupted" / "x.safetensors").write_text("mine")
    (empty_store / "mine.txt").write_text("mine")
    return {
        "my notes": "no run: without experiment.json",
        "list.txt": "no run: a link or a file",
        three[0].folder.name: "holds more than a run: notes.txt",
        "other name": "no run: under the key of another experiment",
        "broken": "no run: cannot be read (ValueError)",
        "link": "no run: a link or a file",
        "x.safetensors": "no stack",
    }


def test_what_is_not_ours_is_listed_and_never_cleared(three, empty_store):
    told = foreign(empty_store, three)
    table = store.runs().set_index("key")
    assert table.loc[list(told), "state"].to_dict() == told and not table.loc[list(told), "ours"].any()
    before = files(empty_store)
    for key, state in told.items():
        with pytest.raises(ValueError, match=re.escape(f"{key!r} is left alone, {state}")):
            store.clear([three[2].folder.name, key])
    assert files(empty_store) == before, "nothing goes where one name is wrong"
    assert store.clear(everything=True)["key"].tolist() == [three[2].folder.name]
    assert files(empty_store) == {p: text for p, text in before.items() if three[2].folder.name not in p}


def test_damaged_and_old_runs_are_told_and_can_be_cleared(three, monkeypatch):
    (three[0].folder / "history.parquet").write_bytes(b"")
    (three[1].folder / "weights.safetensors").unlink()
    states = store.runs().set_index("seed")["state"]
    assert states[0] == "damaged: history.parquet does not match its checksum"
    assert states[1] == "damaged: weights.safetensors is missing" and states[2] == "intact"
    with monkeypatch.context() as patch:
        patch.setattr(runs, "DATA_FORMAT", runs.DATA_FORMAT + 1)
        assert store.runs().set_index("seed")["state"][2] == "of an older format"
    assert len(store.clear(everything=True)) == 3 and not len(store.runs())


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda key: store.clear(), "name runs by key or experiment, or say everything=True"),
        (lambda key: store.clear([]), "or say everything=True"),
        (lambda key: store.clear(key, everything=True), "or say everything=True"),
        (lambda key: store.clear("0" * 20), "'00000000000000000000' is not in "),
        (lambda key: store.clear([key, 3]), "which holds a int; allowed: keys, experiments and runs"),
        (lambda key: store.clear(tiny(seed=77)), " is not in "),
    ],
)
def test_clear_asks_for_what_is_there(run, call, told):
    before = files(run.folder)
    with pytest.raises(ValueError, match=re.escape(told)):
        call(run.folder.name)
    assert files(run.folder) == before


def test_a_step_is_a_whole_number_however_it_is_written(run):
    assert all(
        torch.equal(p, q) for p, q in zip(run.checkpoint(10.0).parameters(), run.model.parameters(), strict=True)
    )


def test_clear_takes_no_word_for_everything(run):
    for given, told in (({"everything": "no"}, "everything='no'"), ({"which": run.folder}, "PosixPath")):
        with pytest.raises(ValueError, match=told):
            store.clear(**given)
    with pytest.raises(ValueError, match="of a table its `key`"):
        store.clear(store.runs())
    assert run.folder.exists()


def test_a_run_that_travels_leaves_its_model_behind(run):
    _ = run.model
    again = pickle.loads(pickle.dumps(run))
    assert "model" not in vars(again) and again.folder == run.folder
