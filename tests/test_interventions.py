"""Interventions: what each moves and leaves alone, undo pairs, nested shares, refusals, and that they train."""

import re

import numpy as np
import pytest
import torch
from conftest import quietly, tiny
from hypothesis import given
from hypothesis import strategies as st

import unifylens as ul
from unifylens.config import INTERVENTIONS
from unifylens.corpus import interventions as iv
from unifylens.corpus.exposure import object_homes
from unifylens.training.batches import Batches

shares = st.integers(0, 20).map(lambda k: k / 20)
seeds = st.integers(0, 50)

DATA = {
    "balance_objects": iv.balance_objects,
    "tie_objects": iv.tie_objects,
    "add_parallel": iv.add_parallel,
    "remove_parallel": iv.remove_parallel,
}


@st.composite
def experiments(draw, changes=True):
    """Corpora with something for every intervention to do."""
    corpus = st.builds(
        ul.CorpusConfig,
        parallel=st.integers(4, 14).map(lambda k: k / 20),
        exposure_balance=st.integers(1, 20).map(lambda k: k / 20),
        object_skew=shares.filter(lambda share: share < 1),  # 1 leaves nothing for the bias to decide
        home_bias=shares,
    )
    return tiny(
        language=ul.LanguageConfig(
            n_languages=draw(st.integers(2, 4)),
            shared_subjects=draw(st.sampled_from([0.0, 0.3, 0.8])),
            shared_relations=draw(st.sampled_from([0.0, 0.5])),
            language_token=True,
            templates=tuple(draw(st.lists(st.sampled_from(["plain", "topic"]), min_size=1, max_size=2, unique=True))),
        ),
        corpus=draw(corpus),
        changes=(ul.CorpusChange(step=13, corpus=draw(corpus)),) if changes and draw(st.booleans()) else (),
        seed=draw(seeds),
    )


def built(**changes):
    return ul.build_corpus(tiny(**changes))


def same(one, other, tolerance=1e-12):
    """Two corpora that read alike."""
    assert (one.home == other.home).all() and one.languages == other.languages
    assert torch.equal(one.sequences, other.sequences)
    assert [stage[:2] for stage in one.stages] == [stage[:2] for stage in other.stages]
    for (_, _, a), (_, _, b) in zip(one.stages, other.stages, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)


def differing_rows(one, other):
    return ~np.isclose(one.exposure, other.exposure, rtol=0, atol=1e-12)


# --- data ----------------------------------------------------------------------------------------------------


@given(experiments(), st.sampled_from(sorted(DATA)), shares)
def test_data_interventions_keep_examples_words_and_every_fact(experiment, name, share):
    before = ul.build_corpus(experiment)
    after = DATA[name](before, share=share, seed=experiment.seed)
    for _, _, exposure in after.stages:
        assert exposure.sum() == pytest.approx(1.0) and (exposure >= 0).all()
    assert after.seen.any(0).all() and after.seen[after.home, np.arange(after.n_facts)].all()
    assert after.languages == before.languages and torch.equal(after.sequences, before.sequences)
    if share == 0:
        same(before, after)


@given(experiments(), st.sampled_from(["balance_objects", "tie_objects"]), shares, shares)
def test_moved_facts_are_monolingual_and_a_larger_share_moves_the_smaller_ones_too(experiment, name, one, other):
    before = ul.build_corpus(experiment)
    low, high = (DATA[name](before, share=share, seed=experiment.seed) for share in sorted([one, other]))
    moved = low.home != before.home
    assert (high.home[moved] == low.home[moved]).all()
    for after in (low, high):
        assert (after.parallel == before.parallel).all() and not (after.home != before.home)[before.parallel].any()
        assert not differing_rows(before, after)[:, after.home == before.home].any()
        np.testing.assert_allclose(after.exposure.sum(0), before.exposure.sum(0), atol=1e-12)
    full = DATA[name](before, seed=experiment.seed)
    assert (high.home != before.home).sum() == round(max(one, other) * (full.home != before.home).sum())


