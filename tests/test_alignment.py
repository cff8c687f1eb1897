"""Losses on states: what each term is, which facts it draws, and that training with it is what autograd would do."""

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import quietly, tiny
from test_stack import network

import unifylens as ul
from unifylens.training import alignment
from unifylens.training.alignment import Alignment, contrast, distillation, pull
from unifylens.training.batches import Batches
from unifylens.training.stack import OneByOne, Stacked, stack_parameters
from unifylens.training.trainer import Monitor, _Stack, train_stack

ACTS = torch.ones(1, dtype=torch.bool)
METHODS = ("contrast", "pull", "adversary", "distil")
APART = {"language.shared_subjects": 0.0, "language.shared_relations": 0.0}
"""No word is shared: else the same subject has the same state from the start."""


def loss(method="contrast", **fields):
    return ul.StateLoss(method=method, **fields)


def with_losses(*losses, **changes):
    return tiny(**APART, **{"train.state_losses": losses, **changes})


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- what terms are ------------------------------------------------------------------------------------------


def test_contrast_is_the_cross_entropy_of_finding_the_partner():
    a, b = random(2, 5, 3), random(2, 5, 3, seed=1)
    found = contrast(a, b, torch.zeros(2, 5, 5, dtype=torch.bool), temperature=0.2)
    for k in range(2):
        cosines = F.cosine_similarity(a[k][:, None], b[k][None], dim=-1) / 0.2
        expected = (F.cross_entropy(cosines, torch.arange(5)) + F.cross_entropy(cosines.T, torch.arange(5))) / 2
        assert found[k] == pytest.approx(float(expected), abs=1e-12)
    assert contrast(a, 3 * a, torch.zeros(2, 5, 5, dtype=torch.bool), temperature=0.01).max() < 1e-6


def test_pairs_that_say_the_same_are_no_negatives():
    a = random(1, 4, 3)
    twice, alike = torch.cat([a, a[:, :1]], 1), torch.zeros(1, 5, 5, dtype=torch.bool)
    alike[0, 0, 4] = alike[0, 4, 0] = alike[0].fill_diagonal_(True)[0, 0]
    assert contrast(twice, twice, alike, 0.01).item() < 1e-6 < 0.1 < contrast(twice, twice, alike & False, 0.01).item()


def test_pull_is_a_distance_in_units_of_the_variance_over_facts():
    a, shift = random(2, 400, 8), torch.tensor([3.0, 0, 0, 0, 0, 0, 0, 0], dtype=torch.float64)
    assert pull(a, a).abs().max() == 0
    # two clouds of variance 8, 3 apart: 9 / (8 + 9 / 4)
    assert pull(a, a + shift).mean() == pytest.approx(9 / (8 + 9 / 4), rel=0.05)
    assert torch.allclose(pull(10 * a, 10 * (a + shift)), pull(a, a + shift))
    states = a.clone().requires_grad_()
    pull(states, a + shift).sum().backward()
    assert (states.grad[..., 0] < 0).all() and states.grad[..., 1:].abs().max() < 1e-12


def test_distillation_is_the_divergence_from_the_home_answers_and_does_not_move_them():
    home, other = random(2, 6, 4).requires_grad_(), random(2, 6, 4, seed=1).requires_grad_()
    with torch.no_grad():
        home[..., 3] = other[..., 3] = -torch.inf
    found = distillation(home, other)
    expected = F.kl_div(other[..., :3].log_softmax(-1), home[..., :3].softmax(-1), reduction="none").sum(-1).mean(1)
    assert torch.allclose(found, expected) and distillation(home, home).abs().max() < 1e-12
    found.sum().backward()
    assert home.grad is None and other.grad.isfinite().all() and other.grad[..., :3].abs().min() > 0


