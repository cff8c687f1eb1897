"""Series of checkpoints: by step, from folders and a hub's cache, and mislabelled ones are told."""

import argparse
import json
import shutil

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
        ("step100_loss_2.5", 100),
        ("checkpoint-500-of-1000", 500),
        ("checkpoint_1.5M", None),
        ("ckpt-0.5B", None),
        ("step1.5k", None),
        ("step10,000", None),
        ("iter-2.5e4", None),
        ("step1_000", None),
        ("checkpoint-2024-05-01", None),
        ("ckpt_2024.05.01", None),
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


def test_steps_between_which_nothing_was_learnt_may_stand(folder, tmp_path):
    """Pythia's steps 0 and 1 are one: the first step of a warm-up has learning rate 0."""
    for step, source in ((0, 0), (1, 0), (2, 0), (3, 100), (4, 2000)):
        shutil.copytree(folder / f"checkpoint-{source}", tmp_path / f"step{step}")
        (tmp_path / f"step{step}" / "trainer_state.json").unlink()
    with pytest.raises(ValueError, match=r"steps 0 and 1 of .* or nothing was learnt between.*`equal_neighbours=True`"):
        next(iter(series(tmp_path)))
    still = series(tmp_path, equal_neighbours=True)
    assert still.measure(repr, progress=False)["step"].tolist() == [0, 1, 2, 3, 4]
    shutil.rmtree(tmp_path / "step4")
    shutil.copytree(tmp_path / "step0", tmp_path / "step4")
    with pytest.raises(ValueError, match=r"steps 0 and 4 of .*, step 3 has others: one holds those of another step; "):
        next(iter(series(tmp_path, equal_neighbours=True)))


def rewrite(folder, change, kind="safetensors"):
    """The weights of a checkpoint, changed, in another kind of file."""
    weights = change(load_file(folder / "model.safetensors"))
    (folder / "model.safetensors").unlink()
    if kind == "safetensors":
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
    else:
        torch.save(weights, folder / "pytorch_model.bin", _use_new_zipfile_serialization=kind == "bin")


def as_it_is(weights):
    return weights


def with_head(weights):
    return {**weights, "lm_head.weight": weights["transformer.wte.weight"]}


def with_buffers(weights):
    masks = {f"transformer.h.{i}.attn.{name}": torch.ones(1) for i in range(2) for name in ("bias", "masked_bias")}
    return weights | masks


def without_prefix(weights):
    return {name.removeprefix("transformer."): w for name, w in weights.items()}


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (as_it_is, "bin"),
        (as_it_is, "old bin"),
        (with_head, "bin"),
        (with_buffers, "safetensors"),
        (without_prefix, "safetensors"),
        (lambda weights: without_prefix(with_buffers(weights)), "old bin"),
    ],
)
def test_weights_are_one_in_whichever_form_they_lie(folder, tmp_path, change, kind):
    """What `load` takes as one model has one hash; another step's weights are of the same model."""
    for step, source in ((1, 0), (2, 0), (3, 100)):
        shutil.copytree(folder / f"checkpoint-{source}", tmp_path / f"step{step}")
        (tmp_path / f"step{step}" / "trainer_state.json").unlink()
    for step in (2, 3):
        rewrite(tmp_path / f"step{step}", change, kind)
    table = series(tmp_path).audit(progress=False)
    assert table["equals"].tolist() == [(2,), (1,), ()] and table["layout"].nunique() == 1
    tokens = torch.tensor([[1, 2, 3]])
    checkpoints_by_step = series(tmp_path, ["step1", "step3"])
    for (_, model), source in zip(checkpoints_by_step, (0, 100), strict=True):
        assert torch.equal(model.model(tokens), load(folder / f"checkpoint-{source}").model(tokens))


def test_equal_values_in_another_kind_of_number_are_equal(folder, tmp_path):
    for step in (1, 2):
        shutil.copytree(folder / "checkpoint-0", tmp_path / f"step{step}")
        rewrite(tmp_path / f"step{step}", lambda weights: {name: w.bfloat16() for name, w in weights.items()})
    rewrite(tmp_path / "step2", lambda weights: {name: w.float() for name, w in weights.items()})
    assert series(tmp_path).audit(progress=False)["equals"].tolist() == [(2,), (1,)]


