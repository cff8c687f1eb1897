"""Settings: JSON and back, hashes, refusals in words, schedules."""

import datetime
import re
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import tiny

import unifylens as ul
from benchmarks import odd_configs
from unifylens.config import TEMPLATES, Config, TrainConfig
from unifylens.corpus.language import _invent_words
from unifylens.seeds import rng
from unifylens.training.cost import Member

OTHER_VALUES = {
    "world.n_subjects": 30,
    "world.n_relations": 2,
    "world.n_objects": 6,
    "language.n_languages": 3,
    "language.shared_subjects": 0.5,
    "language.shared_relations": 0.5,
    "language.shared_objects": 0.5,
    "language.shared_function_words": 0.5,
    "language.subject_words": 2,
    "language.syllables": (2, 2, 3),
    "language.language_token": True,
    "language.language_cue": "pair",
    "language.lexical_distance": 0.5,
    "language.templates": ("of", "plain"),
    "tokenizer.scheme": "character",
    "tokenizer.vocab_size": 90,
    "tokenizer.training": "separate",
    "tokenizer.shared_tokens": 0.5,
    "corpus.parallel": 0.25,
    "corpus.n_parallel": 7,
    "corpus.parallel_unit": "subject",
    "corpus.exposure_balance": 0.5,
    "corpus.copy_exposure": 0.5,
    "corpus.parallel_exposure": 0.5,
    "corpus.language_exposure": (1.0, 0.5),
    "corpus.late": ul.LateLanguages(),
    "corpus.object_skew": 0.5,
    "corpus.home_bias": 0.5,
    "corpus.relation_bias": 0.5,
    "model.d_model": 32,
    "model.n_layers": 1,
    "model.n_heads": 4,
    "model.d_mlp": 16,
    "model.act_fn": "relu",
    "model.normalization": None,
    "model.positional_embedding_type": "rotary",
    "model.local_blocks": 1,
    "model.attn_only": True,
    "model.gated_mlp": True,
    "model.parallel_attn_mlp": True,
    "model.language_neurons": 4,
    "model.n_experts": 3,
    "real": ul.RealConfig(locales=("en", "ja"), romanised=True),
    "train.steps": 41,
    "train.batch_size": 16,
    "train.lr": 1e-3,
    "train.weight_decay": 0.0,
    "train.betas": (0.9, 0.99),
    "train.warmup": 3,
    "train.schedule": "constant",
    "train.final_lr": 0.2,
    "train.cycles": 2,
    "train.loss": "full",
    "train.precision": "bfloat16",
    "train.state_losses": (ul.StateLoss(method="pull"),),
    "train.frozen": ("mlp",),
    "train.translated_words": 0.5,
    "train.new_words": "mean",
    "train.sparse": ul.Sparse(share=0.5),
    "train.soft_prompt": True,
    "train.n_evaluations": 5,
    "train.n_checkpoints": 2,
    "train.eval_facts": 8,
    "changes": (ul.CorpusChange(step=20, corpus=ul.CorpusConfig(parallel=0.1)),),
    "interventions": (ul.Intervention(name="add_parallel", share=0.5),),
    "start": ul.Start(experiment=tiny()),
    "seed": 1,
}
PIECES = {"tokenizer.scheme": "bpe", "tokenizer.vocab_size": 100}
"""What the settings of a tokenizer that is trained need beside them."""


def leaves():
    """Dotted names of all settings that hold values rather than settings."""
    names = ul.Experiment.field_names()
    return {name for name in names if not any(other.startswith(f"{name}.") for other in names)}