@given(experiments())
def test_balanced_objects_are_as_even_as_they_can_be_and_stay_so(experiment):
    before = ul.build_corpus(experiment)
    after = iv.balance_objects(before, seed=experiment.seed)
    moves = 0
    for thing in range(before.world.n_objects):
        facts = ~before.parallel & (before.world.object == thing)
        old, new = (np.bincount(c.home[facts], minlength=c.n_languages) for c in (before, after))
        assert np.ptp(new) <= 1
        low, left_over = divmod(facts.sum(), before.n_languages)
        quota = np.sort(old)[::-1] - low - (np.arange(before.n_languages) < left_over)
        moves += np.maximum(quota, 0).sum()
    assert (after.home != before.home).sum() == moves, "the fewest moves"
    same(iv.balance_objects(after, seed=experiment.seed), after)


def test_balancing_takes_all_that_answers_tell():
    # 24 subjects and 4 objects a relation: 6 facts an object, 3 for each language
    before = built(**{"corpus.parallel": 0.0, "corpus.object_skew": 1.0})
    table = iv.effects(before, iv.balance_objects(before))
    row = table.loc["I(object; language | relation)"]
    assert row["before"] == pytest.approx(1.0) and row["after"] == pytest.approx(0.0, abs=1e-9) and row["moved"]
    assert not table.loc["parallel facts", "moved"] and not table.loc["I(fact; language)", "moved"]
    same(iv.tie_objects(iv.balance_objects(before)), before)


@given(experiments(changes=False))
def test_tying_all_objects_is_the_dial_of_the_skew(experiment):
    experiment = experiment.replace(**{"corpus.home_bias": 0.0})
    after = iv.tie_objects(ul.build_corpus(experiment), seed=experiment.seed)
    same(after, ul.build_corpus(experiment.replace(**{"corpus.object_skew": 1.0})))
    homes = object_homes(after.world, after.n_languages, experiment.seed)
    assert (after.home == homes[after.world.object])[~after.parallel].all()


@given(experiments(changes=False), st.integers(0, 72), st.integers(0, 72))
def test_more_parallel_facts_are_the_dial_of_the_parallel_share(experiment, one, other):
    dials = {"corpus.exposure_balance": 1.0, "corpus.object_skew": 0.0, "corpus.parallel": 0.3}
    few, many = (ul.build_corpus(experiment.replace(**dials, **{"corpus.n_parallel": n})) for n in sorted([one, other]))
    n_few, n_many = few.parallel.sum(), many.parallel.sum()
    if n_few < 72:
        added = iv.add_parallel(few, (n_many - n_few) / (72 - n_few), experiment.seed)
        same(added, many)
    if n_many:
        same(iv.remove_parallel(many, (n_many - n_few) / n_many, experiment.seed), few)


@given(experiments(), shares, seeds)
def test_removing_undoes_adding(experiment, share, seed):
    before = iv.remove_parallel(ul.build_corpus(experiment))
    assert not before.parallel.any()
    added = iv.add_parallel(before, share, seed)
    assert added.parallel.sum() == round(share * before.n_facts)
    if added.parallel.any():
        same(iv.remove_parallel(added, seed=seed), before)


@given(experiments(), st.integers(1, 20).map(lambda k: k / 20), st.integers(1, 20).map(lambda k: k / 20))
def test_exposure_is_spread_anew_whatever_it_was(experiment, first, second):
    before = ul.build_corpus(experiment)
    after = iv.rebalance_exposure(before, second)
    assert (after.kind == before.kind).all()
    np.testing.assert_allclose(after.exposure.sum(0), before.exposure.sum(0), atol=1e-12)
    same(iv.rebalance_exposure(iv.rebalance_exposure(before, first), second), after)
    if not experiment.changes:
        same(after, ul.build_corpus(experiment.replace(**{"corpus.exposure_balance": second})))


# --- code-switching ------------------------------------------------------------------------------------------


