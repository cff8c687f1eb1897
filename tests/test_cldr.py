"""Real facts and names: what CLDR says, what is left out, and what is refused."""

from collections import Counter

import numpy as np
import pytest
from conftest import tiny

import unifylens as ul
from unifylens import environment
from unifylens.config import RELATIONS, RealConfig
from unifylens.corpus import cldr

SOME = ("en", "de", "ru", "el", "ja")


def real(**changes):
    kept = {"language.language_token": True, "world": ul.WorldConfig()}
    return tiny(**kept, real=RealConfig(**{"locales": SOME, **changes}))


def test_known_facts_in_known_words():
    corpus = ul.Corpus.build(real())
    countries, relations, answers = corpus.world.codes
    found = {
        (countries[s], relations[r]): tuple(
            (language.subjects[s], language.objects[o]) for language in corpus.languages
        )
        for s, r, o in corpus.world.facts
    }
    assert found["FR", "language"][:3] == (
        ("France", "French"),
        ("Frankreich", "Französisch"),
        ("Франция", "французский"),
    )
    assert found["JP", "continent"][4] == ("日本", "アジア")
    assert found["NA", "subregion"][0] == ("Namibia", "Southern_Africa")  # its code is no gap
    assert found["US", "script"][3] == ("Ηνωμένες_Πολιτείες", "Λατινικό")
    assert found["FR", "currency"][0] == ("France", "Euro")
    assert ("CH", "language") not in found  # several official languages
    assert not {"AQ", "EU", "UN", "XA", "ZZ"} & set(countries)
    assert len(answers) == corpus.world.n_objects


def test_the_default_world_is_as_large_as_it_is_said_to_be():
    config = RealConfig()
    corpus = ul.Corpus.build(ul.Experiment(real=config, language=ul.LanguageConfig(language_token=True)))
    assert corpus.n_languages >= 12 and len({cldr.script(code) for code in config.locales}) >= 8
    assert corpus.n_facts * corpus.n_languages >= 3000 and corpus.world.n_relations >= 5
    for relation in range(corpus.world.n_relations):
        counts = np.bincount(corpus.world.object[corpus.world.relation == relation])
        assert counts[counts > 0].min() >= config.min_countries


def test_every_name_is_one_word_and_every_fact_is_named_in_every_language():
    for romanised in (False, True):
        corpus = ul.Corpus.build(real(romanised=romanised))
        for language in corpus.languages:
            assert all(len(word.split()) == 1 for word in language.words())
            assert all(word.isascii() for word in language.words()) or not romanised


def test_leaks_are_found_and_removed():
    assert cldr.leaks_in("en", "AU", "currency", "AUD") and cldr.leaks_in("ja", "JP", "language", "ja")
    assert not cldr.leaks_in("en", "FR", "continent", "150")
    kept = cldr.facts(SOME, RELATIONS, 3, romanised=False, leaks=False)
    everything = cldr.facts(SOME, RELATIONS, 3, romanised=False, leaks=True)
    assert len(kept) < len(everything)
    assert not any(cldr.leaks_in(locale, *fact) for fact in kept.itertuples(index=False) for locale in SOME)


def test_more_countries_must_share_an_answer():
    few, many = (cldr.facts(SOME, ("currency",), n, romanised=False, leaks=True) for n in (2, 6))
    assert set(many["answer"]) < set(few["answer"])


def test_a_word_for_two_things_is_the_one_that_was_asked_for():
    corpus = ul.Corpus.build(real())
    arabic = {tokens: by for tokens, by in corpus.possible_answers.items() if len(by) > 1}
    assert arabic, "English calls a language and its script Arabic"
    questions = ul.evaluate.Questions.all(corpus)
    assert (questions.answer_types(corpus.due[0, questions.rows]) == 0).all()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"locales": ("en", "xx")}, "CLDR has no data for 'xx'"),
        ({"locales": ("en", "en")}, "each may stand there once"),
        ({"locales": ("en",)}, "allowed: tuple, 2 to 100 of: text"),
        ({"relations": ("capital",)}, "'continent' or 'subregion'"),
        ({"relations": ("currency",), "min_countries": 30}, "'currency' has 1 answers that 30 countries share"),
        ({"sources": "babel 1.0"}, "real.sources='babel 1.0', but"),
    ],
)
def test_what_cannot_be_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        ul.Corpus.build(real(**changes))


