"""Series of checkpoints: by step, from folders and a hub's cache, and mislabelled ones are told."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_pretrained import facts, tokenizer  # noqa: F401 - questions for a random Gemma 2
from test_pretrained import folder as gemma  # noqa: F401
from tokenizers import Tokenizer, models, pre_tokenizers

import unifylens as ul
from unifylens import asking, patching
from unifylens.pretrained import checkpoints, load, prompts, series

STEPS = (0, 100, 2000)


def save(seed, folder, step=None, shards=False):
    """A random GPT-2 as a trainer leaves it."""
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    vocab = {word: i for i, word in enumerate(["<eos>", *"abcdefgh"])}
    raw = Tokenizer(models.WordLevel(vocab, unk_token="<eos>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<eos>", unk_token="<eos>").save_pretrained(folder)
    config = GPT2Config(vocab_size=len(vocab), n_positions=16, n_embd=16, n_layer=2, n_head=2, bos_token_id=0)
    torch.manual_seed(seed)
    model = GPT2LMHeadModel(config)
    model.save_pretrained(folder, **({"max_shard_size": "8KB"} if shards else {}))
    if step is not None:
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("tiny-series")
    for seed, step in enumerate(STEPS):
        save(seed, root / f"checkpoint-{step}", step)
    (root / "runs").mkdir()  # a trainer's logs are no checkpoint
    return root


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("step1000", 1000),
        ("step-0", 0),
        ("stage1-step2000-tokens5B", 2000),
        ("checkpoint-30", 30),
        ("iter_0001000", 1000),
        ("global_step77", 77),
        ("steps_3000", 3000),
        ("0007", 7),
        ("main", None),
        ("v1.5", None),
        ("seed-7", None),
        ("tokens5B", None),
        ("step1-step2", None),
    ],
)
def test_steps_are_read_from_names(name, step):
    assert checkpoints.step_of(name) == step


def test_models_come_by_step(folder):
    checkpoints_by_step = series(folder)
    assert checkpoints_by_step.steps == list(STEPS) and len(checkpoints_by_step) == 3
    tokens = torch.tensor([[1, 2, 3]])
    for step, model in checkpoints_by_step:
        alone = load(folder / f"checkpoint-{step}")
        assert torch.equal(model.model(tokens), alone.model(tokens)), step
    assert repr(checkpoints_by_step).startswith(f"Series {folder.name} (3 checkpoints)")
    some = series(folder, ["checkpoint-2000", "checkpoint-0"])
    assert some.steps == [0, 2000]
    with pytest.raises(ValueError, match=r"step=100 has no checkpoint; allowed: 0, 2000\."):
        some.checkpoint(100)


def test_measures_are_drawn_over_training(folder):
    def largest(model):
        return model.model(torch.tensor([[1, 2, 3]]))[0, -1].max().item()

    table = series(folder).measure(largest, progress=False)
    assert table["step"].tolist() == list(STEPS) and table["largest"].nunique() == 3


def test_an_intact_series_is_told_intact(folder):
    table = series(folder).audit(progress=False)
    assert table["equals"].tolist() == [()] * 3 and table["recorded"].tolist() == list(STEPS)
    assert table["sha256"].nunique() == 3 and table["layout"].nunique() == 1


@pytest.mark.parametrize("shards", [False, True])
def test_weights_of_another_step_are_told(folder, tmp_path, shards):
    """Also where they lie in other files."""
    shutil.copytree(folder, tmp_path / "series")
    save(1, tmp_path / "series" / "checkpoint-3000", shards=shards)  # those of step 100
    mislabelled = series(tmp_path / "series")
    equals = mislabelled.audit(progress=False).set_index("step")["equals"]
    assert equals.to_dict() == {0: (), 100: (3000,), 2000: (), 3000: (100,)}
    told = r"steps 100 and 3000 of series have the same weights \(revisions 'checkpoint-100' and 'checkpoint-3000'\)"
    with pytest.raises(ValueError, match=told):
        next(iter(mislabelled))
    with pytest.raises(ValueError, match=told):
        mislabelled.measure(repr, progress=False)
    assert len(series(tmp_path / "series", ["checkpoint-0", "checkpoint-3000"]).measure(repr, progress=False)) == 2


def test_a_trainers_record_is_compared(folder, tmp_path):
    shutil.copytree(folder / "checkpoint-0", tmp_path / "checkpoint-0")
    shutil.copytree(folder / "checkpoint-100", tmp_path / "checkpoint-200")
    with pytest.raises(ValueError, match=r"'checkpoint-200' of .* was saved at step 100, says its trainer_state.json"):
        next(iter(series(tmp_path)))
    named = series(tmp_path, {0: "checkpoint-0", 100: "checkpoint-200"})
    assert [step for step, _ in named] == [0, 100]


def test_another_model_is_no_checkpoint(folder, tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel

    shutil.copytree(folder / "checkpoint-0", tmp_path / "step0")
    shutil.copytree(folder / "checkpoint-0", tmp_path / "step1")
    GPT2LMHeadModel(GPT2Config(vocab_size=9, n_positions=16, n_embd=32, n_layer=2, n_head=2)).save_pretrained(
        tmp_path / "step1"
    )
    (tmp_path / "step1" / "trainer_state.json").unlink()
    with pytest.raises(ValueError, match=r"steps 0 and 1 of .* are not of one model"):
        next(iter(series(tmp_path)))


@pytest.mark.parametrize(
    ("revisions", "told"),
    [
        ("checkpoint-0", "is one name; allowed: a list of names"),
        (["checkpoint-7"], "'checkpoint-7' is not in .*; allowed: checkpoint-0, checkpoint-100, checkpoint-2000"),
        (["main"], "'main' says no step"),
        ({-1: "checkpoint-0"}, "step -1; allowed: whole numbers from 0 on"),
        ({0.5: "checkpoint-0"}, "step 0.5"),
        ([], "has no checkpoints"),
        (["checkpoint-0", "checkpoint-0"], "step 0 stands there 2 times, as 'checkpoint-0' and 'checkpoint-0'"),
    ],
)
def test_mistakes_in_revisions_are_named(folder, revisions, told):
    with pytest.raises(ValueError, match=told):
        series(folder, revisions)


def test_places_without_checkpoints_are_named(tmp_path, folder, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "no cache"))
    with pytest.raises(FileNotFoundError, match="no such folder"):
        series(tmp_path / "gone")
    with pytest.raises(ValueError, match="has no checkpoints: nothing there"):
        series(tmp_path)
    with pytest.raises(
        ValueError, match=r"'someone/tiny' is neither a folder here nor in the hub's cache; .* hub=True"
    ):
        series("someone/tiny")
    shutil.copytree(folder, tmp_path / "cut")
    weights = tmp_path / "cut" / "checkpoint-100" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"model\.safetensors holds no weights that can be read"):
        series(tmp_path / "cut").audit(progress=False)


HUB = """
import sys
from unifylens.pretrained import series
cached = series(sys.argv[1])
assert cached.steps == [0, 100, 2000], cached.steps
print([step for step, _ in cached])
print(series("someone/tiny", ["step100"]).steps, series("someone/tiny", ["step100"], hub=True).checkpoint(100))
try:
    series("someone/tiny", ["step7"], hub=True).checkpoint(7)