@given(experiments(), st.integers(0, 10).map(lambda k: k / 20), st.integers(0, 10).map(lambda k: k / 20))
def test_code_switching_puts_in_another_subject_and_nothing_else(experiment, one, other):
    before = ul.build_corpus(experiment)
    low, high = (iv.code_switch(before, share, experiment.seed) for share in sorted([one, other]))
    assert ((low.switched == 0) | (low.switched == high.switched)).all()
    n, n_templates = before.n_facts, len(before.templates)
    own, second = high.sequences.chunk(2)
    assert torch.equal(own, before.sequences) and torch.equal(high.answers, before.answers)
    encode, world = before.tokenizer.encode, before.world
    for template in range(n_templates):
        at = before.position("subject", template)
        changed = (second[template] != own[template]).nonzero()
        assert (changed[:, 1] == at).all()
        assert set(changed[:, 0].tolist()) == set(np.flatnonzero(high.switched.ravel()).tolist())
        for row in changed[:5, 0].tolist():
            language, fact = divmod(row, n)
            lender = (language + high.switched[language, fact]) % before.n_languages
            assert (
                second[template, row, at] == encode([before.languages[lender].subjects[world.subject[fact]]], lender)[0]
            )
            assert lender != language and before.seen[language, fact]
    for corpus, share in zip((low, high), sorted([one, other]), strict=True):
        words = np.array([language.subjects for language in corpus.languages])
        own_words = np.arange(corpus.n_languages)[:, None], world.subject
        others = [words[(own_words[0] + k) % corpus.n_languages, world.subject] for k in range(1, corpus.n_languages)]
        can = corpus.exposure[np.stack([words[own_words] != o for o in others]).any(0)].sum()
        switched = iv.effects(before, corpus).loc["code-switched examples", "after"]
        assert switched <= share * can + 1e-9
        if corpus.n_languages == 2:
            assert switched == pytest.approx(share * can, abs=corpus.exposure.max())


def test_code_switched_examples_are_drawn_every_second_time():
    experiment = tiny(
        interventions=(ul.Intervention(name="code_switch", share=0.5),), **{"language.shared_subjects": 0.0}
    )
    corpus = ul.build_corpus(experiment)
    assert (corpus.switched > 0).sum() == corpus.seen.sum()
    batches, at = Batches([experiment], [corpus]), corpus.position("subject")
    foreign = total = 0
    for step in range(40):
        _, rows = batches.examples(step)
        subject = batches[step].tokens[0, :, at]
        foreign += int((subject != corpus.sequences[0, rows[0], at]).sum())
        total += rows.numel()
        assert torch.equal(batches[step].due[0, :, 0], corpus.answers[rows[0]])
    assert abs(foreign / total - 0.5) < 0.06
    told = iv.effects(ul.build_corpus(experiment.replace(interventions=())), corpus)
    assert told.loc["code-switched examples", "after"] == pytest.approx(0.5)
    # of subject and relation, the subject told all of one bit and now tells next to none
    assert told.loc["language information of a prompt token", "before"] == pytest.approx(1.0, abs=0.01)
    assert told.loc["language information of a prompt token", "after"] < 0.6


@given(experiments(), shares, st.integers(0, 3))
def test_facts_are_told_in_another_of_their_languages_first(experiment, share, seed):
    before, share = ul.build_corpus(experiment), share / 2
    if not before.parallel.any():
        with pytest.raises(ValueError, match="no fact is parallel"):
            iv.translate_in_context(before, share, seed)
        return
    after, half = iv.translate_in_context(before, share, seed), len(before.sequences)
    told = np.argwhere(after.preceded > 0)
    assert (after.exposure == before.exposure).all() and len(after.sequences) == 2 * half
    assert (after.due[:half, :, : before.due.shape[2]] == before.due).all()
    assert (after.due[half:] == after.due[:half]).all()
    for language, fact in told[:10]:
        first = (language + after.preceded[language, fact]) % before.n_languages
        assert before.seen[[first, language], fact].all() and first != language
        alone = [before.text(int(x), int(fact)).replace(" →", "").removeprefix("<bos> ") for x in (first, language)]
        assert after.text(int(language), int(fact), template=half).replace(" →", "") == " ".join(["<bos>", *alone])
    alone = np.flatnonzero(after.preceded.ravel() == 0)
    width = before.sequences.shape[2]
    assert (after.sequences[half:, alone, :width] == after.sequences[:half, alone, :width]).all()
    for slot in before.slots:
        text = after.sequences[half, torch.arange(before.n_rows), after.positions(slot, half)]
        assert (text == before.sequences[0, torch.arange(before.n_rows), before.positions(slot)]).all()
    copies = before.exposure[:, before.parallel].sum()
    done = iv.effects(before, after).loc["examples told in two languages", "after"]
    assert done == pytest.approx(share * copies, abs=before.exposure.max())
    assert not after.preceded[:, ~before.parallel].any()


