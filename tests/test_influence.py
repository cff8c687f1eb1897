"""Influence: products of gradients as autograd has them, what training does, planted twins, and retraining."""

from copy import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import quietly, tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from test_stack import N_BATCH, Question, network, queries, shapes, stacked

import unifylens as ul
from unifylens.corpus import interventions as iv
from unifylens.training import gradients, influence
from unifylens.training.batches import Batch
from unifylens.training.gradients import PARTS, SIGNS, ByExample, products
from unifylens.training.stack import Stacked


def batch_of(question):
    at = question.query if isinstance(question.query, torch.Tensor) else None
    return Batch(question.tokens, question.due, at)


def own_loss(model, question, example):
    logits = question.asked(model(question.tokens[0]), 0)[example]
    return F.cross_entropy(logits, question.due[0, example], ignore_index=0)


def flat_gradients(model, question, parts=PARTS):
    """Every example's gradient by autograd, one by one: `[example, number]`."""
    chosen = [p for name, p in model.named_parameters() if any(s in name for part in parts for s in SIGNS[part])]
    rows = []
    for example in range(N_BATCH):
        loss = own_loss(model, question, example)
        found = torch.autograd.grad(loss, chosen, materialize_grads=True, allow_unused=True)
        rows.append(torch.cat([g.flatten() for g in found]))
    return torch.stack(rows)


def factors(model, question, parts=PARTS):
    query = None if isinstance(question.query, torch.Tensor) else question.query
    return ByExample(Stacked(model.cfg), stacked([model]), batch_of(question), query, question.shared, parts).factors()


def asked(kind, shared, seed):
    question = Question(kind, 1, shared, seed)
    question.due[:, :, 0].clamp_(min=1)  # every example has something due
    return question


@settings(max_examples=60)
@given(shapes, queries, queries, st.booleans(), st.sets(st.sampled_from(PARTS), min_size=1), st.integers(0, 999))
def test_products_are_those_of_autograds_gradients(shape, kind, other_kind, shared, parts, seed):
    model = network(dtype=torch.float64, **shape)
    one, other = asked(kind, shared, seed), asked(other_kind, shared, seed + 1)
    for some in (PARTS, tuple(parts)):
        found = [factors(model, question, some) for question in (one, other)]
        if not found[0]:  # no normalisation, and that alone is asked for
            continue
        expected = flat_gradients(model, one, some) @ flat_gradients(model, other, some).T
        scale = max(1.0, float(expected.abs().max()))
        torch.testing.assert_close(products(*found) / scale, expected / scale, rtol=0, atol=1e-9)


