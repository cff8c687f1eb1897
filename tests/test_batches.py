"""Batches: the rows that exposure and seed ask for, what goes in, and what is due where."""

import math

import numpy as np
import pytest
import torch
from conftest import forget_corpora, tiny

import unifylens as ul
from unifylens.corpus.corpus import Corpus
from unifylens.training.batches import Batches


def batches_of(*experiments):
    return Batches(list(experiments), [Corpus.build(experiment) for experiment in experiments])


def stages(*dials):
    return tuple(ul.CorpusChange(step=step, corpus=ul.CorpusConfig(**values)) for step, values in dials)


def test_batches_follow_the_exposures_of_their_stage():
    changes = stages((10, {"parallel": 0.0}), (30, {"parallel": 1.0, "exposure_balance": 0.5}))
    templates = {"train.batch_size": 2000, "language.templates": ("plain", "of", "has")}
    experiments = [tiny(changes=changes, **templates), tiny(changes=stages((25, {"parallel": 0.0})), **templates)]
    batches = batches_of(*experiments)
    for member, experiment in enumerate(experiments):
        corpus = Corpus.build(experiment)
        for start, stop, exposure in corpus.stages:
            drawn = [[x[member] for x in batches.examples(step)] for step in range(start, stop)]
            rows = torch.cat([rows for _, rows in drawn]).numpy()
            expected = exposure.ravel() * len(rows)
            counts = np.bincount(rows, minlength=corpus.n_rows)
            assert (counts[expected == 0] == 0).all()
            # chi-square with many degrees of freedom: mean n, deviation sqrt(2 n)
            used = expected > 0
            chi_square = ((counts - expected)[used] ** 2 / expected[used]).sum()
            assert abs(chi_square - used.sum()) < 5 * math.sqrt(2 * used.sum())
            templates = np.bincount(torch.cat([templates for templates, _ in drawn]).numpy(), minlength=3)
            assert np.abs(templates / len(rows) - 1 / 3).max() < 0.02


def test_batches_depend_on_seed_and_step_alone_and_not_on_company():
    experiment = tiny(changes=stages((70, {"parallel": 0.0})), **{"train.steps": 200})
    in_order = batches_of(experiment)
    drawn = [in_order.examples(step) for step in range(200)]
    company = batches_of(tiny(seed=5, **{"train.steps": 200}), experiment)
    for step in (150, 3, 199, 64, 63, 69, 70):
        again = batches_of(experiment).examples(step)
        beside = company.examples(step)
        for here, there, third in zip(again, drawn[step], beside, strict=True):
            assert (here == there).all() and (third[1] == there[0]).all()
    rows = [rows for _, rows in drawn]
    assert not (rows[0] == rows[1]).all() and not (rows[0] == rows[64]).all()
    assert not (batches_of(experiment.replace(seed=1)).examples(0)[1] == rows[0]).all()


@pytest.mark.parametrize("loss", ["answer", "full"])
@pytest.mark.parametrize("templates", [("plain",), ("topic",), ("plain", "topic", "of")])
@pytest.mark.parametrize("language_token", [False, True])
def test_what_is_due_is_the_next_token(loss, templates, language_token):
    fields = {"language.templates": templates, "language.language_token": language_token, "train.loss": loss}
    experiments = [tiny(seed=seed, **fields) for seed in (0, 1)]
    batches = batches_of(*experiments)
    tokens, due, at = batches[3]
    drawn_templates, rows = batches.examples(3)
    assert batches.shared == int(loss == "answer")
    assert (at is None) == (batches.query is not None)
    for member, experiment in enumerate(experiments):
        corpus = Corpus.build(experiment)
        for example in range(experiment.train.batch_size):
            template, row = int(drawn_templates[member, example]), int(rows[member, example])
            sequence = corpus.sequences[template, row].tolist()
            length = tokens.shape[2]
            assert tokens[member, example].tolist() == sequence[:length]
            if loss == "full":
                assert batches.query == slice(0, length) and due[member, example].tolist() == sequence[1:]
                continue
            where = corpus.position("answer", template)
            found = range(*batches.query.indices(length)) if at is None else at[member, example].tolist()
            assert list(found) == [where] and due[member, example].tolist() == [sequence[where + 1]]


@pytest.mark.parametrize("ragged", [False, True])
def test_answers_of_several_tokens(monkeypatch, ragged):
    """As if the relation's word, too, belonged to the answer; `ragged`: only in every other row."""

    def two_tokens(corpus):
        last = corpus.position("answer")
        positions = torch.tensor([last - 1, last]).expand(1, corpus.n_rows, 2).clone()
        if ragged:
            positions[0, ::2] = last  # a position that is repeated is padding
        return positions

    monkeypatch.setattr(Corpus, "answer_positions", property(two_tokens))
    forget_corpora(monkeypatch)
    corpus = Corpus.build(tiny())
    batches = batches_of(tiny())
    tokens, due, at = batches[0]
    rows = batches.examples(0)[1][0]
    assert (at is None) == (not ragged) and batches.shared == 1
    for example, row in enumerate(rows.tolist()):
        _, _, relation, answer = corpus.sequences[0, row].tolist()
        short = ragged and row % 2 == 0
        assert due[0, example].tolist() == ([answer, 0] if short else [relation, answer])
        assert tokens[0, example].tolist() == corpus.sequences[0, row, : tokens.shape[2]].tolist()
