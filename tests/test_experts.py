"""Mixtures of experts: their weights, their training, and which languages share which experts."""

import copy

import numpy as np
import pytest
import torch
from conftest import quietly, tiny

import unifylens as ul
from unifylens import native
from unifylens.corpus.corpus import Corpus
from unifylens.crosslingual import routing
from unifylens.model import HOOKED, initial_parameters, n_parameters, shape_for, untrained, with_parameters
from unifylens.training.cost import Member

pytestmark = [
    pytest.mark.skipif(not HOOKED, reason="HookedTransformer is TransformerLens 3's"),
    pytest.mark.filterwarnings("ignore:num_experts=.* is not computed by the stack"),
]


def mixture(**changes):
    return tiny(**{"model.n_experts": 4, "model.d_mlp": 16} | changes)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNIFYLENS_HOME", str(tmp_path_factory.mktemp("mixture")))
        return quietly(mixture(**{"train.steps": 120}))[0]


def test_its_weights_are_those_of_transformer_lens_by_name_and_size():
    corpus = Corpus.build(mixture())
    shape = shape_for(mixture().model, corpus)
    own, model = initial_parameters(shape, 3), untrained(shape, 3)
    theirs = dict(model.named_parameters())
    assert list(own) == list(theirs)
    assert all(torch.equal(p, theirs[name]) and p.shape == theirs[name].shape for name, p in own.items())
    assert n_parameters(mixture().model, corpus.d_vocab, corpus.n_ctx) == sum(p.numel() for p in theirs.values())
    assert torch.equal(ul.untrained_like(model, 3).blocks[1].mlp.W_gate.weight, model.blocks[1].mlp.W_gate.weight)


def test_the_router_has_a_gradient_as_two_experts_are_weighed():
    corpus = Corpus.build(mixture())
    shape = shape_for(mixture().model, corpus)
    gradients = {}
    for n in (1, 2):
        one = copy.copy(shape)
        one.experts_per_token = n
        model = with_parameters(one, initial_parameters(shape, 1))
        model(corpus.prompts()).square().sum().backward()
        gradients[n] = float(model.blocks[0].mlp.W_gate.weight.grad.abs().max())
    assert gradients[1] < 1e-7 * gradients[2] and gradients[2] > 0


def test_what_is_trained_is_what_is_stored_loaded_and_evaluated(run):
    assert run.final["loss"] < 0.7 * run.history["loss"][0] and run.final["recall"] > 0.5
    seen = torch.tensor(run.corpus.seen.ravel())
    for model in (run.model, ul.train(run.experiment, progress=False).checkpoint(120)):
        right = model(run.corpus.prompts())[:, -1].argmax(-1) == run.corpus.answers
        assert right[seen].float().mean() == pytest.approx(run.final["recall"], abs=1e-6)
    assert ul.transfer(run).notna().all(axis=None)
    moved = initial_parameters(shape_for(run.experiment.model, run.corpus), 0)
    assert all(not torch.equal(p, moved[name]) for name, p in run.parameters(120).items())


def test_its_cost_is_known():
    plain, own = Member.of(tiny(**{"model.d_mlp": 16})), Member.of(mixture())
    assert own.run_bytes > plain.run_bytes and own.flops > plain.flops and own.memory.step > plain.memory.step


# --- routing -----------------------------------------------------------------------------------------------------


def planted(experts_of):
    """A model whose router knows the language alone, after the relation's word, and a corpus; experts by language."""
    experiment = mixture(**{"language.shared_subjects": 0.0, "model.normalization": None})
    corpus = Corpus.build(experiment)
    shape = shape_for(experiment.model, corpus)
    parameters = {name: torch.zeros_like(p) for name, p in initial_parameters(shape).items()}
    for language, (first, second) in enumerate(experts_of):
        parameters["embed.W_E"][corpus.token_language == language, language] = 1.0
        for block in range(2):
            router = parameters[f"blocks.{block}.mlp.W_gate.weight"]
            router[first, language], router[second, language] = 9.0, 8.0
    return with_parameters(shape, parameters), corpus


@pytest.mark.parametrize(
    ("experts_of", "between", "same"), [([(0, 1), (2, 3)], 1.0, 0.0), ([(0, 1), (0, 1)], 0.0, 1.0)]
)
def test_disjoint_experts_are_one_bit_apart_and_equal_ones_none(experts_of, between, same):
    model, corpus = planted(experts_of)
    table = routing(model, corpus)
    assert table[["block", "role"]].to_numpy().tolist() == [
        [block, role] for block in range(2) for role in ("subject", "relation", "answer")
    ]
    for column, expected in {"between": between, "within": 0.0, "same": same, "chance": same}.items():
        np.testing.assert_allclose(table[column], expected, atol=1e-6)


def test_one_shared_expert_lies_between():
    """First experts differ, the second is shared: of weights w and 1 - w, w is apart."""
    model, corpus = planted([(0, 1), (2, 1)])
    first = float(torch.tensor([9.0, 8.0]).softmax(0)[0])
    np.testing.assert_allclose(routing(model, corpus)["between"], first, atol=1e-6)


def test_a_trained_routers_columns_are_shares_and_bits(run):
    table = routing(run.model, run.corpus, run.corpus.parallel)
    values = table[["between", "within", "same", "chance"]]
    assert ((values >= 0) & (values <= 1)).all(axis=None)
    subject = table[(table["role"] == "subject") & (table["block"] == 0)]
    assert (subject["same"] == 1).all() and np.allclose(subject["between"], 0), "subjects are the same tokens"
    assert routing(run.model, run.corpus, seed=1)["between"].equals(routing(run.model, run.corpus)["between"])


# --- what is refused ---------------------------------------------------------------------------------------------


def test_what_cannot_be_compared_or_built_is_refused(run):
    other = Corpus.build(tiny())
    model = ul.build_model(tiny().model, other.d_vocab, other.n_ctx)
    with pytest.raises(ValueError, match=r"the model has num_experts=None; allowed: a model with experts"):
        routing(model, other)
    with pytest.raises(ValueError, match="facts are 1 in 2 languages; allowed: two or more of both"):
        routing(run.model, run.corpus, [3])
    for name, value in (("attn_only", True), ("gated_mlp", True), ("language_neurons", 2)):
        with pytest.raises(ValueError, match=f"n_experts=4 conflicts with {name}={value}: experts are MLPs of their"):
            mixture(**{f"model.{name}": value})
    with pytest.raises(ValueError, match=r"num_experts=4 needs TransformerLens 3\.9 .*: None"):
        native.bridge(run.model.cfg, {})


def test_what_is_left_alone_has_the_key_that_it_had():
    assert tiny(**{"model.n_experts": None}).key(3) == tiny().key(3) != mixture().key(3)