def test_products_foretell_a_small_step():
    """Finite differences: what a step on one example does to the loss of another, to 1e-5 of the largest."""
    model, one, other = network(dtype=torch.float64), asked("last", True, 0), asked("last", True, 1)
    found, step = products(factors(model, one), factors(model, other)), 1e-8

    def losses():
        return torch.stack([own_loss(model, other, example).detach() for example in range(N_BATCH)])

    before, weights = losses(), {name: p.detach().clone() for name, p in model.named_parameters()}
    for i in range(N_BATCH):
        model.zero_grad()
        own_loss(model, one, i).backward()
        for name, p in model.named_parameters():
            p.data = weights[name] - step * p.grad
        torch.testing.assert_close(found[i], (losses() - before) / -step, rtol=0, atol=1e-5 * float(found.abs().max()))
        for name, p in model.named_parameters():
            p.data = weights[name]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"language.templates": ("plain", "has"), "train.loss": "full"},
        {"tokenizer.scheme": "character", "language.shared_subjects": 0.5},
        {"train.frozen": ("embedding",), "model.positional_embedding_type": "rotary"},
    ],
)
def test_influence_is_that_of_the_plain_model(changes):
    """The sum over checkpoints of rate times product, by autograd of the model that TransformerLens computes."""
    (run,) = quietly(tiny(**changes))
    corpus, experiment = run.corpus, run.experiment
    rows, prompts = influence.examples(corpus), np.flatnonzero(~corpus.seen)[[0, -1]]
    some = [0, len(rows) // 2, len(rows) - 1]
    frozen = [sign for part in experiment.train.frozen for sign in SIGNS[part]]

    def gradient(model, row, template, full):
        tokens, at, due = (x[template, row] for x in (corpus.sequences, corpus.answer_positions, corpus.due))
        logits = model(tokens[None])[0]
        logits, due = (logits[:-1], tokens[1:]) if full else (logits[at], due)
        named = [p for name, p in model.named_parameters() if not any(sign in name for sign in frozen)]
        loss = F.cross_entropy(logits, due, ignore_index=0)
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, named, materialize_grads=True)]).double()

    expected, drawn, before = 0, 0, 0
    for step in run.steps:
        model = run.checkpoint(step)
        of_prompts = torch.stack([gradient(model, row, 0, False) for row in prompts])
        full, templates = experiment.train.loss == "full", range(len(corpus.sequences))
        own = torch.stack([sum(gradient(model, row, t, full) for t in templates) for row in rows[some]])
        product = own @ of_prompts.T / len(templates)
        rate = sum(experiment.train.lr_at(earlier) for earlier in range(before, step))
        expected, before = expected + rate * product, step
        drawn = drawn + rate * product * torch.from_numpy(corpus.exposure.ravel()[rows[some]])[:, None]
    for found, due in ((False, expected), (True, drawn)):
        table = influence.tracin(run, prompts, drawn=found, progress=False)[some].double()
        torch.testing.assert_close(table, due, rtol=0, atol=1e-4 * float(due.abs().max()))


def test_influence_by_draws_follows_the_stages():
    later = ul.CorpusChange(step=20, corpus=ul.CorpusConfig(parallel=0.9))
    (run,) = quietly(tiny(changes=(later,)))
    *_, last = found = influence.checkpoints(run)
    assert [each.step for each in found] == run.steps and last.step == 40
    rates = np.array([run.experiment.train.lr_at(step) for step in range(40)])
    drawn = sum(rates[a:b].sum() * exposure.ravel() for a, b, exposure in run.corpus.stages)
    np.testing.assert_allclose(sum(each.drawn for each in found), drawn)
    np.testing.assert_allclose(sum(each.rate for each in found), rates.sum())
    new = np.flatnonzero((run.corpus.stages[0][2] == 0).ravel() & run.corpus.seen.ravel())
    assert len(new) and (found[0].drawn[new] == 0).all() and (last.drawn[new] > 0).all()
    (one,) = influence.checkpoints(run, [40])
    np.testing.assert_allclose(one.rate, rates.sum())


# --- whence ----------------------------------------------------------------------------------------------------


def planted(monkeypatch, trained, product):
    """`whence` of products that a rule of (example's fact and language, prompt's fact and language) makes."""
    corpus = trained.corpus

    def made(run, asked, steps, parts, progress):
        rows = influence.examples(corpus)
        (language, fact), (own, due) = (np.divmod(x, corpus.n_facts) for x in (rows[:, None], asked[None]))
        values = torch.from_numpy(np.broadcast_to(product(language, fact, own, due), (len(rows), len(asked))).copy())
        for checkpoint in influence.checkpoints(run, steps):
            yield checkpoint, values.float()

    monkeypatch.setattr(influence, "_products", made)
    return np.flatnonzero(~corpus.seen)


def test_planted_twins_are_found(trained, monkeypatch):
    """Only the twin shares features with the prompt: all influence is its own; with names dealt anew, its size."""
    prompts = planted(monkeypatch, trained, lambda language, fact, own, due: 1.0 * (fact == due))
    table = influence.whence(trained, prompts, progress=False)
    for counted in influence.COUNTED:
        of = table.loc[counted]
        assert of.loc["twin", "positive"] == of.loc["twin", "absolute"] == 1
        assert of.drop("twin")[["positive", "net"]].to_numpy().sum() == 0
        np.testing.assert_allclose(of["size"].sum(), 1)
        np.testing.assert_allclose(of.loc["twin", "lift"], 1 / of.loc["twin", "size"])
    n = len(influence.examples(trained.corpus))
    np.testing.assert_allclose(table.loc[("examples", "twin"), "size"], 1 / n)


