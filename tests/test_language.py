"""Words: shared exactly as the dials say, everything else left as it was."""

import math
from collections import Counter

import numpy as np
import pytest
from conftest import tiny
from hypothesis import given
from hypothesis import strategies as st

from unifylens.config import TEMPLATES, LanguageConfig, WorldConfig
from unifylens.corpus import language as surface
from unifylens.corpus.corpus import Corpus
from unifylens.corpus.language import Language, lexical_distance, make_languages, sound_changes
from unifylens.corpus.tokenization import BOS, PAD, Tokenizer
from unifylens.corpus.world import World

KINDS = ("subjects", "relations", "objects", "function_words")
ALL_TEMPLATES = tuple(TEMPLATES)
FUNCTION_WORDS = {w for text in TEMPLATES.values() for w in text.split() if not w.startswith("{")}
shares = st.integers(0, 20).map(lambda k: k / 20)
dials = st.fixed_dictionaries({f"shared_{kind}": shares for kind in KINDS})
word_counts = st.integers(1, 3)


def languages(seed=0, n_languages=3, n_subjects=25, **values):
    world = World.synthetic(WorldConfig(n_subjects=n_subjects, n_relations=3, n_objects=5), seed)
    config = LanguageConfig(n_languages=n_languages, templates=ALL_TEMPLATES, **values)
    return make_languages(world, config, seed)


def words(language, kind):
    found = getattr(language, kind)
    return [found[name] for name in sorted(found)] if isinstance(found, dict) else list(found)


@given(dials, st.integers(2, 4), st.integers(0, 3))
def test_shares_are_exact_and_all_other_words_unique(values, n_languages, seed):
    first, *others = languages(seed, n_languages, **values)
    n_words = n_distinct = sum(len(words(first, kind)) for kind in KINDS)
    assert len(first.words()) == n_words
    for other in others:
        assert len(other.words()) == n_words
        assert set(other.function_words) == FUNCTION_WORDS
        for kind in KINDS:
            same = [a == b for a, b in zip(words(first, kind), words(other, kind), strict=True)]
            assert sum(same) == round(values[f"shared_{kind}"] * len(same))
            # a word is shared at its own place or not at all
            assert len(set(words(first, kind)) & set(words(other, kind))) == sum(same)
            n_distinct += len(same) - sum(same)
    assert len(set().union(*(language.words() for language in (first, *others)))) == n_distinct
    assert len({language.name for language in (first, *others)}) == n_languages


@given(dials, st.sampled_from(KINDS), shares, st.integers(2, 4), word_counts)
def test_raising_a_share_changes_only_the_words_it_must(values, kind, other_share, n_languages, subject_words):
    values["subject_words"] = subject_words
    low, high = sorted([values[f"shared_{kind}"], other_share])
    before = languages(n_languages=n_languages, **{**values, f"shared_{kind}": low})
    after = languages(n_languages=n_languages, **{**values, f"shared_{kind}": high})
    assert after[0] == before[0]
    for old, new in zip(before[1:], after[1:], strict=True):
        for other_kind in KINDS:
            changed = 0
            triples = zip(*(words(x, other_kind) for x in (before[0], old, new)), strict=True)
            for shared_word, old_word, new_word in triples:
                if old_word != new_word:
                    changed += 1
                    assert other_kind == kind and new_word == shared_word
            if other_kind == kind:
                n = len(words(old, kind))
                assert changed == round(high * n) - round(low * n)


def test_more_languages_leave_the_first_ones_as_they_were():
    assert languages(n_languages=5)[:2] == languages(n_languages=2)


def test_other_seeds_have_other_words():
    a, b = (set(languages(seed=seed, n_languages=2)[0].words()) for seed in (0, 1))
    assert len(a & b) < len(a) / 4


@given(st.integers(2, 4), st.integers(2, 60), shares, st.integers(0, 3))
def test_names_of_several_words_are_distinct_and_shared_whole(n_words, n_subjects, share, seed):
    first, *others = languages(seed, n_subjects=n_subjects, subject_words=n_words, shared_subjects=share)
    for language in (first, *others):
        names = [name.split() for name in language.subjects]
        assert len(set(language.subjects)) == n_subjects and {len(name) for name in names} == {n_words}
        assert len(language.words()) == len(set(language.words()))
        assert {word for name in names for word in name} <= set(language.words())
    for other in others:
        same = [a == b for a, b in zip(first.subjects, other.subjects, strict=True)]
        assert sum(same) == round(share * n_subjects)
        own = {word for name, shared in zip(other.subjects, same, strict=True) if not shared for word in name.split()}
        assert not own & set(first.words())


@pytest.mark.parametrize("n_words", [2, 3, 4])
def test_a_word_of_a_name_tells_little_alone(n_words):
    n_subjects = 400
    for language in languages(n_subjects=n_subjects, subject_words=n_words, shared_subjects=0.0):
        places = list(zip(*(name.split() for name in language.subjects), strict=True))
        counts = [Counter(words) for words in places]
        assert len(set().union(*counts)) == sum(map(len, counts))  # each word has its place in the name
        for count in counts:
            assert min(count.values()) >= 2
            assert len(count) <= math.ceil((2 * n_subjects) ** (1 / n_words))