def test_every_field_goes_through_json_and_changes_the_hash():
    assert set(OTHER_VALUES) == leaves(), "a field is missing from OTHER_VALUES"
    default = {"corpus.parallel": 0.3}  # only with it may parallel facts be counted
    beside = dict.fromkeys(("tokenizer.vocab_size", "tokenizer.training"), PIECES) | {
        "real": {"world": ul.WorldConfig()},
        "train.sparse": {"start": ul.Start(experiment=tiny(seed=1))},
        "train.soft_prompt": {"start": ul.Start(experiment=tiny(seed=2))},
        "train.new_words": {"start": ul.Start(experiment=tiny(seed=3))},
    }
    changed = [tiny(**{**default, **beside.get(name, {}), name: value}) for name, value in OTHER_VALUES.items()]
    experiments = [tiny(), tiny(**PIECES), *changed]
    assert len({e.key(1) for e in experiments}) == len(set(experiments)) == len(experiments)
    for experiment in experiments:
        again = ul.Experiment.model_validate_json(experiment.model_dump_json())
        assert again == experiment and hash(again) == hash(experiment) and again.key(1) == experiment.key(1)
    assert tiny().key(1) != tiny().key(2)


def test_a_whole_number_and_its_float_are_the_same_experiment():
    assert tiny(**{"corpus.parallel": 1}).key(1) == tiny(**{"corpus.parallel": 1.0}).key(1)


def test_replace_changes_what_it_names_and_nothing_else():
    before = tiny()
    after = before.replace(**{"corpus.parallel": 0.1, "seed": 3, "model": ul.ModelConfig(d_model=8)})
    assert (after.corpus.parallel, after.seed, after.model) == (0.1, 3, ul.ModelConfig(d_model=8))
    assert after.replace(corpus=before.corpus, seed=0, model=before.model) == before


@pytest.mark.parametrize("part", [None, "world", "language", "tokenizer", "corpus", "model", "train"])
def test_frozen(part):
    experiment = tiny()
    config = experiment if part is None else getattr(experiment, part)
    assert isinstance(config, Config)
    name = next(iter(type(config).model_fields))
    with pytest.raises(ValueError, match="frozen"):
        setattr(config, name, getattr(config, name))


def change(step):
    return ul.CorpusChange(step=step, corpus=ul.CorpusConfig())