def test_influence_that_looks_at_nothing_lifts_nothing(trained, monkeypatch):
    prompts = planted(monkeypatch, trained, lambda language, fact, own, due: np.ones_like(fact + due))
    table = influence.whence(trained, prompts, by=["link", "facts", "language", "step", "prompt"], progress=False)
    np.testing.assert_allclose(table[["lift", "permuted"]], 1, rtol=1e-6)


def test_permuted_names_lift_nothing(trained, monkeypatch):
    """Strong influence of own answers: names lift it, and dealt-out names do not, in the mean over ways to deal."""
    world = trained.corpus.world

    def alike(language, fact, own, due):
        same = (world.relation[fact] == world.relation[due]) & (world.object[fact] == world.object[due])
        return 1.0 * same - 0.01

    prompts = planted(monkeypatch, trained, alike)
    tables = [influence.whence(trained, prompts, seed=seed, progress=False) for seed in range(40)]
    assert tables[0].loc[("examples", "answer"), "lift"] > 5
    assert tables[0].loc[("examples", "rest"), "positive"] == 0 < tables[0].loc[("examples", "rest"), "absolute"]
    permuted = np.stack([table["permuted"] for table in tables])
    assert (abs(permuted.mean(0) - 1) < 4 * permuted.std(0) / np.sqrt(40)).all()


def test_kinds_are_what_they_are_called(trained):
    corpus, world = trained.corpus, trained.corpus.world
    rows, prompts = influence.examples(corpus), np.flatnonzero(~corpus.seen)[:5]
    seen = rows[:1]  # asked where it is seen, an example is its own prompt
    kinds = influence._kinds(corpus, rows, np.concatenate([prompts, seen]))
    names = [
        np.array(levels)[code]
        for levels, code in zip(influence.LEVELS.values(), np.unravel_index(kinds, (6, 2, 2)), strict=True)
    ]
    for j, prompt in enumerate([*prompts, *seen]):
        own, due = divmod(prompt, corpus.n_facts)
        for i, row in enumerate(rows):
            language, fact = divmod(row, corpus.n_facts)
            link, facts, side = (level[i, j] for level in names)
            assert side == ("own" if language == own else "other")
            assert facts == ("parallel" if corpus.parallel[fact] else "monolingual")
            if fact == due:
                assert link == ("itself" if language == own else "twin")
            elif world.relation[fact] == world.relation[due]:
                assert link == ("answer" if world.object[fact] == world.object[due] else "relation")
            else:
                assert link == ("subject" if world.subject[fact] == world.subject[due] else "rest")


def test_tables_are_cut_as_asked(trained):
    prompts = np.flatnonzero(~trained.corpus.seen)[:4]
    whole = influence.whence(trained, prompts, by="link", progress=False)
    fine = influence.whence(trained, prompts, by=["language", "link", "step"], progress=False)
    assert fine.index.names == ["counted", "language", "link", "step"]
    assert set(fine.index.get_level_values("step")) == set(trained.steps)
    np.testing.assert_allclose(fine.groupby(["counted", "step"])[["size", "positive", "absolute"]].sum(), 1)
    by_link = fine.groupby(["counted", "link"])["net"].sum().reindex(whole.index)
    np.testing.assert_allclose(whole["net"], by_link, rtol=1e-4, atol=1e-6)
    alone = influence.whence(trained, prompts, by=["prompt", "link"], progress=False)
    np.testing.assert_allclose(
        alone["positive"].groupby(["counted", "link"]).sum().reindex(whole.index) / 4, whole["positive"]
    )


# --- retraining ------------------------------------------------------------------------------------------------


