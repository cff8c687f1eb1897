"""A module per language in each MLP: who is served, what it computes, and that it stays so on every way to a model."""

import copy
import pickle

import pytest
import torch
from conftest import quietly, tiny
from hypothesis import given, settings
from hypothesis import strategies as st

import unifylens as ul
from unifylens.corpus.corpus import Corpus
from unifylens.model import (
    HOOKED,
    LanguageModules,
    build_model,
    initial_parameters,
    shape_for,
    shape_of,
    with_parameters,
)
from unifylens.patching.stream import can_resume, run_prompts
from unifylens.training.alignment import Alignment
from unifylens.training.cost import Member
from unifylens.training.stack import Stacked, stack_parameters, token_languages

pytestmark = pytest.mark.skipif(not HOOKED, reason="modules are gates in a HookedTransformer")

N = 8
"""Neurons of each module."""


def modular(**changes):
    return tiny(**{"model.language_neurons": N} | changes)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNIFYLENS_HOME", str(tmp_path_factory.mktemp("modular")))
        return quietly(modular(**{"train.steps": 120}))[0]


# --- the language of a prompt ------------------------------------------------------------------------------------


@settings(max_examples=50)
@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 4), st.integers(0, 999))
def test_the_last_token_of_one_language_alone_decides(n_models, n_pos, n_languages, seed):
    generator = torch.Generator().manual_seed(seed)
    known = torch.randint(-1, n_languages, (n_models, 9), generator=generator)
    tokens = torch.randint(9, (n_models, 6, n_pos), generator=generator)
    gate = LanguageModules(2, n_languages, known[0]).gate(tokens, known)
    assert gate.shape == (n_models, 6, 2 * n_languages)
    for model, rows in enumerate(tokens.tolist()):
        for row, prompt in enumerate(rows):
            told = [language for token in prompt if (language := int(known[model, token])) >= 0]
            expected = [bool(told) and neuron // 2 == told[-1] for neuron in range(2 * n_languages)]
            assert gate[model, row].tolist() == expected


def test_a_corpus_tells_whose_tokens_are_whose():
    corpus = Corpus.build(modular(**{"language.language_token": True, "language.n_languages": 3}))
    for index, language in enumerate(corpus.languages):
        own = corpus.tokenizer.encode([f"<{language.name}>", *language.relations, *language.objects], index)
        assert (corpus.token_language[own] == index).all()
        assert (corpus.token_language[corpus.tokenizer.encode(language.subjects, index)] == -1).all(), "shared"
    assert corpus.token_language[corpus.tokenizer.special["<bos>"]] == -1
    assert ((corpus.token_language >= 0) == corpus.language_revealing).all()


# --- what is computed --------------------------------------------------------------------------------------------


def test_the_languages_own_module_alone_answers():
    """Shared neurons write nothing; each module always says another token, which is then the answer to all prompts."""
    experiment = modular(**{"language.n_languages": 3})
    corpus = Corpus.build(experiment)
    shape = shape_for(experiment.model, corpus)
    parameters = {name: torch.zeros_like(p) for name, p in initial_parameters(shape).items()}
    said = torch.tensor([11, 12, 13])
    parameters["ln_final.w"] += 1
    last = "blocks.1.mlp"
    parameters[f"{last}.b_in"] += 1  # all neurons are on
    own = slice(32 - 3 * N, None)
    parameters[f"{last}.W_out"][: own.start] = 0
    for language in range(3):
        rows = slice(own.start + language * N, own.start + (language + 1) * N)
        parameters[f"{last}.W_out"][rows, language] = 1
        parameters["unembed.W_U"][language, said[language]] = 1
    model = with_parameters(shape, parameters)
    prompts = corpus.prompts()
    language = torch.arange(corpus.n_rows) // corpus.n_facts
    assert torch.equal(model(prompts)[:, -1].argmax(-1), said[language])
    stacked = Stacked(shape).forward(stack_parameters([parameters]), prompts[None], slice(2, 3), 1)
    assert torch.equal(stacked.logits[0, :, 0].argmax(-1), said[language])
    neurons = model.run_with_cache(prompts)[1][f"{last}.hook_post"]
    on = neurons[:, :, own].unflatten(2, (3, N)) > 0
    assert torch.equal(on, (language[:, None] == torch.arange(3))[:, None, :, None].expand_as(on))
    assert (neurons[:, :, : own.start] > 0).all()


def test_other_languages_modules_have_no_gradient():
    corpus = Corpus.build(modular())
    model = build_model(modular().model, corpus.d_vocab, corpus.n_ctx, 0, torch.tensor(corpus.token_language))
    model(corpus.prompts(range(corpus.n_facts))).square().sum().backward()
    for block in model.blocks:
        assert block.mlp.W_out.grad[-2 * N : -N].abs().sum() > 0 and not block.mlp.W_out.grad[-N:].any()
        assert not block.mlp.W_in.grad[:, -N:].any() and not block.mlp.b_in.grad[-N:].any()


def test_without_modules_the_same_weights_compute_something_else(run):
    plain = with_parameters(shape_of(tiny().model, run.corpus.d_vocab, run.corpus.n_ctx), run.parameters(120))
    prompts = run.corpus.prompts()
    assert (plain(prompts) - run.model(prompts)).abs().max() > 0.1
    for p in (plain.blocks[0].mlp.W_out, plain.blocks[1].mlp.W_out):  # of the second language's module
        p.data[-N:] = 0
    first = prompts[: run.corpus.n_facts]
    torch.testing.assert_close(plain(first), run.model(first))


# --- on every way to a model -------------------------------------------------------------------------------------


def test_what_is_trained_is_what_is_stored_loaded_and_evaluated(run):
    seen = torch.tensor(run.corpus.seen.ravel())
    again = ul.train(run.experiment, progress=False)
    for model in (run.model, again.checkpoint(120), copy.deepcopy(run.model), pickle.loads(pickle.dumps(run.model))):
        right = model(run.corpus.prompts())[:, -1].argmax(-1) == run.corpus.answers
        assert right[seen].float().mean() == pytest.approx(run.final["recall"], abs=1e-6)
        assert right[~seen].float().mean() == pytest.approx(run.final["transfer"], abs=1e-6)
    assert run.final["recall"] > 0.6
    assert ul.transfer(run).notna().all(axis=None)
    assert ul.unification(run.model, run.corpus)["untrained"].notna().all()
    control = ul.untrained_like(run.model, 3)
    assert type(control) is type(run.model) and torch.equal(control.token_language, run.model.token_language)


def test_members_of_a_stack_have_their_own_tables():
    some = {"language.shared_subjects": 0.5}
    several = quietly(modular(**some), modular(seed=1, **some))
    assert len({Member.of(run.experiment).key for run in several}) == 1
    tables = [torch.tensor(run.corpus.token_language) for run in several]
    assert not torch.equal(*tables)
    for run in several:
        right = (run.model(run.corpus.prompts())[:, -1].argmax(-1) == run.corpus.answers).float()
        assert right[torch.tensor(run.corpus.seen.ravel())].mean() == pytest.approx(run.final["recall"], abs=1e-6)


@pytest.mark.filterwarnings("ignore:.* is not computed by the stack")
def test_shapes_that_train_one_by_one_have_modules_too():
    (stacked,) = quietly(modular())
    for fields in ({"model.act_fn": "silu"}, {"model.gated_mlp": True}):
        for run in quietly(modular(**fields), modular(seed=1, **fields)):
            right = (run.model(run.corpus.prompts())[:, -1].argmax(-1) == run.corpus.answers).float()
            assert right[torch.tensor(run.corpus.seen.ravel())].mean() == pytest.approx(run.final["recall"], abs=1e-6)
            assert run.final["loss"] < stacked.history["loss"][0]


def test_prompts_of_several_lengths_are_computed_as_they_were_trained():
    pieces = {"tokenizer.scheme": "bpe", "tokenizer.vocab_size": 60, "tokenizer.shared_tokens": 0.0}
    (run,) = quietly(modular(**pieces))
    seen = (run.corpus.seen & True).ravel()
    rows = torch.arange(run.corpus.n_rows)[torch.tensor(seen)]
    at = torch.tensor(run.corpus.positions("answer"))[rows]
    logits, _ = run_prompts(run.model, run.corpus.prompts(rows), at, at)
    whole = run.model(run.corpus.sequences[0, rows])[torch.arange(len(rows)), at]
    torch.testing.assert_close(logits, whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("role", ["subject", "relation", "answer"])
def test_losses_on_states_see_the_whole_prompt(role):
    term = ul.StateLoss(method="pull", layer=1, role=role, pairs=6)
    experiments = [modular(seed=seed, **{"train.state_losses": (term,)}) for seed in range(2)]
    corpora = [Corpus.build(experiment) for experiment in experiments]
    shapes = [shape_for(e.model, c) for e, c in zip(experiments, corpora, strict=True)]
    models = [with_parameters(shape, initial_parameters(shape, 5)) for shape in shapes]
    parameters = stack_parameters([dict(model.named_parameters()) for model in models])
    network = Stacked(shapes[0], token_language=token_languages(shapes))
    alignment = Alignment(experiments, corpora, torch.stack([corpus.sequences for corpus in corpora]))
    (terms,) = alignment.terms
    tokens, facts, languages = terms.pairs.draw(0)
    states = terms.states(network, parameters, tokens, terms.pairs.query).values
    for k, (model, corpus) in enumerate(zip(models, corpora, strict=True)):
        rows = languages[k] * corpus.n_facts + facts[k]
        _, (_, after, _) = run_prompts(model, corpus.prompts(rows), corpus.position(role))
        torch.testing.assert_close(states[k], after, rtol=0, atol=1e-5)
    for run in quietly(*experiments):
        assert run.history["pull_loss"].iloc[1:].notna().all()


def test_patches_elsewhere_leave_the_modules_on(run):
    prompts, name = run.corpus.prompts(), "blocks.1.hook_resid_pre"
    state = run.model.run_with_cache(prompts)[1][name]
    found = run.model.run_with_hooks(prompts, fwd_hooks=[(name, lambda x, hook: state)])
    torch.testing.assert_close(found, run.model(prompts))
    run.model.reset_hooks(including_permanent=True)
    torch.testing.assert_close(found, run.model(prompts))
    assert not can_resume(run.model)


def test_imposed_attention_keeps_the_modules(run):
    from unifylens.training.imposed import train_with_attention

    again = train_with_attention([run], [run.steps[-1]], progress=False)
    assert again["recall"].iloc[-1] > 0.5


# --- the rest ----------------------------------------------------------------------------------------------------


def test_a_start_keeps_the_modules_where_they_are():
    before = quietly(modular())[0]
    after = quietly(modular(start=ul.Start(experiment=before.experiment), **{"train.lr": 1e-9}))[0]
    torch.testing.assert_close(
        after.model(after.corpus.prompts()), before.model(before.corpus.prompts()), rtol=0, atol=1e-4
    )


def test_modules_cost_no_weights_and_little_memory():
    plain, own = Member.of(tiny()), Member.of(modular())
    assert plain.run_bytes == own.run_bytes and plain.key != own.key
    assert plain.memory.step <= own.memory.step < 1.6 * plain.memory.step


def test_what_is_left_alone_has_the_key_that_it_had():
    assert "language_neurons" not in str(tiny().differences())
    assert tiny(**{"model.language_neurons": 0}).key(3) == tiny().key(3) != modular().key(3)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"model.language_neurons": 17},
            "model.language_neurons=17 of each of 2 languages are more than .*: at most 16",
        ),
        ({"model.attn_only": True}, "language_neurons=8 conflicts with attn_only=True: there is no MLP"),
        (
            {"language.shared_relations": 1.0, "language.language_cue": "first"},
            "language_neurons=8 needs prompts whose last token of one language alone is their own .* of 144, such",
        ),
        (
            {
                "language.shared_subjects": 0.0,
                "language.templates": ("topic", "{relation} {subject} {object}"),
                "interventions": (ul.Intervention(name="code_switch", share=0.5),),
            },
            r"is not so in \d+ of 144, such as '<bos>",
        ),
        (
            {
                "start": ul.Start(experiment=modular()),
                "language.n_languages": 3,
            },
            r"start.experiment has 2 languages, whose modules \(model.language_neurons=8\) .*; allowed: 3, as here",
        ),
    ],
)
def test_what_cannot_be_is_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        quietly(modular(**changes))


def test_a_model_is_not_built_without_knowing_whose_tokens_are_whose(run, monkeypatch):
    config = modular().model
    with pytest.raises(ValueError, match=r"language_neurons=8 needs token_language, .*d_vocab=30 of them"):
        ul.build_model(config, 30, 5)
    with pytest.raises(ValueError, match="language_neurons=8; allowed for 5 languages: at most 6"):
        shape_of(config, 30, 5, torch.arange(30) % 5)
    state = run.model.run_with_cache(run.corpus.prompts())[1]["resid_post", 0]
    with pytest.raises(ValueError, match="reads the language off its input; allowed: token IDs"):
        run.model(state, start_at_layer=1)
    with pytest.raises(ValueError, match="start_at_layer leaves a model with language_neurons without its prompt"):
        run.model(run.corpus.prompts(), start_at_layer=1)
    monkeypatch.setattr("unifylens.model.HOOKED", False)
    with pytest.raises(ValueError, match=r"language_neurons=8 needs TransformerLens 3\.9 .*allowed with 3.*: 0"):
        shape_of(config, 30, 5, torch.arange(30) % 2)