def test_models_learn_from_facts_told_in_two_languages_at_once():
    settings = {"train.steps": 20, "corpus.parallel": 0.5}
    plain, run = quietly(
        *(tiny(interventions=i, **settings) for i in ((), (ul.Intervention(name="translate_in_context", share=0.5),)))
    )
    assert run.model.cfg.n_ctx == 2 * plain.model.cfg.n_ctx - 1
    assert ul.transfer(run)["n"].sum() == ul.transfer(plain)["n"].sum()


@pytest.mark.parametrize("tokenizer", ["word", "bpe"])
def test_pivot_answers_are_the_first_languages_word_and_then_the_own(tokenizer):
    before = built(**{"tokenizer.scheme": tokenizer, "tokenizer.vocab_size": None if tokenizer == "word" else 80})
    after = iv.pivot_answers(before)
    for language, own in enumerate(before.languages):
        for fact in range(6):
            pivot, thing = before.languages[0].objects, before.world.object[fact]
            expected = before.text(language, fact, answer=False) + f" → {pivot[thing]} {own.objects[thing]}"
            assert after.text(language, fact) == expected
    assert (after.due[..., 0] == after.due[0, : before.n_facts, 0].repeat(2)).all()  # all begin in one word
    with pytest.raises(ValueError, match=r"pivot_answers: '.*' has several words already; allowed: objects of one"):
        iv.pivot_answers(after)
    said = after.due[0]
    assert (np.asarray(after.named(said, torch.tensor(np.tile(after.world.relation, 2)))[0]) >= 0).all()


@pytest.mark.parametrize("scheme", ["character", "bpe"])
def test_code_switching_names_of_several_tokens(scheme):
    size = {} if scheme == "character" else {"tokenizer.vocab_size": 80}
    before = built(
        **{"language.shared_subjects": 0.0, "tokenizer.scheme": scheme, "language.templates": ("of",)}, **size
    )
    after = iv.code_switch(before, 0.5)
    n = before.n_facts
    for row in np.flatnonzero(after.switched.ravel())[:20]:
        language, fact = divmod(int(row), n)
        subject, _, thing = before.world.facts[fact]
        own, other = before.languages[language], before.languages[1 - language]
        words = before.text(language, fact).split()
        assert words[words.index(own.subjects[subject])] and words[-1] == own.objects[thing]
        assert after.text(language, fact, template=1) == before.text(language, fact).replace(
            own.subjects[subject], other.subjects[subject]
        )
        assert after.due[1, row].tolist() == before.due[0, row].tolist()


# --- words ---------------------------------------------------------------------------------------------------


@given(experiments(), st.sampled_from(["subjects", "relations", "objects", "function_words"]), shares)
def test_shared_words_are_the_dial_of_sharing(experiment, kind, share):
    before = ul.build_corpus(experiment.replace(**{f"language.shared_{kind}": 0.0}))
    if kind == "function_words" and "topic" not in experiment.language.templates:
        with pytest.raises(ValueError, match="all 0 function_words"):
            iv.share_words(before, share, kind)
        return
    after = iv.share_words(before, share, kind, experiment.seed)
    same(after, ul.build_corpus(experiment.replace(**{f"language.shared_{kind}": share})))
    assert (after.exposure == before.exposure).all()


@given(experiments(), shares, shares)
def test_a_larger_share_of_words_contains_the_smaller(experiment, one, other):
    before = ul.build_corpus(experiment)
    low, high = (iv.share_words(before, share, "subjects", experiment.seed) for share in sorted([one, other]))
    for a, b in zip(low.languages, high.languages, strict=True):
        first = low.languages[0].subjects
        assert all(y == f for x, y, f in zip(a.subjects, b.subjects, first, strict=True) if x == f)


