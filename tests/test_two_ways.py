"""Two ways to lose transfer: models by hand that lost it in one of them, and tables in which each claim is false."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import tiny

import unifylens as ul
from unifylens.corpus.corpus import Corpus
from unifylens.crosslingual.repair import REPAIRS, output_bias, repairs, ridge
from unifylens.evidence import two_ways
from unifylens.evidence.ledger import CLAIMS

PRIOR, REPRESENTATION = ul.designs.TWO_WAYS["prior"], ul.designs.TWO_WAYS["representation"]


@pytest.fixture(scope="module")
def corpus():
    changes = {"world.n_subjects": 40, "world.n_relations": 3, "world.n_objects": 6}
    return Corpus.build(tiny(**changes, **{"language.shared_subjects": 0.0, "corpus.parallel": 0.3}))


def planted(corpus, bias=0.0, knows_held_out=True):
    """A model that adds up what its words say: the subject's, of its objects; the relation's, of its objects, too.

    `bias` is taken off every other object whatever the subject. Without `knows_held_out`, subjects' words of a language
    say nothing of facts that are held out there.
    """
    world, n_objects = corpus.world, corpus.world.n_objects
    of_object = torch.from_numpy(world.object_relation)
    shape = ul.ModelConfig(d_model=n_objects + corpus.n_languages, n_layers=1, n_heads=1, d_mlp=4, normalization=None)
    model = ul.build_model(shape, corpus.d_vocab, corpus.n_ctx)
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        attention, every = model.blocks[0].attn, torch.arange(n_objects)
        attention.W_V[0], attention.W_O[0] = 3 * torch.eye(shape.d_model), torch.eye(shape.d_model)
        for index, language in enumerate(corpus.languages):
            named = (language.subjects, language.relations, language.objects)
            subjects, relations, objects = (torch.tensor(corpus.tokenizer.encode(names, index)) for names in named)
            said = torch.ones(corpus.n_facts) if knows_held_out else torch.from_numpy(corpus.seen[index]).float()
            model.embed.W_E[subjects] = 0
            model.embed.W_E[subjects[world.subject], world.object] = said
            model.embed.W_E[relations[of_object], every] = 2 - bias * (every % 2)
            model.embed.W_E[relations, n_objects + index] = 2
            model.unembed.W_U[every, objects] = 1
            model.unembed.W_U[n_objects + index, objects] = 1
    return SimpleNamespace(model=model, corpus=corpus)


def test_a_planted_bias_is_repaired_by_a_bias_and_not_by_states(corpus):
    run, donor = planted(corpus, bias=3.0), planted(corpus)
    found = repairs(run, donor)
    assert tuple(found) == REPAIRS
    assert found["unrepaired"] < 0.6 and found["bias"] == 1
    assert found["states"] == pytest.approx(found["unrepaired"], abs=0.02)
    assert found["bias shuffled"] < 0.7 and found["states shuffled"] < 0.6


def test_a_planted_loss_in_the_states_is_repaired_by_states_and_not_by_a_bias(corpus):
    run, donor = planted(corpus, knows_held_out=False), planted(corpus)
    found = repairs(run, donor)
    assert found["unrepaired"] < 0.4 and found["states"] > 0.95
    assert found["bias"] < 0.4 and found["states shuffled"] < 0.5
    assert repairs(run, run)["states"] < 0.4, "states of a model that lost it, too, restore nothing"


def test_guesses_that_gain_by_a_bias_show_where_other_facts_are_due(corpus):
    """A model that knows nothing and never says half of the objects: evened out, it is right by chance more often."""
    run = planted(corpus, bias=3.0, knows_held_out=False)
    found = repairs(run, planted(corpus))
    gain, guessed = (found[b] - found[a] for a, b in [("unrepaired", "bias"), ("due shuffled", "bias, due shuffled")])
    assert gain == pytest.approx(guessed, abs=0.15)


def test_an_output_bias_evens_means_and_leaves_other_tokens_and_the_whole_alone(corpus):
    logits = torch.randn(30, corpus.d_vocab, generator=torch.Generator().manual_seed(0))
    bias = output_bias(logits, corpus, 1, np.arange(30))
    for r in range(corpus.world.n_relations):
        tokens, rows = corpus.choices[1, r], torch.from_numpy(corpus.world.relation[:30] == r)
        means = (logits + bias[r])[rows][:, tokens].mean(0)
        assert torch.allclose(means, means.mean().expand_as(means), atol=1e-5)
        assert bias[r, ~tokens].abs().max() == 0 and abs(bias[r].sum()) < 1e-4


def test_ridge_finds_a_linear_map():
    draw = torch.Generator().manual_seed(0)
    x, by = torch.randn(500, 4, generator=draw, dtype=torch.double), torch.randn(4, 3, generator=draw).double()
    assert torch.allclose(ridge(x, x @ by), by, atol=0.05)


def test_models_of_other_facts_and_too_few_facts_are_refused(corpus):
    run = planted(corpus)
    for other, told in [
        (Corpus.build(tiny(**{"world.n_relations": 4})), "other facts"),
        (Corpus.build(tiny(seed=1)), "other facts"),
    ]:
        with pytest.raises(ValueError, match=told):
            repairs(run, planted(other))
    all_parallel = Corpus.build(tiny(**{"corpus.parallel": 1.0}))
    with pytest.raises(ValueError, match="no fact is"):
        repairs(planted(all_parallel), planted(all_parallel))


# --- tables --------------------------------------------------------------------------------------------------

TRUE = {PRIOR: (0.40, 0.40, 0.60), REPRESENTATION[0]: (0.45, 0.45, 0.46), REPRESENTATION[1]: (0.30, 0.31, 0.31)}
FALSE = {
    "no prior": TRUE | {PRIOR: (0.40, 0.40, 0.40)},
    "prior everywhere": TRUE | {REPRESENTATION[1]: (0.30, 0.30, 0.60)},
}


def finals(table):
    rows = [
        {"notebook": "07", "force": force, "end": end, "seed": seed}
        | dict(zip(two_ways.COLUMNS, np.array(values) + 0.005 * seed, strict=True))
        for force, with_force in table.items()
        for end, values in (("without", (0.8, 0.8, 0.8)), ("with", with_force))
        for seed in range(4)
    ]
    return pd.DataFrame(rows)


def b6(table):
    apart = two_ways.prior_apart(two_ways.split(finals(table)), PRIOR, REPRESENTATION)
    return ul.claims.record("B6", effect=apart, control=[1.0, 0.99, 1.0, 1.0], seeds=range(4)).holds


def test_parts_add_up_and_are_what_was_planted():
    found = two_ways.split(finals(TRUE))
    assert np.allclose(found[list(two_ways.PARTS)].sum(axis=1), found["lost"])
    tied = found.loc[("07", PRIOR, 0)]
    assert tied.round(6).to_dict() == {
        "lost": 0.4, "in_representation": 0.2, "in_prior": 0.2, "in_other_answers": 0.0, "prior_share": 0.5
    }  # fmt: skip
    with pytest.raises(ValueError, match="lacks"):
        two_ways.split(finals(TRUE).iloc[1:])


def test_b6_holds_where_it_is_true_and_fails_where_it_is_not(monkeypatch, tmp_path):
    monkeypatch.setenv("UNIFYLENS_FIGURES", str(tmp_path))
    assert b6(TRUE) and not any(b6(table) for table in FALSE.values())


CAUSE = {  # unrepaired, bias, states, bias shuffled, states shuffled, due shuffled, bias due shuffled, separate donor
    PRIOR: (0.4, 0.6, 0.3, 0.4, 0.0, 0.1, 0.15, 0.0),
    REPRESENTATION[0]: (0.4, 0.41, 0.7, 0.4, 0.1, 0.1, 0.1, 0.1),
    REPRESENTATION[1]: (0.3, 0.3, 0.7, 0.3, 0.1, 0.1, 0.1, 0.1),
}


def with_value(force, place, value):
    values = list(CAUSE[force])
    values[place] = value
    return CAUSE | {force: tuple(values)}


def cause(table):
    rows = [
        dict(zip((*REPAIRS, "separate donor"), np.array(values) + 0.004 * seed, strict=True))
        | {"force": force, "seed": seed, "without": 0.8}
        for force, values in table.items()
        for seed in range(4)
    ]
    shares = two_ways.restored(pd.DataFrame(rows).set_index(["force", "seed"]))
    effect = two_ways.dissociation(shares, PRIOR, REPRESENTATION)
    record = ul.claims.record("B6-cause", effect=effect, control=two_ways.most_by_controls(shares), seeds=range(4))
    return record.holds, record.control["holds"]


def test_b6_cause_holds_where_it_is_true_and_fails_where_it_is_not(monkeypatch, tmp_path):
    monkeypatch.setenv("UNIFYLENS_FIGURES", str(tmp_path))
    assert cause(CAUSE) == (True, True)
    assert cause(with_value(PRIOR, 1, 0.45)) == (False, True), "what guesses gain is not restored"
    assert cause(with_value(REPRESENTATION[0], 1, 0.65)) == (False, True), "a bias that helps everywhere"
    assert cause(with_value(PRIOR, 2, 0.75)) == (False, True), "states that help everywhere"
    for control in (3, 4, 7):
        assert cause(with_value(REPRESENTATION[1], control, 0.5)) == (False, False), "a control that restores"


def test_both_claims_are_of_the_forces_that_the_design_trains():
    forces = ul.designs.dial_ends()
    assert {PRIOR, *REPRESENTATION} <= set(forces) and "B6-cause" in CLAIMS