# what is wrong -> the field, the value, and what is allowed
BAD = {
    **{
        f"{part}.{name}={value}": ({f"{part}.{name}": value}, [f"{part}.{name}={value}; allowed: {allowed}"])
        for part, name, allowed in [
            ("language", "shared_subjects", "number from 0 to 1"),
            ("language", "shared_relations", "number from 0 to 1"),
            ("language", "shared_objects", "number from 0 to 1"),
            ("language", "shared_function_words", "number from 0 to 1"),
            ("language", "lexical_distance", "number from 0 to 1 or None"),
            ("tokenizer", "shared_tokens", "number from 0 to 1"),
            ("corpus", "parallel", "number from 0 to 1"),
            ("corpus", "exposure_balance", "number from 0 to 1"),
            ("corpus", "object_skew", "number from 0 to 1"),
            ("corpus", "home_bias", "number from 0 to 1"),
            ("corpus", "relation_bias", "number from 0 to 1"),
            ("train", "final_lr", "number from 0 to 1"),
        ]
        for value in (-0.1, 1.1)
    },
    "nan": ({"corpus.parallel": float("nan")}, ["corpus.parallel=nan; allowed: number from 0 to 1."]),
    "one language": (
        {"language.n_languages": 1},
        ["language.n_languages=1; allowed: "],
    ),
    "names without words": (
        {"language.subject_words": 0},
        ["language.subject_words=0; allowed: "],
    ),
    "names too long": (
        {"language.subject_words": 5},
        ["language.subject_words=5; allowed: "],
    ),
    "no relation": ({"world.n_relations": 0}, ["world.n_relations=0; allowed: "]),
    "parallel facts never seen": (
        {"corpus.parallel_exposure": 0.0},
        ["corpus.parallel_exposure=0.0; allowed: "],
    ),
    "too many parallel": ({"corpus.parallel": 0.3, "corpus.n_parallel": 73}, ["corpus.n_parallel=73", "0 to 72"]),
    "too many parallel later": (
        {"changes": (ul.CorpusChange(step=2, corpus=ul.CorpusConfig(n_parallel=80)),)},
        ["corpus.n_parallel=80", "0 to 72"],
    ),
    "no answer": (
        {"language.templates": ("{subject} {relation}",)},
        ["templates", "'{subject} {relation}'", "{object}", "plain, of, has, topic"],
    ),
    "answer first": (
        {"language.templates": ("{object} is {relation} of {subject}",)},
        ["templates", "'{object} is {relation} of {subject}'", "after the other two"],
    ),
    "answer twice": (
        {"language.templates": ("{subject} {relation} {object} {object}",)},
        ["templates", "'{subject} {relation} {object} {object}'", "once each"],
    ),
    "template by a wrong name": ({"language.templates": ("plane",)}, ["templates", "'plane'", "plain, of, has, topic"]),
    "no template": ({"language.templates": ()}, ["language.templates=(); allowed: "]),
    "two ways to tell the language": (
        {"language.language_token": True, "language.language_cue": "first"},
        ["language_token=True", "language_cue='first'", "allowed: one of the two"],
    ),
    **{
        f"a size for {scheme} tokens": (
            {"tokenizer.scheme": scheme, "tokenizer.vocab_size": 90},
            ["vocab_size=90", f"scheme='{scheme}'", "allowed: None, or scheme 'bpe' or 'unigram'"],
        )
        for scheme in ("word", "character")
    },
    **{
        f"{scheme} tokens of each language's own": (
            {"tokenizer.scheme": scheme, "tokenizer.training": "separate"},
            ["training='separate'", f"scheme='{scheme}'", "allowed: 'joint', or scheme 'bpe' or 'unigram'"],
        )
        for scheme in ("word", "character")
    },
    **{
        f"{scheme} tokens without a size": ({"tokenizer.scheme": scheme}, ["vocab_size must be given", f"'{scheme}'"])
        for scheme in ("bpe", "unigram")
    },
    **{
        f"words behind an answer of {scheme} tokens": (
            {"language.templates": ("plain", "topic"), "tokenizer": {"scheme": scheme, "vocab_size": size}},
            ["language.templates", TEMPLATES["topic"], f"tokenizer.scheme='{scheme}'", "end with {object}, or scheme"],
        )
        for scheme, size in [("character", None), ("bpe", 90), ("unigram", 90)]
    },
    "no such tokens": (
        {"tokenizer.scheme": "bytes"},
        ["tokenizer.scheme", "'bytes'", "'word' or 'character' or 'bpe'"],
    ),
    "no such cue": (
        {"language.language_cue": "last"},
        ["language_cue", "'last'", "'none' or 'first' or 'pair' or 'vote'"],
    ),
    "heads": ({"model.n_heads": 3}, ["n_heads=3", "must divide d_model=16"]),
    "no global block": ({"model.local_blocks": 2}, ["local_blocks=2", "must stay below n_layers=2"]),
    "fewer local blocks than none": (
        {"model.local_blocks": -1},
        ["model.local_blocks=-1; allowed: "],
    ),
    "warm-up": ({"train.warmup": 20, "train.cycles": 2}, ["warmup=20", "cycles=2", "below steps=40"]),
    "changes out of order": ({"changes": (change(20), change(10))}, ["changes", "[20, 10]", "must rise"]),
    "two changes at once": ({"changes": (change(20), change(20))}, ["changes", "[20, 20]", "must rise"]),
    "change past the end": ({"changes": (change(40),)}, ["changes", "[40]", "below train.steps=40"]),
    "change at the start": (
        {"changes": ({"step": 0, "corpus": {}},)},
        ["changes[0].step=0; allowed: whole number from 1 below 100,000,000."],
    ),
    "seed": ({"seed": -1}, ["seed=-1; allowed: "]),
    **{
        f"{name}={value!r}": ({name: value}, [f"{name}={str(value)[:40]}", "allowed: ", limit])
        for name, value, limit in [
            ("world.n_subjects", 10**12, "to 1,000,000"),
            ("world.n_relations", 10**6, "to 100,000"),
            ("world.n_objects", 10**7, "to 1,000,000"),
            ("language.n_languages", 10**6, "to 100"),
            ("language.templates", ("plain",) * 1001, "1 to 1,000 of"),
            ("tokenizer.vocab_size", 10**9, "to 1,000,000"),
            ("corpus.copy_exposure", 1.7e308, "to 1,000,000"),
            ("corpus.parallel_exposure", 1e300, "to 1,000,000"),
            ("model.d_model", 10**9, "to 65,536"),
            ("model.n_layers", 10**5, "to 1,000"),
            ("model.d_mlp", 10**9, "to 1,000,000"),
            ("train.steps", 10**30, "to 100,000,000"),
            ("train.batch_size", 10**9, "to 1,000,000"),
            ("train.lr", 1e300, "to 1,000,000"),
            ("train.weight_decay", 1e300, "to 1,000,000"),
            ("train.n_checkpoints", 10**6, "to 10,000"),
            ("train.n_evaluations", 10**12, "to 10,000"),
            ("train.eval_facts", 10**20, "to 100,000,000"),
        ]
    },
    "more digits than Python writes": (
        {"train.steps": 10**5000},
        ["train.steps=<whole number of 16610 bits>", "to 100"],
    ),
    "too many facts": (
        {"world.n_subjects": 10**6, "world.n_relations": 10**5},
        ["world: n_subjects=1000000 times n_relations=100000", "100,000,000,000 facts", "up to 100,000,000"],
    ),
    "copies that are never drawn": (
        {"corpus.copy_exposure": 1e-300},
        ["copy_exposure=1e-300", "allowed: 0, or a number"],
    ),
    **{
        f"{name} without an MLP": (
            {"model.attn_only": True, f"model.{name}": True},
            [f"model: {name}=True conflicts with attn_only=True", "allowed: one of the two"],
        )
        for name in ("parallel_attn_mlp", "gated_mlp")
    },
    "cycles shorter than a step": ({"train.warmup": 0, "train.cycles": 41}, ["cycles=41", "at most steps=40"]),
    "decay of all there is": ({"train.lr": 0.5, "train.weight_decay": 2}, ["lr=0.5", "weight_decay=2.0", "below 1"]),
    "half a surrogate": ({"language.templates": ("{subject} \ud800 {relation} {object}",)}, ["templates[0]=", "text"]),
    "no part": ({"corpus": 5}, ["corpus=5; allowed: CorpusConfig(...), or a dict of its settings, parallel"]),
    "another part": ({"changes": [{"corpus": {}}]}, ["changes[0].step is missing; allowed: whole number from 1"]),
    "activation": ({"model.act_fn": "tanh"}, ["model.act_fn='tanh'; allowed: 'gelu' or 'relu'"]),
}