def test_the_language_token_comes_and_goes():
    before = built()
    with_token = iv.add_language_token(before)
    same(with_token, built(**{"language.language_token": True}))
    same(iv.remove_language_token(with_token), before)
    table = iv.effects(before, with_token)
    assert table.loc["tokens per prompt", "change"] == 1 and table.loc["tokens per answer", "change"] == 0
    assert np.isnan(table.loc["language-revealing language tokens", "before"])
    assert table.loc["language-revealing language tokens", "moved"] and not table.loc["vocabulary", "moved"]


TOKENIZERS = {
    "word": ul.TokenizerConfig(),
    "character": ul.TokenizerConfig(scheme="character"),
    "bpe": ul.TokenizerConfig(scheme="bpe", vocab_size=80),
    "unigram": ul.TokenizerConfig(scheme="unigram", vocab_size=80),
    "apart": ul.TokenizerConfig(scheme="bpe", vocab_size=60, training="separate"),
}


@pytest.mark.parametrize("scheme", TOKENIZERS)
@pytest.mark.parametrize("seed", [0, 3])
def test_other_tokens_are_the_settings_of_the_tokenizer(scheme, seed):
    base = tiny(seed=seed, **{"language.lexical_distance": 0.3, "language.shared_subjects": 0.5})
    before, config = ul.build_corpus(base), TOKENIZERS[scheme]
    after = iv.retokenize(before, config, seed)
    same(after, ul.build_corpus(base.replace(tokenizer=config)))
    assert after.tokenizer.config == config
    split = iv.mark_language(after, seed)
    same(split, ul.build_corpus(base.replace(tokenizer=config, **{"tokenizer.shared_tokens": 0.0})))
    same(iv.merge_vocabularies(split, 1.0, seed), after)
    same(iv.merge_vocabularies(split, 0.4, seed), iv.merge_vocabularies(split, 0.4, seed))
    table = iv.effects(after, split)
    assert table.loc["bridge tokens", "after"] == 0 < table.loc["bridge tokens", "before"]
    assert table.loc["language-revealing prompt tokens", "after"] == pytest.approx(1.0)
    assert not table.loc[["tokens per prompt", "tokens per answer", "I(fact; language)"], "moved"].any()
    half = iv.merge_vocabularies(split, 0.5, seed)
    assert 0 < (half.tokenizer.languages_of() > 1).sum() < (after.tokenizer.languages_of() > 1).sum()
    assert (half.exposure == before.exposure).all()


def test_merging_adds_to_what_is_shared():
    config = TOKENIZERS["bpe"].model_copy(update={"shared_tokens": 0.2})
    before = built(**{"language.lexical_distance": 0.3, "language.shared_subjects": 0.5, "tokenizer": config})
    low, high = (iv.merge_vocabularies(before, share) for share in (0.25, 0.75))
    assert low.tokenizer.config.shared_tokens == pytest.approx(0.4)
    assert high.tokenizer.config.shared_tokens == pytest.approx(0.8)
    shared = [{c.tokenizer.pieces[i] for i in np.flatnonzero(c.tokenizer.languages_of() > 1)} for c in (low, high)]
    assert shared[0] < shared[1]


def test_tokens_of_a_finer_cut_cost_more():
    before = built(**{"language.lexical_distance": 0.3})
    after = iv.retokenize(before, TOKENIZERS["character"])
    table = iv.effects(before, after)
    assert table.loc["tokens per prompt", "before"] == 2 and table.loc["tokens per answer", "before"] == 1
    assert (table.loc[["tokens per prompt", "tokens per answer"], "change"] > 3).all()
    assert not table.loc["lexical distance", "moved"]


# --- effects, settings, training -----------------------------------------------------------------------------


def test_nothing_moves_between_a_corpus_and_itself():
    table = iv.effects(built(), built())
    assert not table["moved"].any() and (table["change"] == 0).all() and table.notna().all().all()
    with pytest.raises(ValueError, match="before has 72 facts, after 36"):
        iv.effects(built(), built(**{"world.n_subjects": 12}))


