"""Methods at inference on states and answers that are planted, and on models whose answers are known."""

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import quietly, tiny
from test_interchange import planted

import unifylens as ul
from unifylens.corpus.corpus import Corpus
from unifylens.crosslingual import inference, repair
from unifylens.crosslingual.inference import Asked, Rows, fitted, guessed, split, transfer_at_inference
from unifylens.measures.checks import ROUNDING

N, WIDTH = 60, 8
RELATION = torch.arange(N) % 3


def normal(*size, seed=0):
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def rotated():
    """States at home are those of the language asked, turned and moved; the map is known."""
    turn, _ = torch.linalg.qr(normal(WIDTH, WIDTH, seed=1))
    asked = normal(N, WIDTH)
    return asked, (asked - 1) @ turn + 2, turn


def error(found, due):
    return float((found - due).norm() / due.norm())


def test_procrustes_finds_a_planted_rotation(rotated):
    asked, home, turn = rotated
    found = inference.procrustes(asked, home)
    torch.testing.assert_close(found.turn, turn, atol=1e-5, rtol=0)
    torch.testing.assert_close(found(asked), home, atol=1e-4, rtol=0)
    assert error(found.turn @ found.turn.T, torch.eye(WIDTH)) < 1e-5


def test_least_squares_find_a_planted_rotation():
    asked, turn = normal(N, WIDTH), torch.linalg.qr(normal(WIDTH, WIDTH, seed=1))[0]
    matrix = inference.incline(asked, asked @ turn)
    assert error(matrix, turn) < 0.02  # what the ridge takes
    added = fitted("INCLINE", asked, asked @ turn, RELATION, None)(asked, RELATION, 0.5)
    torch.testing.assert_close(added, 0.5 * asked @ matrix)


def test_a_global_shift_is_undone_exactly():
    asked, moved = normal(N, WIDTH), torch.arange(WIDTH).float()
    torch.testing.assert_close(inference.global_shift(asked, asked + moved), moved)
    added = fitted("global shift", asked, asked + moved, RELATION, None)(asked, RELATION, 1.0)
    torch.testing.assert_close(asked + added, asked + moved)


def test_shifts_that_differ_by_relation_need_one_for_each():
    asked, moved = normal(N, WIDTH), 3 * normal(3, WIDTH, seed=2)
    home = asked + moved[RELATION]
    torch.testing.assert_close(inference.relation_shifts(asked, home, RELATION), moved)
    by_relation, alike = (
        asked + fitted(name, asked, home, RELATION, None)(asked, RELATION, 1.0)
        for name in ("relation shifts", "global shift")
    )
    torch.testing.assert_close(by_relation, home)
    assert error(alike, home) > 0.5


def test_removal_takes_out_a_planted_direction():
    direction = torch.eye(WIDTH)[0]
    asked = normal(N, WIDTH)
    asked[:, 0] = 0
    home = asked + 5 * direction
    space = inference.language_subspace(asked, home, RELATION, 1)
    assert abs(float(space.basis[0] @ direction)) > 1 - ROUNDING
    remove = fitted("subspace removal", asked, home, RELATION, None)
    left = [state + remove(state, RELATION, 1) for state in (asked, home)]
    torch.testing.assert_close(left[0], left[1])
    torch.testing.assert_close(left[0][:, 1:], asked[:, 1:])


def test_the_heads_that_separate_languages_are_found():
    asked = normal(N, 5, 4)
    home = normal(N, 5, 4, seed=3)
    home[:, 3] += 2
    home[:, 1] += 1
    assert inference.separating_heads(asked, home, 2).tolist() == [3, 1]


@pytest.mark.parametrize("name", [name for name in inference.EDITS if name != "head shifts"])
def test_controls_do_nothing_for_planted_languages(name):
    """They leave states about as far from where they belong as states of other facts are."""
    asked = normal(N, WIDTH)
    turned = asked @ torch.linalg.qr(normal(WIDTH, WIDTH, seed=1))[0]
    home = turned if name in ("INCLINE", "Procrustes") else asked + 10 * torch.eye(WIDTH)[0]

    def left(control):
        edit = fitted(name, asked, home, RELATION, control)
        if name == "subspace removal":
            one, other = (state + edit(state, RELATION, 1) for state in (asked, home))
            return error(one, other)
        own = 0 if name == "INCLINE" else asked  # which adds the state at home to that of the language asked
        return error(own + edit(asked, RELATION, 1.0), home)

    assert left(None) < 0.02 and left(0) > 0.7