# dials that leave each other nothing to decide -> what is told
CONFLICTS = {
    "share and number": (
        {"parallel": 0.2, "n_parallel": 7},
        ["parallel=0.2 and n_parallel=7", "how many facts", "allowed with this n_parallel: parallel=0.3"],
    ),
    "copies that are not there": (
        {"exposure_balance": 0.0, "copy_exposure": 0.5},
        ["copy_exposure=0.5 and exposure_balance=0.0", "no copy away from home", "copy_exposure=1.0"],
    ),
    "two that decide all": (
        {"home_bias": 1.0, "relation_bias": 0.5},
        ["relation_bias=0.5 and home_bias=1.0", "the subject decides every home"],
    ),
    **{
        f"{name} and objects": (
            {"object_skew": 1.0, name: 0.5},
            [f"{name}=0.5 and object_skew=1.0", "the object decides every home", f"{name}=0.0"],
        )
        for name in ("home_bias", "relation_bias")
    },
}
NO_CONFLICT = [
    {"parallel": 0.0, "exposure_balance": 0.5},
    {"parallel": 1.0, "object_skew": 1.0},
    {"parallel": 1.0, "home_bias": 1.0},
    {"object_skew": 1.0, "copy_exposure": 0.0, "relation_bias": 1.0},
    {"object_skew": 0.5, "home_bias": 1.0},
    {"parallel": 0.3, "n_parallel": 0},
]


@pytest.mark.parametrize(("dials", "told"), CONFLICTS.values(), ids=CONFLICTS)
def test_dials_that_conflict_are_named(dials, told):
    with pytest.raises(ValueError) as error:
        ul.CorpusConfig(**dials)
    for part in told:
        assert part in str(error.value)