def test_real_words_conflict_with_invented_ones():
    for name, value in {"world.n_subjects": 30, "language.n_languages": 3, "language.lexical_distance": 0.5}.items():
        with pytest.raises(ValueError, match=f"{name}={value} conflicts with real"):
            real().replace(**{name: value})
    with pytest.raises(ValueError, match="cannot count the facts of a real world"):
        ul.parallel_window(real(), 0, 10)
    with pytest.raises(ValueError, match="n_parallel=99999 is more than the world's"):
        ul.Corpus.build(real().replace(**{"corpus.parallel": 0.3, "corpus.n_parallel": 99999}))


def test_a_missing_source_is_named(monkeypatch):
    monkeypatch.setattr(environment, "SOURCES", ("babel", "not-there"))
    with pytest.raises(ImportError, match=r"need not-there: pip install 'unifylens\[real\]'"):
        RealConfig()


@pytest.mark.parametrize("scheme", ["word", "bpe"])
def test_models_learn_real_words(scheme):
    pieces = {"tokenizer.scheme": "bpe", "tokenizer.vocab_size": 1200} if scheme == "bpe" else {}
    experiment = real(max_letters=10, max_countries=10).replace(**{"train.steps": 12, "corpus.parallel": 0.5, **pieces})
    run = ul.train(experiment, progress=False)
    said = ul.evaluate.held_out(run.model, run.corpus)
    table = ul.transfer(run.model, run.corpus)
    by_language = (said["answer"] == "right").groupby(said["asked"]).mean()
    assert said.groupby("asked").size().to_dict() == table["n"].to_dict()
    np.testing.assert_allclose(by_language[table.index], table["right"])
    assert (said["home"] != said["asked"]).all() and set(said["relation"]) == set(run.corpus.world.codes[1])
    assert (said["right"] == (said["answer"] == "right")).all()


def test_baselines_of_real_words_need_no_model():
    """Counted by hand: the most frequent answer, and names that are one string in both languages."""
    run = ul.train(real().replace(**{"train.steps": 2, "corpus.parallel": 0.0, "train.warmup": 0}), progress=False)
    said, corpus = ul.evaluate.held_out(run.model, run.corpus), run.corpus
    countries, relations, answers = corpus.world.codes
    kinds = [(relations[r], answers[o]) for _, r, o in corpus.world.facts]
    most = {relation: Counter(a for r, a in kinds if r == relation).most_common(1)[0][0] for relation in relations}
    for row in said.sample(50, random_state=0).itertuples():
        country, (relation, answer) = countries[corpus.world.subject[row.fact]], kinds[row.fact]
        same = cldr.name(row.home, "country", country) == cldr.name(row.asked, "country", country)
        assert row.majority == (answer == most[relation]) and row.same_name == (row.majority or same)


def test_skew_can_be_evened_out():
    everything = cldr.facts(SOME, RELATIONS, 6, romanised=False, leaks=True)
    even = cldr.facts(SOME, RELATIONS, 6, romanised=False, leaks=True, max_countries=8)
    sizes = even.groupby(["relation", "answer"]).size()
    assert sizes.between(6, 8).all() and (sizes.index == everything.groupby(["relation", "answer"]).size().index).all()
    skew = [
        table["answer"][table["relation"] == "script"].value_counts(normalize=True).max()
        for table in (everything, even)
    ]
    assert skew[0] > 0.8 and skew[1] < 0.4
    kept = set(map(tuple, even.to_numpy()))
    assert kept < set(map(tuple, everything.to_numpy()))
    again = cldr.facts(SOME, RELATIONS, 6, romanised=False, leaks=True, max_countries=8)
    assert again.equals(even)


def test_long_names_are_left_out():
    short = cldr.facts(SOME, RELATIONS, 3, romanised=False, leaks=True, max_letters=12)
    everything = cldr.facts(SOME, RELATIONS, 3, romanised=False, leaks=True)
    longest = lambda code: max(len(cldr.name(locale, "country", code)) for locale in SOME)  # noqa: E731
    assert set(short["country"]) <= {code for code in everything["country"] if longest(code) <= 12}
    assert 100 < len(short) < len(everything)
