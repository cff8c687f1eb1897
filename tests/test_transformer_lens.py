"""One dish under both TransformerLens 3 and 4: the same weights, the same numbers, one store.

`tests/data/hooked` is a run made with TransformerLens 3.9, with what its model says; there
`python tests/test_transformer_lens.py` makes it anew.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import transformer_lens
from conftest import native_shape, tiny, weights
from safetensors.torch import load_file, save_file
from transformer_lens.model_bridge import TransformerBridge

import unifylens as ul
from unifylens import native
from unifylens.model import HOOKED, initial_parameters, n_parameters, shape_of, untrained, with_parameters
from unifylens.training import store
from unifylens.training.stack import OneByOne, Stacked, unsupported

STORED = Path(__file__).parent / "data" / "hooked"
SAID = "said.safetensors"
TOKENS = torch.randint(0, 23, (5, 7), generator=torch.Generator().manual_seed(0))

needs_hooked = pytest.mark.skipif(not HOOKED, reason="HookedTransformer is TransformerLens 3's")
needs_bridge = pytest.mark.skipif(HOOKED, reason="HookedTransformer computes them all")
kinds = pytest.mark.parametrize(
    "fields",
    [
        {},
        {"act_fn": "relu", "normalization": None},
        {"act_fn": "silu", "normalization": "LNPre"},
        {"act_fn": "gelu_new", "normalization": "RMSPre", "n_heads": 1},
        {"local_blocks": 1},
        {"local_blocks": 2, "positional_embedding_type": "rotary"},
        {"positional_embedding_type": "rotary", "normalization": "RMS"},
        {"attn_only": True},
        {"gated_mlp": True, "normalization": "RMS"},
    ],
    ids=str,
)


def config(**fields):
    return ul.ModelConfig(**{"d_model": 24, "n_layers": 3, "n_heads": 3, "d_mlp": 20, **fields})


def shape(**fields):
    return shape_of(config(**fields), 23, 7)


def far_from_zero(shape):
    """Parameters of which none can be left out unnoticed."""
    generator = torch.Generator().manual_seed(1)
    return {n: p + 0.2 * torch.randn(p.shape, generator=generator) for n, p in initial_parameters(shape).items()}


def one(parameters):
    """With a leading K of 1."""
    return {name: p[None] for name, p in parameters.items()}


@dataclass
class Said:
    """What a run's model answers, and its states."""

    logits: torch.Tensor
    states: torch.Tensor

    @classmethod
    def by(cls, run):
        with torch.no_grad():
            return cls(run.model(run.corpus.prompts())[:, -1].contiguous(), ul.states(run.model, run.corpus, range(8)))


# --- weights -------------------------------------------------------------------------------------------------


@needs_hooked
@kinds
@pytest.mark.parametrize("seed", [0, 3])
@pytest.mark.parametrize("more", [{}, {"parallel_attn_mlp": True}, {"d_model": 6, "d_mlp": 2}], ids=str)
def test_models_begin_with_the_numbers_that_a_hooked_transformer_draws(fields, seed, more):
    if {"attn_only", "parallel_attn_mlp"} <= fields.keys() | more.keys():
        pytest.skip("refused: there is no MLP to be parallel")
    own, theirs = initial_parameters(shape(**fields, **more), seed), untrained(shape(**fields, **more), seed)
    assert list(own) == [name for name, _ in theirs.named_parameters()]
    assert all(torch.equal(own[name], p) and own[name].dtype == p.dtype for name, p in theirs.named_parameters())


@kinds
def test_initial_weights_depend_on_the_seed_alone(fields):
    before = torch.get_rng_state()
    one, again, other = (initial_parameters(shape(**fields), seed) for seed in (1, 1, 2))
    models = [untrained(shape(**fields), 1), with_parameters(shape(**fields), one)]
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(p, again[name]) for name, p in one.items())
    assert not any(torch.equal(p, other[name]) for name, p in one.items() if ".W_" in name)
    assert torch.equal(models[0](TOKENS), models[1](TOKENS))


# --- models --------------------------------------------------------------------------------------------------

APART = ("attn_scores", "rot_q", "rot_k")  # what a native model has not, or counts otherwise


@needs_hooked
@kinds
@torch.no_grad()
def test_a_bridge_computes_what_a_hooked_transformer_does(fields):
    parameters = far_from_zero(shape(**fields))
    hooked = with_parameters(shape(**fields), parameters)
    bridge = native.bridge(native_shape(shape(**fields)), parameters)
    logits, cache = hooked.run_with_cache(TOKENS)
    found, theirs = bridge.run_with_cache(TOKENS)
    torch.testing.assert_close(found, logits, rtol=1e-5, atol=1e-5)
    apart = APART + ("hook_q", "hook_k") * ("rotary" in fields.values()) + ("hook_post",) * ("gated_mlp" in fields)
    for name in cache:
        if not name.endswith(apart):
            torch.testing.assert_close(theirs[name], cache[name], rtol=1e-4, atol=1e-4, msg=name)