def test_retraining_without_what_matters(trained):
    prompts = np.flatnonzero(~trained.corpus.seen)
    table = influence.retrained(trained, prompts, 10, n_random=2, progress=False)
    assert list(table.index) == ["nothing", "most", "each", "least", "random 0", "random 1"]
    assert (table.loc["nothing", ["draws", "change", "better"]] == 0).all()
    assert table.loc["most", "foretold"] < table.loc["random 0", "foretold"] < table.loc["least", "foretold"]
    total = influence.tracin(trained, prompts, drawn=True, progress=False).mean(1)
    rows = influence.examples(trained.corpus)[total.argsort(descending=True)[:10]]
    left_out = ul.Intervention(name="leave_out", rows=tuple(rows.tolist()))
    again = quietly(trained.experiment.replace(interventions=(left_out,)))[0]
    change = influence.log_probabilities(again, prompts) - influence.log_probabilities(trained, prompts)
    np.testing.assert_allclose(table.loc["most", "change"], change.mean())


def test_each_prompt_has_its_own_examples_left_out(trained, monkeypatch):
    """Of planted influence, every prompt's twin comes first for it, though others matter more for all together."""
    corpus, asked = trained.corpus, []

    def product(language, fact, own, due):
        return 10.0 * (fact == due) + (corpus.world.relation[fact] == corpus.world.relation[due])

    prompts = planted(monkeypatch, trained, product)[:6]
    monkeypatch.setattr(influence, "train_many", lambda them, progress: asked.extend(them) or [trained] * len(them))
    influence.retrained(trained, prompts, 6, n_random=0, progress=False)
    facts = prompts % corpus.n_facts
    assert set(asked[1].interventions[0].rows) == set(corpus.home[facts] * corpus.n_facts + facts)


def test_log_probabilities_are_the_models(trained):
    corpus = trained.corpus
    rows = np.flatnonzero(~corpus.seen)
    logits = ul.patching.last_logits(trained.model, corpus.prompts(rows)).detach().log_softmax(-1)
    expected = logits.gather(1, corpus.answers[rows][:, None])[:, 0]
    np.testing.assert_allclose(influence.log_probabilities(trained, rows), expected, rtol=1e-4)


def test_what_is_left_out_is_never_drawn_again():
    base = tiny()
    corpus = ul.build_corpus(base)
    both, alone = (np.flatnonzero(corpus.parallel == parallel) for parallel in (True, False))
    home = corpus.home * corpus.n_facts + np.arange(corpus.n_facts)
    rows = [int(home[both[0]]), int(home[alone[0]])]
    experiment = base.replace(interventions=[ul.Intervention(name="leave_out", rows=rows[::-1])])
    new = ul.build_corpus(experiment)
    assert (new.exposure.ravel()[rows] == 0).all() and new.exposure.sum() == pytest.approx(1)
    kept = np.setdiff1d(np.flatnonzero(corpus.seen), rows)
    assert (np.flatnonzero(new.seen) == kept).all()  # what was held out stays so
    ratio = new.exposure.ravel()[kept] / corpus.exposure.ravel()[kept]
    np.testing.assert_allclose(ratio, ratio[0])
    assert (
        new.home[both[0]] != corpus.home[both[0]]
        and (np.delete(new.home, both[0]) == np.delete(corpus.home, both[0])).all()
    )
    assert not new.seen[:, alone[0]].any()
    (run,) = quietly(experiment)
    assert run.transfer()["n"].sum() == ul.transfer(quietly(base)[0])["n"].sum() + 2
    assert new.statistics()["value"].notna().all()


def test_a_set_of_rows_has_one_key():
    one, other = (ul.Intervention(name="leave_out", rows=rows) for rows in ((5, 3, 3), np.array([3, 5]).tolist()))
    assert one == other and one.rows == (3, 5)
    base = ul.Intervention(name="balance_objects", share=1.0)
    assert tiny(interventions=(base,)).key(3) != tiny(interventions=(one,)).key(3)