def test_a_discriminator_finds_a_planted_direction_and_the_model_is_turned_away_from_it():
    experiments = [with_losses(loss("adversary", pairs=32), seed=seed, **{"train.steps": 200}) for seed in range(2)]
    corpora = [ul.Corpus.build(e) for e in experiments]
    sequences = torch.stack([c.sequences for c in corpora])
    term = Alignment(experiments, corpora, sequences).terms[0]
    direction = F.normalize(random(16), dim=0).float()
    for step in range(200):
        _, facts, languages = term.pairs.draw(step)
        states = 0.1 * torch.randn(2, 64, 16, generator=torch.Generator().manual_seed(step))
        states += (2.0 * languages[..., None] - 1) * direction
        value, gradient = term.value_and_gradient(states, slice(0, 2), (facts, languages), ACTS.expand(2))
    assert (value < 0.05).all(), "the discriminator reads the language off"
    weight = term.own["now/weight"]
    assert (F.cosine_similarity(weight[..., 1] - weight[..., 0], direction, dim=-1) > 0.8).all()
    # against the gradient, which is what a step does, states of both languages come nearer to each other
    moved = -gradient @ direction
    assert (moved[languages == 1] < 0).all() and (moved[languages == 0] > 0).all()


def test_a_discriminator_of_random_languages_learns_nothing_to_turn_away_from():
    experiments = [with_losses(loss("adversary", pairs=32, shuffled=True), **{"train.steps": 200})]
    corpora = [ul.Corpus.build(e) for e in experiments]
    term = Alignment(experiments, corpora, torch.stack([c.sequences for c in corpora])).terms[0]
    direction = F.normalize(random(16), dim=0).float()
    for step in range(200):
        _, facts, languages = term.pairs.draw(step)
        states = 0.1 * torch.randn(1, 64, 16, generator=torch.Generator().manual_seed(step))
        states += (2.0 * languages[..., None] - 1) * direction
        value, _ = term.value_and_gradient(states, slice(0, 1), (facts, languages), ACTS)
    assert value.item() > 0.5


# --- which facts a step draws ----------------------------------------------------------------------------------


def drawn_of(experiments, step=0, number=0):
    corpora = [ul.Corpus.build(e) for e in experiments]
    terms = Alignment(experiments, corpora, torch.stack([c.sequences for c in corpora])).terms
    return corpora, terms[number].pairs, terms[number].pairs.draw(step)


@pytest.mark.parametrize("role", ["subject", "answer"])
@pytest.mark.parametrize(
    "fields", [{}, {"language.n_languages": 3}, {"language.templates": ("plain", "topic")}], ids=str
)
def test_pairs_are_one_fact_told_in_two_languages(role, fields):
    experiments = [with_losses(loss(pairs=50, role=role), seed=seed, **fields) for seed in range(2)]
    corpora, pairs, (tokens, facts, languages, *at) = drawn_of(experiments, step=37)
    for k, corpus in enumerate(corpora):
        first, second = facts[k].chunk(2)
        one, other = languages[k].chunk(2)
        assert torch.equal(first, second) and (one != other).all()
        assert corpus.parallel[first].all() and corpus.seen[languages[k], facts[k]].all()
        assert len(set(languages[k].tolist())) == corpus.n_languages
        where = at[0][k, :, 0] if at else torch.full((100,), pairs.query.start)
        for row in range(0, 100, 7):
            prompts = [t for t in range(len(corpus.sequences))]
            number = int(languages[k][row] * corpus.n_facts + facts[k][row])
            own = [t for t in prompts if torch.equal(corpus.sequences[t, number, : tokens.shape[2]], tokens[k, row])]
            assert own and any(corpus.positions(role, t)[number] == where[row] for t in own)


def test_what_a_member_draws_depends_on_its_seed_and_the_step_alone():
    one, two = with_losses(loss(), seed=3), with_losses(loss(weight=0.1, since=0.5), seed=4)
    alone = drawn_of([two], step=5)[2]
    together = drawn_of([one, two], step=5)[2]
    assert all(torch.equal(a[0], b[1]) for a, b in zip(alone, together, strict=True))
    assert not torch.equal(drawn_of([two], step=6)[2][1], alone[1])


def test_shuffled_pairs_are_other_facts_of_the_same_relation_told_in_the_same_languages():
    corpora, _, (_, facts, languages) = drawn_of([with_losses(loss(pairs=64, shuffled=True))])
    first, second = facts[0].chunk(2)
    relation = corpora[0].world.relation
    assert (first != second).all() and (relation[first] == relation[second]).all()
    assert corpora[0].seen[languages[0], facts[0]].all()