def test_a_head_of_its_own_counts(folder, tmp_path):
    """An untied head that differs is a weight."""
    for step in (1, 2):
        shutil.copytree(folder / "checkpoint-0", tmp_path / f"step{step}")
        rewrite(
            tmp_path / f"step{step}",
            lambda weights, step=step: {**weights, "lm_head.weight": weights["transformer.wte.weight"] + step},
        )
    table = series(tmp_path).audit(progress=False)
    assert table["equals"].tolist() == [(), ()] and table["layout"].nunique() == 1


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"model": {"w": torch.ones(1)}, "epoch": 3}, "'model' is of type dict, not a weight"),
        ([torch.ones(1)], "a list, not weights by name"),
        ({"a": argparse.Namespace()}, "Weights only load failed"),
    ],
)
@pytest.mark.parametrize("archive", [False, True])
def test_files_of_other_things_are_told_in_a_sentence(folder, tmp_path, content, told, archive):
    shutil.copytree(folder / "checkpoint-0", tmp_path / "step1")
    (tmp_path / "step1" / "model.safetensors").unlink()
    torch.save(content, tmp_path / "step1" / "pytorch_model.bin", _use_new_zipfile_serialization=archive)
    with pytest.raises(ValueError, match=rf"pytorch_model\.bin holds no weights that can be read \({told}\)\.$"):
        series(tmp_path).audit(progress=False)


def edit(file, **fields):
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | fields), encoding="utf-8")


def test_steps_of_one_model_have_one_config_and_tokenizer(folder, tmp_path):
    """Weights of the same shapes may be read with other heads and other words."""
    some = tmp_path / "series"
    shutil.copytree(folder, some)
    config, words = (some / "checkpoint-100" / name for name in ("config.json", "tokenizer.json"))
    edit(config, transformers_version="4.1", dtype="float16", use_cache=False, _name_or_path="x", resid_pdrop=0.5)
    vocab = json.loads(words.read_text())
    edit(
        words,
        padding={"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None}
        | {"pad_id": 0, "pad_type_id": 0, "pad_token": "<eos>"},
    )  # as it was used last
    assert [step for step, _ in series(some)] == list(STEPS)
    edit(config, n_head=4, layer_norm_epsilon=1e-3)
    told = r"steps 0 and 100 of series are not of one model: their "
    measured = []
    with pytest.raises(
        ValueError, match=told + r"config.json differ in .*(n_head|layer_norm_epsilon), .*'checkpoint-100'"
    ):
        series(some).measure(measured.append, progress=False)
    edit(config, n_head=2, layer_norm_epsilon=1e-5)
    turned = dict(zip(vocab["model"]["vocab"], reversed(vocab["model"]["vocab"].values()), strict=True))
    edit(words, model=vocab["model"] | {"vocab": turned})
    with pytest.raises(ValueError, match=told + "tokenizers differ in .*model of tokenizer.json"):
        series(some).measure(measured.append, progress=False)
    shutil.copy(some / "checkpoint-0" / "tokenizer.json", words)
    for step, text in ((0, "a"), (100, "b")):
        (some / f"checkpoint-{step}" / "vocab.txt").write_text(text)
    series(some).refuse_doubtful()  # tokenizer.json is what is read
    for step in (0, 100):
        (some / f"checkpoint-{step}" / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=told + "tokenizers differ in vocab.txt"):
        series(some).refuse_doubtful()
    assert not measured


def test_what_a_checkpoint_lacks_is_told_before_any_is_measured(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "series")
    (tmp_path / "series" / "checkpoint-2000" / "tokenizer.json").unlink()
    measured = []
    with pytest.raises(FileNotFoundError, match="checkpoint-2000 has no tokenizer"):
        series(tmp_path / "series").measure(measured.append, progress=False)
    assert not measured


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


def test_a_hubs_cache_is_a_series(folder, tmp_path, monkeypatch):
    """Branches are read from what a hub leaves in its cache; `main` says no step."""
    cached = tmp_path / "models--someone--tiny"
    (cached / "refs").mkdir(parents=True)
    for number, step in enumerate((*STEPS, None)):
        commit = str(number) * 40
        shutil.copytree(folder / f"checkpoint-{step or 0}", cached / "snapshots" / commit)
        (cached / "refs" / ("main" if step is None else f"step{step}")).write_text(commit)
    for module in ("constants", "utils._cache_manager"):  # the second keeps the name that it loaded
        monkeypatch.setattr(f"huggingface_hub.{module}.HF_HUB_CACHE", str(tmp_path), raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    found = series(cached)
    assert found.steps == [0, 100, 2000] == [step for step, _ in found]
    assert series("someone/tiny", ["step100"]).steps == [100]
    assert "2 layers of 16" in str(series("someone/tiny", ["step100"], hub=True).checkpoint(100))
    with pytest.raises(ConnectionError, match=r"^revision 'step7' of someone/tiny could not be fetched"):
        series("someone/tiny", ["step7"], hub=True).checkpoint(7)


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