@kinds
def test_models_compute_what_the_stack_trains(fields):
    model = with_parameters(shape(**fields), far_from_zero(shape(**fields)))
    assert type(model) is (transformer_lens.HookedTransformer if HOOKED else TransformerBridge)
    own, due = far_from_zero(shape(**fields)), TOKENS.roll(1, 1)
    plain = OneByOne(shape(**fields))
    output = plain.forward(one(own), TOKENS[None])
    torch.testing.assert_close(output.logits[0], model(TOKENS), rtol=1e-5, atol=1e-5)
    assert len(output.residual) == 3
    losses, gradients = plain.loss_and_gradients(one(own), TOKENS[None], due[None])
    assert gradients.keys() == own.keys()
    if unsupported(shape(**fields)) is None:
        stacked = Stacked(shape(**fields))
        atol = 1e-5 * float(output.logits.abs().max())
        torch.testing.assert_close(stacked.forward(one(own), TOKENS[None]).logits, output.logits, rtol=0, atol=atol)
        expected, theirs = stacked.loss_and_gradients(one(own), TOKENS[None], due[None])
        torch.testing.assert_close(losses, expected)
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, theirs[name], rtol=1e-3, atol=1e-4, msg=name)


@kinds
def test_all_its_parameters_are_trained(fields):
    model = with_parameters(shape(**fields), far_from_zero(shape(**fields)))
    model(TOKENS).sum().backward()
    assert all(p.requires_grad for p in model.parameters())
    if not fields.get("gated_mlp"):  # whose inner biases a bridge has in those that follow
        assert n_parameters(config(**fields), 23, 7) == sum(p.numel() for p in model.parameters())


@needs_bridge
@pytest.mark.parametrize(("field", "value"), [("parallel_attn_mlp", True), ("act_fn", "gelu_fast")])
def test_what_a_bridge_does_not_compute_is_refused(field, value):
    with pytest.raises(ValueError, match=rf"{field}={value!r} needs TransformerLens 3\.9 .*allowed with 4\..*: "):
        ul.build_model(ul.ModelConfig(**{field: value}), 23, 7)
    with (
        pytest.warns(UserWarning, match=f"{field}={value!r} is not computed by the stack"),
        pytest.raises(ValueError, match=rf"{field}={value!r} needs TransformerLens 3\.9"),
    ):
        ul.train(tiny(**{f"model.{field}": value}), progress=False)


@pytest.mark.parametrize("field", ["attn_only", "gated_mlp"])
@pytest.mark.filterwarnings("ignore:.* is not computed by the stack")
def test_shapes_that_the_stack_does_not_compute_are_trained(field):
    run = ul.train(tiny(**{f"model.{field}": True}), progress=False)
    assert run.final["loss"] < 0.7 * run.history["loss"].iloc[0]
    questions = run.corpus.prompts()
    right = (run.model(questions)[:, -1].argmax(-1) == run.corpus.answers).float().mean()
    assert right == pytest.approx(float((run.corpus.seen * 1.0).mean()), abs=0.5)


# --- the store -----------------------------------------------------------------------------------------------


@pytest.fixture
def stored(empty_store):
    """The run that was made with TransformerLens 3.9, in the store."""
    experiment = ul.Experiment.model_validate_json((STORED / "experiment.json").read_text())
    shutil.copytree(STORED, store.folder_of(experiment), ignore=lambda *_: [SAID])
    return store.load(experiment)


def test_a_run_made_with_transformer_lens_3_is_read(stored):
    expected, found = Said(**load_file(STORED / SAID)), Said.by(stored)
    torch.testing.assert_close(found.logits, expected.logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.states, expected.states, rtol=0, atol=1e-5)
    assert ul.transfer(stored.model, stored.corpus).notna().all(axis=None)
    untrained = ul.unification(stored.model, stored.corpus)["untrained"]
    assert untrained.between(-1, 1).all()


def test_a_run_made_now_is_the_same_and_is_written_alike(stored, tmp_path, monkeypatch):
    monkeypatch.setenv("UNIFYLENS_HOME", str(tmp_path / "another"))
    run = ul.train(stored.experiment, progress=False)
    assert run.folder != stored.folder and run.steps == stored.steps
    own, theirs = (load_file(folder / store.WEIGHTS) for folder in (run.folder, stored.folder))
    assert {name: (p.shape, p.dtype) for name, p in own.items()} == {n: (p.shape, p.dtype) for n, p in theirs.items()}
    for name, p in weights(run).items():
        if not name.endswith("b_K"):  # which softmax ignores
            torch.testing.assert_close(p, weights(stored)[name], rtol=0, atol=1e-4, msg=name)


if __name__ == "__main__":
    run = ul.train(tiny(**{"train.n_checkpoints": 1, "train.steps": 20}), progress=False)
    shutil.rmtree(STORED, ignore_errors=True)
    shutil.copytree(run.folder, STORED)
    save_file(vars(Said.by(run)), STORED / SAID)