def test_the_home_language_teaches():
    corpora, _, (_, facts, languages) = drawn_of([with_losses(loss("distil"))])
    assert (torch.tensor(corpora[0].home)[facts[0, :20]] == languages[0, :20]).all()


def test_only_facts_that_are_parallel_by_then_are_drawn():
    change = ul.CorpusChange(step=20, corpus=ul.CorpusConfig(parallel=0.5))
    fields = {"corpus.parallel": 0.1, "changes": (change,)}
    experiment = with_losses(loss(pairs=500), **fields)
    corpus = ul.Corpus.build(experiment)
    for step, stage in ((19, 0), (20, 1)):
        told = (corpus.stages[stage][2] > 0).sum(0) > 1
        assert set(drawn_of([experiment], step=step)[2][1][0].tolist()) == set(np.flatnonzero(told).tolist())


# --- training -----------------------------------------------------------------------------------------------


def exact(experiments):
    """Parameters of random models of these experiments in double precision, by stack, and the models."""
    corpora = [ul.Corpus.build(e) for e in experiments]
    c, m = corpora[0], experiments[0].model
    models = [
        network(seed, d_vocab=c.d_vocab, n_ctx=c.n_ctx, d_model=m.d_model, d_mlp=m.d_mlp, dtype=torch.float64)
        for seed in range(len(experiments))
    ]
    return corpora, models, stack_parameters([dict(model.named_parameters()) for model in models])


@pytest.mark.parametrize("way", [Stacked, OneByOne])
@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("role", ["subject", "answer"])
@pytest.mark.parametrize("method", ["contrast", "pull"])
def test_the_whole_gradient_is_autograds(way, layer, role, method):
    experiments = [with_losses(loss(method, weight=w, layer=layer, role=role), seed=s) for s, w in ((0, 0.3), (1, 2.0))]
    corpora, models, parameters = exact(experiments)
    batches = Batches(experiments, corpora)
    terms, network = Alignment(experiments, corpora, batches.sequences), way(models[0].cfg)
    losses, gradients = network.loss_and_gradients(parameters, *batches[0][:2], batches.query, batches.shared)
    drawn = terms.draw(0)
    with torch.no_grad():
        terms.add(network, slice(0, 2), parameters, gradients, drawn)
    tokens, facts, _ = drawn[0]
    point = f"blocks.{layer - 1}.hook_resid_post" if layer else "blocks.0.hook_resid_pre"
    for k, model in enumerate(models):
        seen = []
        model.run_with_hooks(tokens[k], fwd_hooks=[(point, lambda x, hook, seen=seen: seen.append(x))])
        a, b = seen[0][:, terms.terms[0].pairs.query.start].chunk(2)
        if method == "pull":
            value = pull(a[None], b[None])
        else:
            said = terms.terms[0].content[k][facts[k, :20]]
            value = contrast(a[None], b[None], (said[:, None] == said)[None], 0.1)
        logits = model(batches[0].tokens[k])[:, batches.query].flatten(0, 1)
        task = F.cross_entropy(logits, batches[0].due[k].flatten())
        model.zero_grad()
        (task + experiments[k].train.state_losses[0].weight * value.sum()).backward()
        assert losses[k] == pytest.approx(task.item(), abs=1e-9)
        assert terms.means(k) == {f"{method}_loss": pytest.approx(value.item(), abs=1e-9)}
        scale = max(1.0, *(float(p.grad.abs().max()) for p in model.parameters()))
        for name, p in model.named_parameters():
            assert float((gradients[name][k] - p.grad).abs().max()) < 1e-9 * scale, name