except ConnectionError as error:
    print(error)
"""


def test_a_hubs_cache_is_a_series(folder, tmp_path):
    """Branches are read from what a hub leaves in its cache; `main` says no step."""
    cached = tmp_path / "models--someone--tiny"
    (cached / "refs").mkdir(parents=True)
    for number, step in enumerate((*STEPS, None)):
        commit = str(number) * 40
        shutil.copytree(folder / f"checkpoint-{step or 0}", cached / "snapshots" / commit)
        (cached / "refs" / ("main" if step is None else f"step{step}")).write_text(commit)
    offline = {**os.environ, "HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", HUB, str(cached)]
    ran = subprocess.run(command, env=offline, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    steps, named, refused = ran.stdout.splitlines()[-3:]
    assert steps == "[0, 100, 2000]" and named.startswith("[100] ") and "2 layers of 16" in named
    assert refused.startswith("revision 'step7' of someone/tiny could not be fetched")


def test_answers_scores_and_swaps_are_drawn_over_training(facts, gemma, tmp_path):  # noqa: F811
    """Each step's row is what its model gives alone."""
    weights = load_file(gemma / "model.safetensors")
    for step in (0, 40):
        shutil.copytree(gemma, tmp_path / f"step{step}")
        moved = {name: (1 + step / 100) * w for name, w in weights.items()}
        save_file(moved, tmp_path / f"step{step}" / "model.safetensors", {"format": "pt"})
    few = ul.FactSet.of(facts).select(["de", "ja"], "continent")

    def measured(model):
        right = asking.answers(model, few, progress=False)["right"].mean()
        de, ja = asking.states(model, few, progress=False)[2]
        target, source = (prompts(model, few, language) for language in ("de", "ja"))
        first = model.ids(few.table["answer"].iloc[0])[-1]
        swapped = patching.by_layer_and_role(
            model.model, target, source, {"p": patching.probability([first] * len(target))}, layers=[2], progress=False
        )
        swaps = {f"swap_{role}": p for role, p in zip(swapped["role"], swapped["p"], strict=True)}
        return {"right": right, "score": ul.measures.unification(de, ja)} | swaps

    table = series(tmp_path).measure(measured, progress=False)
    assert table["step"].tolist() == [0, 40] and list(table)[:2] == ["right", "score"]
    for step in (0, 40):
        alone = measured(load(tmp_path / f"step{step}"))
        assert table[table["step"] == step].drop(columns="step").iloc[0].to_dict() == pytest.approx(alone, abs=1e-6)
    assert table["score"].nunique() == 2 and table["swap_subject"].nunique() == 2