@pytest.mark.parametrize("dials", NO_CONFLICT)
def test_dials_that_go_together_are_allowed(dials):
    ul.CorpusConfig(**dials)


def test_a_language_without_a_relation_is_refused():
    with pytest.raises(ValueError, match=r"corpus.relation_bias=0.5 and world.n_relations=3 conflict: .* from 4 on"):
        tiny(**{"corpus.relation_bias": 0.5, "language.n_languages": 4})


@pytest.mark.parametrize(("values", "told"), BAD.values(), ids=BAD)
def test_refusals_name_field_value_and_what_is_allowed(values, told):
    with pytest.raises(ValueError) as error:
        tiny(**values)
    for part in told:
        assert part in str(error.value)


@pytest.mark.parametrize("call", ["replace", "sweep"])
@pytest.mark.parametrize(
    ("name", "nearest"),
    [("corpus.paralel", "corpus.parallel"), ("sed", "seed"), ("seed.x", "seed")],
)
def test_unknown_names_suggest_the_nearest(call, name, nearest):
    with pytest.raises(ValueError, match=re.escape(f"{name!r} is not a field")) as error:
        tiny().replace(**{name: 0}) if call == "replace" else ul.sweep(tiny(), over={name: [0]}, progress=False)
    assert all(allowed in str(error.value) for allowed in OTHER_VALUES)
    assert f"Did you mean {nearest!r}?" in str(error.value)


@pytest.mark.parametrize(
    ("config", "name", "nearest"),
    [
        (ul.WorldConfig, "subjects", "n_subjects"),
        (ul.CorpusConfig, "paralell", "parallel"),
        (ul.ModelConfig, "n_layer", "n_layers"),
        (ul.TrainConfig, "weight_deca", "weight_decay"),
        (ul.Experiment, "trian", "train"),
    ],
)
def test_unknown_fields_suggest_the_nearest(config, name, nearest):
    with pytest.raises(ValueError) as error:
        config(**{name: 1})
    assert f"{config.__name__} has no field {name!r}. Did you mean {nearest!r}?" in str(error.value)
    assert all(allowed in str(error.value) for allowed in config.model_fields)


def test_sweep_refuses_a_setting_without_values():
    with pytest.raises(ValueError, match=r"over\['corpus.parallel'\] is empty; allowed: at least one value"):
        ul.sweep(tiny(), over={"seed": [0], "corpus.parallel": []}, progress=False)


@pytest.mark.parametrize(("name", "value"), [("seed", 5), ("train.schedule", "cosine")])
def test_sweep_refuses_a_setting_that_is_no_list(name, value):
    with pytest.raises(ValueError) as error:
        ul.sweep(tiny(), over={name: value}, progress=False)
    assert f"over[{name!r}]={value!r} is one value; allowed: a list" in str(error.value)


# --- schedules -----------------------------------------------------------------------------------------------


def lrs(**values):
    config = TrainConfig(**{"steps": 100, "warmup": 10, "lr": 2e-3, **values})
    return np.array([config.lr_at(step) for step in range(config.steps)])


def test_warm_up_is_linear_and_ends_at_the_peak():
    np.testing.assert_allclose(lrs()[:10], 2e-3 * np.arange(1, 11) / 10, rtol=1e-12)
    assert lrs(warmup=0)[0] == 2e-3


def test_cosine_falls_from_the_peak_to_its_end_value():
    rates = lrs(final_lr=0.1)
    assert rates[10] == rates.max() == 2e-3
    assert (np.diff(rates[10:]) < 0).all()
    half = 10 + 90 // 2
    assert rates[half] == pytest.approx(2e-3 * (1 + 0.1) / 2)
    assert 0.1 * 2e-3 < rates[-1] < 0.101 * 2e-3


def test_constant_stays_at_the_peak():
    assert set(lrs(schedule="constant")[10:]) == {2e-3}


def test_a_line_falls_from_the_peak_to_its_end_value():
    rates = lrs(schedule="linear", final_lr=0.1)
    assert rates[10] == 2e-3
    np.testing.assert_allclose(np.diff(rates[10:]), -0.9 * 2e-3 / 90, rtol=1e-9)