def test_the_gradient_of_distillation_is_autograds():
    experiments = [with_losses(loss("distil", weight=0.5))]
    corpora, models, parameters = exact(experiments)
    terms, network = Alignment(experiments, corpora, corpora[0].sequences[None]), Stacked(models[0].cfg)
    gradients = {name: torch.zeros_like(p) for name, p in parameters.items()}
    drawn = terms.draw(0)
    with torch.no_grad():
        terms.add(network, slice(0, 1), parameters, gradients, drawn)
    (tokens, facts, languages), world = drawn[0], corpora[0].world
    logits = models[0](tokens[0])[:, terms.terms[0].pairs.query.start]
    answers = []
    for row in range(40):
        possible = np.flatnonzero(world.object_relation == world.relation[facts[0, row]])
        answers.append(logits[row, corpora[0].object_tokens[languages[0, row]][possible]])
    home, other = (torch.stack(answers[i : i + 20]) for i in (0, 20))
    (0.5 * F.kl_div(other.log_softmax(-1), home.detach().softmax(-1), reduction="none").sum(-1).mean()).backward()
    for name, p in models[0].named_parameters():
        assert (gradients[name][0] - p.grad).abs().max() < 1e-9, name


@pytest.mark.parametrize("method", METHODS)
def test_a_term_moves_what_it_says_and_its_value_stands_in_the_history(method):
    much, little, none = quietly(*[with_losses(loss(method, weight=w)) for w in (0.3, 1e-6)], with_losses())
    values, measured = much.history[f"{method}_loss"], little.history[f"{method}_loss"]
    assert values[0] != values[0] and values[1:].notna().all(), "nothing is measured before the first step"
    assert f"{method}_loss" not in none.history
    ratio = values.iloc[-1] / measured.iloc[-1]
    assert ratio > 1.2 if method == "adversary" else ratio < 0.8


def weights(run):
    return list(run.parameters(run.experiment.train.steps).values())


def test_a_weight_of_nothing_is_plain_training():
    plain, none = quietly(with_losses(), with_losses(loss(weight=0.0), loss("adversary", weight=0.0)))
    assert all(torch.equal(a, b) for a, b in zip(weights(plain), weights(none), strict=True))
    assert none.history["contrast_loss"].isna().all()


def test_a_term_acts_in_its_time_alone():
    late, plain = quietly(with_losses(loss(since=0.5, weight=3.0)), with_losses())
    steps = late.history["step"]
    before, after = steps <= 20, steps > 20
    assert before.sum() > 1 and after.any()
    assert late.history["contrast_loss"].isna().tolist() == before.tolist()
    assert (late.history["loss"] == plain.history["loss"])[before].all()
    assert (late.history["loss"] != plain.history["loss"])[after].all()


@pytest.mark.parametrize("method", METHODS)
def test_a_member_without_parallel_facts_waits_beside_one_that_has_them(method):
    change = ul.CorpusChange(step=20, corpus=ul.CorpusConfig(parallel=0.5))
    waits = with_losses(loss(method, weight=0.1, since=0.5), changes=(change,), **{"corpus.parallel": 0.0})
    acts = with_losses(loss(method, weight=0.1), seed=1)
    (alone,), (together, _) = train_stack([waits]), train_stack([waits, acts])
    for name, p in alone.checkpoints[40].items():
        if not name.endswith("b_K"):  # attention is blind to it: rounding errors move it
            torch.testing.assert_close(together.checkpoints[40][name], p, atol=2e-4, rtol=0)
    # a CUDA graph draws for a term that does not act yet
    terms = Alignment([waits], [ul.Corpus.build(waits)], ul.Corpus.build(waits).sequences[None])
    terms.always = True
    assert terms.draw(0)[0][0].shape[:2] == (1, 40) and terms.weights.item() == 0


@pytest.mark.parametrize("method", METHODS)
def test_members_of_a_stack_train_as_they_do_alone(method):
    experiments = [
        with_losses(loss(method, weight=w, since=since, shuffled=shuffled), seed=seed)
        for seed, w, since, shuffled in ((0, 0.1, 0.0, False), (1, 1.0, 0.3, True), (2, 0.5, 0.0, False))
    ]
    together = train_stack(experiments)
    for experiment, result in zip(experiments, together, strict=True):
        (alone,) = train_stack([experiment])
        for name, p in alone.checkpoints[40].items():
            if not name.endswith("b_K"):  # attention is blind to it: rounding errors move it
                torch.testing.assert_close(result.checkpoints[40][name], p, atol=2e-4, rtol=0)
        assert result.history[f"{method}_loss"].iloc[-1] == pytest.approx(
            alone.history[f"{method}_loss"].iloc[-1], rel=1e-2
        )