GIVEN = {"share": 0.3, "balance": 0.3, "kind": "objects", "tokenizer": TOKENIZERS["bpe"], "rows": (0, 5)}


@pytest.mark.parametrize("name", INTERVENTIONS)
def test_settings_do_what_the_functions_do(name):
    dials = {"language.shared_subjects": 0.5, "language.language_token": name == "remove_language_token"}
    base = tiny(seed=5, **dials, **{"tokenizer.shared_tokens": 0.5 if name == "merge_vocabularies" else 1.0})
    given_ = {parameter: GIVEN[parameter] for parameter in INTERVENTIONS[name]}
    experiment = base.replace(interventions=(ul.Intervention(name=name, **given_),))
    function, corpus = getattr(iv, name), ul.Corpus.build(base)
    draws = {"seed": 5} if "seed" in function.__annotations__ else {}
    after = function(corpus, **given_, **draws)
    same(ul.build_corpus(experiment), after)
    assert iv.effects(corpus, after)["moved"].any()
    assert experiment.key(1) != base.key(1)
    assert ul.Experiment.model_validate_json(experiment.model_dump_json()) == experiment
    same(ul.Corpus.build(experiment), after)


def test_interventions_are_applied_in_order():
    add, remove = (ul.Intervention(name=name, share=1.0) for name in ("add_parallel", "remove_parallel"))
    assert not ul.build_corpus(tiny(interventions=(add, remove))).parallel.any()
    assert ul.build_corpus(tiny(interventions=(remove, add))).parallel.all()


def test_a_run_reads_the_corpus_it_was_trained_on():
    names = {"balance_objects": {"share": 1.0}, "share_words": {"share": 0.5, "kind": "objects"}}
    done = tuple(ul.Intervention(name=name, **told) for name, told in names.items())
    switched = (*done, ul.Intervention(name="code_switch", share=0.4))
    dials = {"language.shared_subjects": 0.5, "train.steps": 10}
    base, run, code = quietly(*(tiny(interventions=i, **dials) for i in ((), done, switched)))
    assert len({r.folder for r in (base, run, code)}) == 3
    same(run.corpus, ul.build_corpus(run.experiment))
    assert run.model.cfg.d_vocab == run.corpus.d_vocab < base.corpus.d_vocab
    assert code.corpus.switched is not None and code.model.cfg.n_ctx == run.model.cfg.n_ctx
    assert ul.transfer(code.model, code.corpus)["n"].sum() == (code.corpus.kind == 3).sum()


PLAIN = {"language.shared_subjects": 1.0}
TOKEN = {"language.shared_relations": 1.0, "language.language_token": True}
RELATIONS = {"language.shared_relations": 1.0, "language.shared_subjects": 0.0}