def test_once_is_one_cycle_of_the_cosine_and_then_its_last_rate():
    rates = lrs(cycles=2, schedule="once", final_lr=0.1)
    assert (rates[:50] == lrs(cycles=2)[:50]).all()
    np.testing.assert_allclose(rates[50:], 0.1 * 2e-3, rtol=1e-12)
    assert (lrs(schedule="once") == lrs()).all()


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant", "once"])
def test_the_decay_that_is_left_is_what_shrinks_a_weight(schedule):
    config = TrainConfig(steps=100, warmup=10, lr=2e-3, weight_decay=3.0, schedule=schedule, cycles=2)
    weight = np.prod([1 - config.lr_at(step) * 3.0 for step in range(60, 100)])
    assert config.decay_left(60) == pytest.approx(-np.log(weight), rel=1e-12)
    assert config.decay_left(100) == 0 and TrainConfig(weight_decay=0.0).decay_left(0) == 0
    assert config.decay_left(0) > config.decay_left(60)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_cycles_repeat_exactly(schedule):
    rates = lrs(cycles=2, schedule=schedule)
    assert (rates[:50] == rates[50:]).all() and rates[0] < rates[10]


@pytest.mark.parametrize(("steps", "warmup", "cycles"), [(100, 10, 3), (97, 6, 4), (40, 5, 7)])
def test_no_cycle_exceeds_the_peak(steps, warmup, cycles):
    rates = lrs(steps=steps, warmup=warmup, cycles=cycles)
    assert 0 < rates.min() and rates.max() == 2e-3
    assert (rates == 2e-3).sum() >= cycles


@pytest.mark.parametrize("steps", [1, 7, 40, 900, 20_000])
@pytest.mark.parametrize("n", [2, 3, 8, 32])
def test_evaluations_and_checkpoints_are_log_spaced_up_to_the_end(steps, n):
    config = TrainConfig(steps=steps, warmup=0, n_evaluations=n, n_checkpoints=n)
    evaluations, checkpoints = config.evaluation_steps(), config.checkpoint_steps()
    for found in (evaluations, checkpoints):
        assert found == sorted(set(found)) and found[-1] == steps and len(found) <= n
        assert all(isinstance(step, int) for step in found)
    assert evaluations[0] == 0 and checkpoints[0] > 0
    if steps == 20_000 and n > 3:
        assert len(evaluations) == len(checkpoints) == n
        for found in (evaluations[1:], checkpoints):
            ratios = np.array(found[1:]) / found[:-1]
            np.testing.assert_allclose(ratios, ratios.mean(), rtol=0.02)


def test_a_single_checkpoint_is_the_last():
    assert TrainConfig(n_checkpoints=1).checkpoint_steps() == [900]


KEYS = {
    "13966f7b49948040b638": {},
    "825cac029c4e2f49c9a0": {"seed": 3},
    "3e400354995b51e5b732": {"corpus": {"parallel": 0.1}},
    "06540a9441b9111cfefd": {"corpus.parallel": 0.1 + 0.2},
    "b43fe09b13f80e739628": {"interventions": [ul.Intervention(name="balance_objects", share=0.5)], "seed": 7},
    "dbd3122116325a0b05de": {"changes": [ul.CorpusChange(step=10, corpus=ul.CorpusConfig(parallel=0))]},
    "d5284051e72415b4a78f": {
        "language.templates": ("topic", "plain"),
        "model.normalization": None,
        "train.betas": (0.9, 0.99),
    },
    "e6f0a4441bd383f60be6": {"tokenizer": ul.TokenizerConfig(scheme="bpe", vocab_size=150)},
    "043a7a1bbfdc86d92f57": {"real": {"sources": "babel 2.18.0, country-converter 1.3.2, anyascii 0.3.3"}},
}
"""Keys under which runs lie in stores."""


@pytest.mark.parametrize("key", KEYS)
def test_keys_are_those_of_stored_runs(key):
    assert ul.Experiment().replace(**KEYS[key]).key(2) == key