# --- refusals --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_", "told"),
    [
        ({"prompts": [144]}, "prompts=144: the corpus has 144; allowed: 0 to 143"),
        ({"prompts": []}, "prompts is empty"),
        ({"steps": [3]}, r"steps: 3 was never saved; allowed: 2, 9, 40 \(train.n_checkpoints decides"),
        ({"steps": 3}, "steps: 3 was never saved"),
        ({"steps": 40.0}, "steps=40.0; allowed: 2, 9, 40, or None"),
        ({"steps": [[2, 9], 40]}, r"steps=\[\[2, 9\], 40\]; allowed: 2, 9, 40, or None"),
        ({"parts": 5}, "parts=.5,.; allowed: some of embedding"),
        ({"by": None}, "by=.None,.; allowed: some of step"),
        ({"steps": []}, "steps is empty; allowed: 2, 9, 40, or None"),
        ({"parts": ["heads"]}, "parts=.'heads',.; allowed: some of embedding, attention, mlp, normalization"),
        ({"by": ["kind"]}, "by=.'kind',.; allowed: some of step, prompt, link, facts, language, each once"),
        ({"by": []}, "by=.*allowed"),
    ],
)
def test_what_is_not_there_is_refused(trained, given_, told):
    given_ = {"prompts": [0], **given_}
    with pytest.raises(ValueError, match=told):
        influence.whence(trained, **given_, progress=False)
    if "by" not in given_:
        with pytest.raises(ValueError, match=told):
            influence.tracin(trained, **given_, progress=False)


@pytest.mark.parametrize(
    ("given_", "told"),
    [
        ({"k": 0}, "k=0; allowed: a whole number from 1 to 107"),
        ({"k": 108}, "k=108; allowed: a whole number from 1 to 107"),
        ({"k": 2, "n_random": -1}, "n_random=-1; allowed: a whole number from 0 to 1000"),
    ],
)
def test_retraining_that_makes_no_sense_is_refused(trained, given_, told):
    with pytest.raises(ValueError, match=told):
        influence.retrained(trained, [0], **given_, progress=False)


def test_runs_without_influence_are_refused(trained):
    with pytest.raises(TypeError, match=r"run is a Corpus; allowed: a Run of ul\.train"):
        influence.tracin(trained.corpus, [0])
    with pytest.warns(UserWarning, match="one by one"):
        (gated,) = quietly(tiny(**{"model.gated_mlp": True}))
    with pytest.raises(ValueError, match=r"run: gated_mlp=True is not computed by the stack .*influence"):
        influence.tracin(gated, [0], progress=False)
    diverged, sparse = copy(trained), copy(trained)
    diverged.diverged_at = 7
    sparse.experiment = trained.experiment.replace(
        start=ul.Start(experiment=trained.experiment), **{"train.sparse": ul.Sparse(share=0.1)}
    )
    for run, told in (
        (diverged, "run diverged at step 7; allowed"),
        (sparse, r"run moved few weights \(train.sparse, train.soft_prompt\); allowed: a run without"),
    ):
        with pytest.raises(ValueError, match=told):
            influence.tracin(run, [0], progress=False)


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ("held out", "is held out already; allowed: the 108 rows that are told"),
        ([144], "rows=144: the corpus has 144; allowed: 0 to 143"),
        ("all", "rows are all that is told at some step; allowed: fewer"),
    ],
)
def test_rows_that_cannot_be_left_out_are_refused(rows, told):
    corpus = ul.build_corpus(tiny())
    named = {"held out": np.flatnonzero(~corpus.seen)[:1], "all": np.flatnonzero(corpus.seen)}
    with pytest.raises(ValueError, match=told):
        iv.leave_out(corpus, named.get(rows, rows) if isinstance(rows, str) else rows)


def test_the_public_name():
    import unifylens.influence

    assert unifylens.influence is influence is ul.influence and gradients.PARTS == tuple(SIGNS)