def test_shuffled_facts_stay_in_their_relation():
    order = inference.shuffled(RELATION, 0)
    assert (RELATION[order] == RELATION).all() and (order != torch.arange(N)).all()
    assert sorted(order.tolist()) == list(range(N))


def test_two_of_three_win_and_ties_go_to_the_likelier():
    option = torch.tensor([[0, 1, -1, -1], [0, 2, 3, -1], [4, 3, -1, -1]])
    probability = torch.tensor([[0.1, 0.5, 0.9, 1.0], [0.1, 0.9, 0.2, 1.0], [1.0, 0.6, 0.9, 1.0]])
    assert inference.majority_vote(option, probability, 5).tolist() == [0, 2, 3, -1]


def test_a_dictionary_leaves_what_it_lacks():
    said, source, target = torch.tensor([7, 5, 2]), torch.tensor([[5, 7]]).repeat(3, 1), torch.tensor([[8, 9]])
    assert inference.look_up(said, source, target.repeat(3, 1)).tolist() == [9, 8, 2]


def test_only_what_is_allowed_is_left():
    logits = torch.tensor([[3.0, 2.0, 1.0]])
    assert inference.only(logits, torch.tensor([[False, True, True]])).argmax().item() == 1


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """Three languages, of which each transfers some facts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNIFYLENS_HOME", str(tmp_path_factory.mktemp("three")))
        changes = {"language.n_languages": 3, "world.n_subjects": 48, "train.steps": 400, "train.lr": 1e-2}
        return quietly(tiny(**changes))[0]


@pytest.fixture(scope="module")
def table(three):
    return transfer_at_inference(three)


def test_every_method_has_a_row_and_what_is_fitted_a_control(table):
    names = [
        (name, control) for name in inference.METHODS for control in (False, True)[: 1 + (name in inference.EDITS)]
    ]
    assert list(zip(table["method"], table["control"], strict=True)) == names
    shares = table[list(inference.MEASURES)]
    assert shares.drop(columns=["corrected", "looked up"]).notna().all().all()
    assert ((shares.fillna(0) >= 0) & (shares.fillna(0) <= 1)).all().all()
    assert (table["either"] >= table["transfer"]).all()
    edited = table[table["method"].isin(inference.EDITS)]
    assert edited["likeness"].notna().all() and edited[["strength", "size"]].notna().any(axis=1).all()


def test_what_the_model_says_is_what_transfer_measures(trained):
    row = transfer_at_inference(trained, methods=["none"]).iloc[0]
    plain = ul.transfer(trained)
    weights = plain["n"] / plain["n"].sum()
    assert row["transfer"] == pytest.approx((plain["right"] * weights).sum())
    either = plain["right"] + plain["right object, wrong language"]
    assert row["either"] == pytest.approx((either * weights).sum())
    assert row["corrected"] == pytest.approx((plain["corrected"] * weights).sum())
    corpus = trained.corpus
    own = np.concatenate([k * corpus.n_facts + np.flatnonzero(corpus.kind[k] == 0) for k in range(2)])
    said = ul.patching.last_logits(trained.model, corpus.prompts(own)).argmax(-1)
    assert row["recall"] == pytest.approx((said == corpus.answers[own]).double().mean().item())


def test_translating_is_as_good_as_recall_at_home(three, table):
    rows = table.set_index("method").query("~control")
    assert rows.loc["translate-test", "transfer"] == pytest.approx(rows.loc["none", "recall"])
    assert rows.loc["translate-test", "transfer"] > rows.loc["none", "transfer"]
    assert rows.loc["translate-test", "recall"] == pytest.approx(rows.loc["none", "transfer"])


def test_constrained_answers_stay_in_the_language_asked(three, table):
    rows = table.set_index("method")
    assert rows.loc["constrained decoding", "right language"] == 1
    assert rows.loc["constrained decoding", "transfer"] >= rows.loc["none", "transfer"]


def test_the_prior_correction_is_that_of_the_repairs(trained):
    corpus = trained.corpus
    found = transfer_at_inference(trained, methods=["prior correction"])["transfer"].iloc[0]
    right = []
    for language in range(2):
        facts = np.flatnonzero(~corpus.seen[language])
        rows = language * corpus.n_facts + facts
        logits = ul.patching.last_logits(trained.model, corpus.prompts(rows))
        bias = repair.output_bias(logits, corpus, language, facts)[torch.from_numpy(corpus.world.relation[facts])]
        right.append(((logits + bias).argmax(-1) == corpus.answers[rows]).numpy())
    assert found == pytest.approx(np.concatenate(right).mean())


def test_what_is_fitted_chosen_and_reported_are_different_facts(three, monkeypatch):
    corpus, used = three.corpus, {"fit": set(), "asked": []}
    known, say = inference.Fits._known, Asked.say

    def fits(self, *pair):
        used["fit"] |= set(known(self, *pair).tolist())
        return known(self, *pair)

    def asked(self, *args, **options):
        used["asked"].append((len(args) > 0, frozenset(self.rows.fact.tolist())))
        return say(self, *args, **options)

    monkeypatch.setattr(inference.Fits, "_known", fits)
    monkeypatch.setattr(Asked, "say", asked)
    transfer_at_inference(three, methods=["INCLINE"])
    chosen_on, reported = sorted({facts for _, facts in used["asked"]}, key=len)
    assert corpus.parallel[list(chosen_on)].all() and corpus.parallel[list(used["fit"])].all()
    assert not corpus.parallel[list(reported)].any()
    assert not used["fit"] & chosen_on and not chosen_on & reported
    assert len(used["fit"] | chosen_on) == corpus.parallel.sum()


def test_what_is_guessed_is_expected_over_all_deals_within_groups():
    said, due, group = (torch.tensor(x) for x in ([7, 7, 8, 8, 9], [7, 8, 8, 8, 9], [0, 0, 0, 1, 1]))
    # group 0 is due 7, 8, 8: a third for each 7, two thirds for 8; group 1 is due 8, 9
    assert guessed(said, due, group) == pytest.approx((1 / 3 + 1 / 3 + 2 / 3 + 1 / 2 + 1 / 2) / 5)
    draw = torch.Generator().manual_seed(0)
    deals = []
    for _ in range(400):
        dealt = due.clone()
        for g in (0, 1):
            rows = (group == g).nonzero()[:, 0]
            dealt[rows] = due[rows[torch.randperm(len(rows), generator=draw)]]
        deals.append((said == dealt).double().mean())
    assert guessed(said, due, group) == pytest.approx(float(torch.stack(deals).mean()), abs=0.03)
    assert guessed(torch.tensor([5, 5]), torch.tensor([7, 8]), torch.tensor([0, 0])) == 0
    assert np.isnan(guessed(said[:0], due[:0], group[:0]))


def test_halves_have_every_relation(three):
    fit, choose = split(three.corpus)
    relation = three.corpus.world.relation
    assert not set(fit) & set(choose)
    assert set(relation[fit]) == set(relation[choose]) == set(range(3))
    assert not np.array_equal(split(three.corpus, seed=1)[0], fit)


def test_likeness_is_of_the_home_languages_word():
    corpus = Corpus.build(tiny())
    rows = Rows.of(corpus, lambda asked, home: corpus.parallel & (asked == 0))
    due = rows.option[:, None]
    flat = torch.zeros(len(rows), rows.allowed.shape[1])
    at_home, at_asked = (words.gather(1, due)[:, 0] for words in (rows.home_words, rows.asked_words))
    certain = inference.Said(at_home, flat, flat.scatter(1, due, 50.0))
    share, likely = inference.likeness(rows, certain)
    assert share == 1 and likely == pytest.approx(0)
    wrong = inference.Said(torch.zeros_like(at_home), flat, flat)
    assert inference.likeness(rows, wrong)[0] == 0
    share, likely = inference.likeness(rows, inference.Said(at_asked, flat, flat))
    assert share == 0.5 and likely == pytest.approx(-np.log(2 * flat.shape[1]))


@pytest.fixture(scope="module")
def known():
    """A model that knows every fact in every language, which shifts from language to language turn into each other."""
    corpus = Corpus.build(tiny())
    return planted(corpus), corpus


def test_a_shift_brings_the_home_languages_word_and_no_transfer(known):
    table = transfer_at_inference(*known, methods=["none", "global shift", "home decoding"])
    rows = table.set_index(["method", "control"])
    assert rows.loc[("none", False), "transfer"] == 1
    shifted = rows.loc[("global shift", False)]
    assert (shifted["transfer"], shifted["either"], shifted["right language"]) == (0, 1, 0)
    assert (shifted["recall"], shifted["recall, either"]) == (0, 1)
    assert shifted["likeness"] == 1
    at_home = rows.loc[("home decoding", False)]
    assert (at_home["transfer"], at_home["either"], at_home["right language"]) == (0, 1, 0)


def test_every_setting_is_shown_and_one_is_chosen(known):
    table = transfer_at_inference(*known, methods=["Procrustes"], every=True)
    assert len(table) == 2 * len(inference.settings("Procrustes", 2))
    assert table.groupby("control")["chosen"].sum().tolist() == [1, 1]
    best = table[~table["control"]]
    assert best.loc[best["chosen"], "likeness"].item() == best["likeness"].max()


def test_all_edits_are_tried_in_as_many_settings():
    assert len({len(inference.settings(name, 2)) for name in inference.EDITS}) == 1


def test_rows_get_their_own_edits_in_batches_of_any_size(three, table, monkeypatch):
    monkeypatch.setattr(inference, "rows_at_a_time", lambda *args: 7)
    some = ["relation shifts", "head shifts", "Procrustes"]
    found = transfer_at_inference(three, methods=some).set_index(["method", "control"])
    whole = table.set_index(["method", "control"]).loc[found.index]
    pd.testing.assert_frame_equal(found, whole, atol=0.01)  # a near tie may fall the other way


def test_longer_prompts_are_edited_at_their_end():
    corpus = Corpus.build(tiny(**{"language.templates": ("of",), "language.subject_words": 2}))
    model = ul.build_model(tiny().model, corpus.d_vocab, corpus.n_ctx)
    asked = Asked(model, Rows.of(corpus, lambda asked, home: corpus.parallel))
    fits = inference.Fits(model, corpus, np.flatnonzero(corpus.parallel), seed=0)
    setting = inference.Setting(layer=2, strength=1.0)
    said = asked.say(fits.edit("Procrustes", setting, asked.rows, control=False))
    rows, state = asked.rows, fits.states[2]
    for k in (0, 1):
        turned = inference.procrustes(state[k, corpus.parallel], state[1 - k, corpus.parallel])
        here = rows.asked == k
        moved = model.ln_final(turned(state[k, rows.fact[here]])[:, None])
        expected = model.unembed(moved)[:, 0].gather(1, rows.home_words[here])
        torch.testing.assert_close(said.home[here], expected.detach(), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(
    ("changes", "methods", "message"),
    [
        ({}, ["none", "linear shift"], r"methods=\['none', 'linear shift'\]; allowed: a list of none, translate-test"),
        ({}, "none", "methods='none'; allowed: a list of"),
        ({}, [], r"methods=\[\]; allowed: a list of"),
        ({}, ["majority vote"], "'majority vote', but the corpus has 2 languages; allowed: three or more"),
        ({"corpus.parallel": 0.0}, ["INCLINE"], "relation 0 has no parallel fact .* to fit on; allowed: at least two"),
        ({"corpus.parallel": 1.0}, None, "no monolingual fact is held out in any language"),
        ({"tokenizer.scheme": "character"}, None, "answers have up to 10 tokens here; allowed"),
    ],
)
def test_what_cannot_be_asked_is_refused(changes, methods, message):
    corpus = Corpus.build(tiny(**changes))
    model = ul.build_model(tiny().model, corpus.d_vocab, corpus.n_ctx)
    with pytest.raises(ValueError, match=message):
        transfer_at_inference(model, corpus, methods=methods)


def test_without_parallel_facts_what_is_not_fitted_can_be_asked():
    corpus = Corpus.build(tiny(**{"corpus.parallel": 0.0}))
    model = ul.build_model(tiny().model, corpus.d_vocab, corpus.n_ctx)
    table = transfer_at_inference(model, corpus, methods=["none", "constrained decoding"])
    assert len(table) == 2 and table["layer"].isna().all()