def test_numpy_values_make_the_same_experiment():
    values = {"seed": np.int64(3), "corpus.parallel": np.float64(0.1), "train.betas": np.array([0.9, 0.95])}
    experiment = tiny(**values)
    assert experiment == tiny(**{"seed": 3, "corpus.parallel": 0.1, "train.betas": (0.9, 0.95)})
    assert type(experiment.seed) is int and type(experiment.corpus.parallel) is float
    assert "np." not in repr(experiment) and ul.Experiment(seed=np.int64(3)).key(2) == ul.Experiment(seed=3).key(2)


def test_parts_may_be_given_as_dicts():
    assert ul.Experiment(corpus={"parallel": 0.1}) == ul.Experiment(corpus=ul.CorpusConfig(parallel=0.1))


@pytest.mark.parametrize("name", ["parallel", "corpus.parallel"])
def test_a_field_of_a_part_is_told_with_its_part(name):
    with pytest.raises(ValueError, match=rf"no field '{name}'. Write corpus=CorpusConfig\(parallel=...\)"):
        ul.Experiment(**{name: 0.3})


@pytest.mark.parametrize("call", ["replace", "sweep"])
def test_a_name_without_its_part_suggests_the_part(call):
    with pytest.raises(
        ValueError, match=r"'d_model' is not a field of an experiment\. Did you mean 'model\.d_model'\?"
    ):
        tiny().replace(d_model=8) if call == "replace" else ul.sweep(tiny(), over={"d_model": [8]})


def test_frozen_settings_say_how_a_changed_copy_is_made():
    experiment = ul.Experiment()
    with pytest.raises(ValueError, match=r"experiment.replace\(\*\*{'corpus.parallel': 0.5}\)"):
        experiment.corpus.parallel = 0.5
    with pytest.raises(ValueError, match=r"experiment.replace\(seed=5\)"):
        experiment.seed = 5
    with pytest.raises(ValueError, match="a new Intervention"):
        ul.Intervention(name="mark_language").name = "code_switch"
    assert experiment == ul.Experiment()


# --- kinds of values -----------------------------------------------------------------------------------------


def kind_of(name):
    """The plain type of a setting's values, tuples' values included; None for one of several words."""
    value = OTHER_VALUES[name]
    value = value[0] if isinstance(value, tuple) else value
    return None if isinstance(value, str) and not name.endswith("templates") else type(value)


HOLDERS = {"real", "changes", "interventions", "start", "train.state_losses", "train.sparse", "corpus.late"}
"""Settings that hold settings."""


@pytest.mark.parametrize("name", sorted(set(OTHER_VALUES) - HOLDERS))
def test_a_value_of_another_kind_is_refused_by_name(name):
    several = isinstance(OTHER_VALUES[name], tuple)
    others = [True, "1", b"1", 1.5, 1, {1}, {"a": 1}, datetime.date(2020, 1, 1), object(), 1j, range(3)]
    for other in others:
        if type(other) is kind_of(name) or (kind_of(name) is float and type(other) is int):
            continue
        value = (other,) * len(OTHER_VALUES[name]) if several else other
        with pytest.raises(ValueError) as error:
            tiny(**{name: value})
        assert re.match(rf"{re.escape(name)}(\[0\])?=.*; allowed: ", str(error.value)), (other, str(error.value))
    if several:
        for values in (set(OTHER_VALUES[name]), frozenset(OTHER_VALUES[name]), iter(OTHER_VALUES[name])):
            with pytest.raises(ValueError, match=rf"{re.escape(name)}=.*; allowed: tuple, "):
                tiny(**{name: values})


EQUAL = {
    "corpus.parallel": [0, 0.0, -0.0, np.float64(-0.0), np.int64(0)],
    "corpus.copy_exposure": [0, -0.0, torch.tensor(0.0)],
    "train.weight_decay": [1, 1.0, np.float32(1)],
    "train.betas": [(0, 0.5), [-0.0, 0.5], np.array([0, 0.5])],
    "seed": [3, 3.0, np.int8(3), np.float64(3), torch.tensor(3), pd.Series([3.0, np.nan])[0]],
    "model.attn_only": [True, np.True_, torch.tensor(True)],
    "language.templates": [("of", "has"), ["of", "has"], np.array(["of", "has"]), pd.Series(["of", "has"])],
}