@pytest.mark.parametrize(
    ("dials", "name", "given_", "told"),
    [
        ({"corpus.parallel": 1.0}, "balance_objects", {}, "all 72 facts are parallel"),
        ({"corpus.parallel": 1.0}, "tie_objects", {}, "all 72 facts are parallel"),
        ({"corpus.parallel": 1.0}, "add_parallel", {"share": 0.1}, "all 72 facts are parallel"),
        ({"corpus.parallel": 0.0}, "remove_parallel", {}, "no fact is parallel"),
        ({"corpus.parallel": 0.0}, "rebalance_exposure", {"balance": 1.0}, "no fact is parallel"),
        ({}, "rebalance_exposure", {"balance": 0.0}, "balance=0.0: allowed is more than 0"),
        ({}, "add_parallel", {"share": 1.5}, "share=1.5: allowed is 0 to 1"),
        ({}, "balance_objects", {"share": -0.5}, "share=-0.5: allowed is 0 to 1"),
        (PLAIN, "code_switch", {"share": 0.3}, "words of all subjects are the same"),
        ({"language.shared_subjects": 0.0}, "code_switch", {"share": 0.6}, "share=0.6: allowed is 0 to 0.5"),
        (
            RELATIONS,
            "code_switch",
            {"share": 0.5},
            r"code_switch\(share=0.5\): .*36 of 144 prompts.*add_language_token",
        ),
        (
            {**RELATIONS, "corpus.parallel": 1.0},
            "code_switch",
            {"share": 0.5},
            r"code_switch\(share=0.5\): 144 prompts become the same",
        ),
        ({"corpus.parallel": 0.0}, "translate_in_context", {"share": 0.3}, "no fact is parallel"),
        ({}, "translate_in_context", {"share": 0.6}, "share=0.6: allowed is 0 to 0.5"),
        (PLAIN, "share_words", {"share": 0.5}, "all 24 subjects have the same words"),
        (RELATIONS, "share_words", {"share": 1.0}, r"share_words\(share=1.0, kind='subjects'\).*72 of 144 prompts"),
        ({}, "share_words", {"share": 0.5, "kind": "verbs"}, "kind='verbs'.*Allowed: subjects, relations"),
        (TOKEN, "remove_language_token", {}, "remove_language_token: .*72 of 144 prompts"),
        ({}, "merge_vocabularies", {}, "no token is marked"),
        ({"tokenizer.shared_tokens": 0.0}, "mark_language", {}, "share no token"),
        (
            {"tokenizer.shared_tokens": 0.0, "language.shared_subjects": 0.5},
            "share_words",
            {"share": 0.5},
            "marked by language",
        ),
        (
            {**RELATIONS, "language.shared_subjects": 1.0, "tokenizer.shared_tokens": 0.0},
            "merge_vocabularies",
            {},
            r"merge_vocabularies\(share=1.0\): .*72 of 144 prompts",
        ),
        (
            {},
            "retokenize",
            {"tokenizer": ul.TokenizerConfig(scheme="bpe", vocab_size=5)},
            "retokenize: .*vocab_size=5 is smaller than the alphabet",
        ),
        ({"language.language_cue": "first"}, "add_language_token", {}, "tells its language already"),
        ({}, "remove_language_token", {}, "no prompt has a language token"),
        (TOKEN, "add_language_token", {}, "tells its language already"),
    ],
)
def test_what_cannot_be_done_is_refused(dials, name, given_, told):
    with pytest.raises(ValueError, match=told):
        getattr(iv, name)(built(**dials), **given_)


@pytest.mark.parametrize("name", INTERVENTIONS)
def test_what_is_no_corpus_is_refused(name):
    with pytest.raises(TypeError, match=rf"{name}: corpus is a Experiment; allowed: a Corpus; of an exp.*build_corpus"):
        getattr(iv, name)(tiny())


@pytest.mark.parametrize("name", [*INTERVENTIONS])
def test_code_switching_and_translating_come_last(name):
    dials = {"language.shared_subjects": 0.5, "language.language_token": name == "remove_language_token"}
    dials["tokenizer.shared_tokens"] = 0.5 if name == "merge_vocabularies" else 1.0
    corpus = iv.code_switch(built(**dials), 0.2)
    given_ = {parameter: GIVEN[parameter] for parameter in INTERVENTIONS[name]}
    with pytest.raises(ValueError, match="code-switched; allowed: code_switch once, and after all other"):
        getattr(iv, name)(corpus, **given_)
    with pytest.raises(ValueError, match="in two languages at once; allowed: translate_in_context once, and after all"):
        getattr(iv, name)(iv.translate_in_context(built(**dials), 0.2), **given_)


@pytest.mark.parametrize(
    ("given_", "told"),
    [
        ({"name": "balance_object", "share": 1.0}, "balance_objects"),
        ({"name": "balance_objects"}, "is told nothing; allowed: share"),
        ({"name": "balance_objects", "share": 1.0, "balance": 0.5}, "is told share, balance; allowed: share"),
        ({"name": "add_language_token", "share": 0.5}, "is told share; allowed: nothing"),
        ({"name": "add_parallel", "share": 2.0}, "share=2.0; allowed: number from 0 to 1"),
        ({"name": "share_words", "share": 0.2, "kind": "verbs"}, "'subjects' or 'relations' or 'objects'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(given_, told):
    with pytest.raises(ValueError) as error:
        ul.Intervention(**given_)
    assert re.search(re.escape(told), str(error.value)), error.value