def test_names_of_one_word_are_what_they_were_before_there_were_longer_ones():
    assert [language.subjects[:3] for language in languages(n_languages=2, shared_subjects=0.0)] == [
        ("trivode", "zepoume", "tredoke"),
        ("bafoumou", "komoufo", "dudafo"),
    ]


def test_words_grow_rather_than_run_out():
    many = languages(n_languages=30, n_subjects=2)
    inventories = [set(language.function_words.values()) for language in many]
    assert len(set().union(*inventories)) == 30 * len(FUNCTION_WORDS)
    assert len({language.name for language in many}) == 30


@pytest.mark.parametrize("subject_words", [1, 3])
@pytest.mark.parametrize("language_token", [False, True])
@pytest.mark.parametrize("name", TEMPLATES)
def test_texts_say_the_template_in_the_words_of_the_language(name, language_token, subject_words):
    dials = {"templates": (name,), "language_token": language_token, "subject_words": subject_words}
    experiment = tiny(**{f"language.{dial}": value for dial, value in dials.items()})
    corpus = Corpus.build(experiment)
    for code, language in enumerate(corpus.languages):
        for fact, (subject, relation, obj) in enumerate(corpus.world.facts[:7]):
            expected = ["<bos>", *([f"<{language.name}>"] if language_token else [])]
            for word in TEMPLATES[name].split():
                if word == "{object}":
                    expected.append("→")
                fillers = {
                    "{subject}": language.subjects[subject],
                    "{relation}": language.relations[relation],
                    "{object}": language.objects[obj],
                }
                expected.append(fillers.get(word) or language.function_words[word])
            assert corpus.text(code, fact) == " ".join(expected)
            assert corpus.text(code, fact, answer=False) == " ".join(expected).split(" →")[0]


@given(dials, st.integers(2, 4), word_counts)
def test_ids_and_words_are_each_others_inverse(values, n_languages, subject_words):
    spoken = languages(n_languages=n_languages, subject_words=subject_words, **values)
    tokenizer = Tokenizer.for_languages(spoken)
    distinct = set().union(*(language.words() for language in spoken))
    for index, language in enumerate(spoken):
        everything = [PAD, BOS, f"<{language.name}>", *sorted(language.words())]
        ids = tokenizer.encode(everything, index)
        assert len(ids) == len(set(ids)) == len(everything) and tokenizer.decode(ids) == everything
    assert len(tokenizer) == len(set(tokenizer.pieces)) == 2 + n_languages + len(distinct)
    assert tokenizer.encode([PAD]) == [0]  # the loss ignores 0


def test_unknown_words_are_named():
    spoken = languages(n_languages=2, shared_subjects=0.0)
    tokenizer = Tokenizer.for_languages(spoken)
    with pytest.raises(KeyError, match="qqq"):
        tokenizer.encode([BOS, "qqq"])
    foreign = spoken[1].subjects[0]
    with pytest.raises(KeyError, match=f"language 0: .*{foreign}"):
        tokenizer.encode([foreign], 0)
    assert tokenizer.encode([foreign], 1)


@given(st.integers(0, 50), st.integers(1, 3), st.lists(st.floats(0, 1), min_size=2, max_size=2).map(sorted))
def test_sound_changes_are_regular_and_a_larger_share_keeps_the_smaller_ones(seed, index, shares):
    small, large = (sound_changes(share, seed, index) for share in shares)
    assert set(small.items()) <= set(large.items())
    for changes in (small, large):
        assert sorted(changes) == sorted(changes.values()) and all(old != new for old, new in changes.items())
        vowels = {ord(vowel) for vowel in "aeiou"}
        assert all((old in vowels) == (new in vowels) for old, new in changes.items())
    assert not sound_changes(0.0, seed, index) and len(sound_changes(1.0, seed, index)) == 21


@given(st.integers(0, 20), st.lists(st.floats(0, 1), min_size=2, max_size=2).map(sorted))
def test_lexical_distance_grows_with_the_dial(seed, shares):
    def measured(share):
        return lexical_distance(
            *languages(n_languages=2, shared_subjects=0.0, lexical_distance=share, language_token=True, seed=seed)
        )

    near, far = map(measured, shares)
    assert near <= far and measured(0.0) == 0 and measured(1.0) > 0.9


def test_lexical_distance_by_hand():
    one, other = (
        Language(name, (subject,), (relation,), (thing,), {})
        for name, subject, relation, thing in (("a", "kitten", "on", "abc"), ("b", "sitting", "on", "xyzw"))
    )
    assert lexical_distance(one, other) == pytest.approx((3 / 7 + 0 + 4 / 4) / 3)


@pytest.mark.parametrize("syllables", [1, 2, 3])
def test_words_drawn_at_once_are_those_drawn_one_by_one(syllables):
    """And the generator is left where it would be: names of several words go on with it."""
    changes = [surface.sound_changes(0.5, seed=0, index=1)]
    at_once, one_by_one = np.random.default_rng(0), np.random.default_rng(0)
    words = surface._invent_words(60, at_once, {"ba"}, syllables, changes)
    taken, expected = {"ba"}, []
    while len(expected) < 60:
        pieces = [one_by_one.choice(part) for _ in range(syllables) for part in (surface.ONSETS, surface.VOWELS)]
        forms = {"".join(pieces), "".join(pieces).translate(changes[0])}
        if not forms & taken:
            taken |= forms
            expected.append("".join(pieces))
    assert words == expected and at_once.random() == one_by_one.random()