@pytest.mark.parametrize("name", EQUAL)
def test_equal_values_have_one_key(name):
    experiments = [tiny(**{name: value}) for value in EQUAL[name]]
    assert len({e.key(2) for e in experiments}) == len({e.model_dump_json() for e in experiments}) == 1
    again = [ul.Experiment.model_validate_json(e.model_dump_json()).key(2) for e in experiments]
    assert set(again) == {experiments[0].key(2)}


def test_what_json_holds_is_checked_as_strictly():
    for text, told in [
        ('{"seed": true}', "seed=True; allowed: whole number"),
        ('{"corpus": {"parallel": "0.5"}}', "corpus.parallel='0.5'; allowed: number from 0 to 1."),
        ('{"seed": 1', "Experiment from JSON: "),
        ("[]", "Experiment=[]; allowed: "),
    ]:
        with pytest.raises(ValueError) as error:
            ul.Experiment.model_validate_json(text)
        assert str(error.value).startswith(told)


def test_a_copy_is_checked_too():
    assert ul.CorpusConfig(parallel=0.1).model_copy(update={"object_skew": 1}) == ul.CorpusConfig(
        parallel=0.1, object_skew=1
    )
    for update, told in [({"parallel": 2}, "parallel=2; allowed"), ({"paralel": 0.1}, "no field 'paralel'")]:
        with pytest.raises(ValueError, match=told):
            ul.CorpusConfig().model_copy(update=update)


def test_many_faults_are_told_in_few_sentences():
    with pytest.raises(ValueError) as error:
        ul.LanguageConfig(templates=[1] * 30)
    assert len(str(error.value).splitlines()) == 6 and "(and 25 more of the kind)" in str(error.value)


# --- odd experiments -----------------------------------------------------------------------------------------


def test_odd_experiments_are_refused_in_words_or_train():
    with odd_configs.little_memory():
        outcomes = [odd_configs.outcome(odd_configs.odd_settings(number)) for number in range(60)]
    assert not [text for kind, text in outcomes if kind == "fault"]
    assert {"refused at once", "trained"} <= {kind for kind, _ in outcomes}


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda experiment: 1 / 0, "ZeroDivisionError"),
        (lambda experiment: np.zeros(2) + np.zeros(3), "not our own sentence"),
        (lambda experiment: Member.unknown("what is wrong"), "AttributeError"),
        (lambda experiment: warnings.warn("overflow", RuntimeWarning, stacklevel=1), "RuntimeWarning"),
    ],
)
def test_what_is_no_sentence_of_ours_is_a_fault(monkeypatch, spoil, told):
    monkeypatch.setattr(odd_configs.Member, "of", spoil)
    kind, text = odd_configs.outcome({"seed": 1})
    assert kind == "fault" and told in text


def test_a_corpus_larger_than_the_memory_is_refused_before_it_is_built(monkeypatch):
    monkeypatch.setattr("unifylens.corpus.corpus._build", lambda **parts: pytest.fail("was built"))
    with odd_configs.little_memory(), pytest.raises(MemoryError) as error:
        ul.Corpus.build(tiny(**{"world.n_subjects": 1_000_000}))
    assert "256.0 MiB are free" in str(error.value) and "world.n_subjects=1000000" in str(error.value)


def test_words_that_run_out_are_told(monkeypatch):
    with pytest.raises(ValueError, match=r"language\.syllables: 20000 words of 2 syllables are due, .* left after 0"):
        ul.Corpus.build(tiny(**{"world.n_relations": 20_000, "world.n_objects": 2, "language.syllables": (3, 1, 3)}))
    monkeypatch.setattr("unifylens.corpus.language.PATIENCE", 3)
    with pytest.raises(ValueError, match=r"100 words of 1 syllables are due, .* left after \d\d; allowed: more syll"):
        _invent_words(100, rng(0, "words"), set(), 1, [])