def test_runs_that_differ_in_weight_time_and_shuffling_train_as_one_stack():
    from unifylens.training.cost import Member

    same = [loss(weight=0.2), loss(weight=0.1, since=0.5), loss(shuffled=True)]
    other = [loss("pull"), loss(layer=2), loss(role="subject"), loss(pairs=8), loss(temperature=0.2)]
    keys = [Member.of(with_losses(own)).key for own in (*same, *other)]
    assert len(set(keys[: len(same)])) == 1 and len(set(keys)) == 1 + len(other)


class _StopsAt(Monitor):
    def __init__(self, step):
        self.step, self.taken = step, 0

    @property
    def stop_requested(self):
        return self.taken >= self.step

    def advanced(self, steps, resumed=False):
        self.taken += steps

    def stopped(self, where):
        pass


def test_an_interrupted_training_goes_on_bit_for_bit():
    experiments = [with_losses(loss("adversary", weight=0.05), loss(weight=0.1), seed=s) for s in range(2)]
    whole = train_stack(experiments)
    _Stack(experiments).progress.remove()
    assert train_stack(experiments, _StopsAt(23)) == []
    resumed = train_stack(experiments)
    for a, b in zip(whole, resumed, strict=True):
        assert a.history.equals(b.history)
        assert all(torch.equal(p, b.checkpoints[40][name]) for name, p in a.checkpoints[40].items())


def test_shapes_that_are_not_stacked_train_with_terms_too():
    with pytest.warns(UserWarning, match="one by one"):
        (run,) = quietly(with_losses(loss(), **{"model.act_fn": "silu"}))
    assert run.history["contrast_loss"].iloc[-1] < run.history["contrast_loss"].iloc[1]


def test_a_recorded_step_takes_what_terms_draw(monkeypatch):
    """CUDA's graph is played by a stand-in in `test_train`; here what it would be given."""
    trainer = _Stack([with_losses(loss(), loss("adversary"))])
    given = []
    monkeypatch.setattr(trainer, "update", lambda *inputs: given.append(inputs))
    trainer.advance()
    assert all(torch.is_tensor(x) for tensors in given[0] for x in tensors) and len(given[0]) == 3


# --- bad input ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (partial(loss, "contrats"), r"method='contrats'.*'contrast' or 'pull'"),
        (partial(loss, weight="much"), "weight='much'"),
        (partial(loss, weight=float("nan")), "weight=nan"),
        (partial(loss, weight=-1.0), "weight=-1.0"),
        (partial(loss, role="object"), "role='object'.*'subject' or 'relation' or 'answer'"),
        (partial(loss, layer=-1), "layer=-1"),
        (partial(loss, pairs=1), "pairs=1"),
        (partial(loss, since=0.5, until=0.5), r"since=0.5 must be below until=0.5"),
        (partial(loss, "distil", layer=2), "method='distil' compares answers"),
        (partial(loss, temperature=0.0), "temperature=0.0"),
        (lambda: with_losses(loss(layer=3)), r"state_losses\[0\].layer=3 is more than model.n_layers=2"),
        (lambda: with_losses("contrast"), "state_losses"),
    ],
)
def test_what_is_wrong_is_said_at_once(make, said):
    with pytest.raises(ValueError, match=said):
        make()


@pytest.mark.parametrize(
    ("experiment", "said"),
    [
        (
            lambda: with_losses(loss(), **{"corpus.parallel": 0.0}),
            r"state_losses\[0\] needs facts told in two languages",
        ),
        (
            lambda: with_losses(
                loss(until=0.4),
                loss(until=0.6),
                changes=(ul.CorpusChange(step=20, corpus=ul.CorpusConfig(parallel=0.0)),),
            ),
            r"state_losses\[1\] needs facts told in two languages, and from step 20 to 40",
        ),
        (
            lambda: with_losses(loss("distil"), **{"tokenizer.scheme": "bpe", "tokenizer.vocab_size": 100}),
            "answers have up to",
        ),
    ],
)
def test_what_does_not_fit_the_corpus_is_said_before_training(experiment, said, monkeypatch):
    monkeypatch.setattr(alignment, "Alignment", None)
    with pytest.raises(ValueError, match=said):
        quietly(experiment())
