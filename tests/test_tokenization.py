"""Tables of words: every scheme spells every word, languages share the tokens that the dial says, always the same."""

from collections import Counter
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unifylens.config import LanguageConfig, TokenizerConfig, WorldConfig
from unifylens.corpus.language import Language, make_languages
from unifylens.corpus.tokenization import (
    BOS,
    CONTINUES,
    EOS,
    PAD,
    ROUND_TO,
    Tokenizer,
    cue_symbol,
    language_tag,
    word_counts,
)
from unifylens.corpus.world import World

SIZES = (45, 60, 150, 400)  # letters, first ones counted apart, are fewer than 40
ways = st.one_of(
    st.sampled_from([TokenizerConfig(), TokenizerConfig(scheme="character")]),
    st.builds(
        TokenizerConfig,
        scheme=st.sampled_from(["bpe", "unigram"]),
        vocab_size=st.sampled_from(SIZES),
        training=st.sampled_from(["joint", "separate"]),
    ),
)
EVERY_SCHEME = [
    TokenizerConfig(),
    TokenizerConfig(scheme="character"),
    *(
        TokenizerConfig(scheme=scheme, vocab_size=60, training=t)
        for scheme in ("bpe", "unigram")
        for t in ("joint", "separate")
    ),
]
shares = st.sampled_from([0.0, 0.3, 0.5, 1.0])


@st.composite
def spoken(draw):
    """A small world's languages, and how often their words stand in it."""
    world = World.synthetic(
        WorldConfig(
            n_subjects=draw(st.integers(2, 12)), n_relations=draw(st.integers(1, 3)), n_objects=draw(st.integers(2, 6))
        )
    )
    config = LanguageConfig(
        n_languages=draw(st.integers(2, 4)),
        subject_words=draw(st.integers(1, 3)),
        lexical_distance=draw(st.sampled_from([None, 0.0, 0.2, 0.5, 1.0])),
        shared_subjects=draw(shares),
        shared_objects=draw(shares),
        templates=draw(st.sampled_from([("plain",), ("of", "has")])),
    )
    languages = make_languages(world, config, draw(st.integers(0, 9)))
    return languages, word_counts(world, languages)


def language(*words, name="a"):
    """A language of these words."""
    return Language(name, words, (), (), {})


def made(languages, config, counts=None, **values):
    values = {"shared_tokens": values.pop("shared_tokens", 1.0)}
    return Tokenizer.for_languages(languages, config.model_copy(update=values), weights=counts)


def spelling(tokenizer, index):
    """The pieces, as they are shown, of every word of a language."""
    return {word: [tokenizer.pieces[i] for i in ids] for word, ids in tokenizer.words[index].items()}


# --- words and back ------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(spoken(), ways, shares)
def test_every_scheme_spells_every_word_of_every_language(spoken, config, shared_tokens):
    languages, counts = spoken
    tokenizer = made(languages, config, counts, shared_tokens=shared_tokens)
    tokenizer.check()
    assert len(tokenizer.words) == len(languages)
    for index, own in enumerate(languages):
        words = own.words()
        assert [*tokenizer.words[index]] == words
        assert all(tokenizer.decode(tokenizer.encode([word], index)) == [word] for word in words)
        said = [BOS, language_tag(own), *words, PAD]
        assert tokenizer.decode(tokenizer.encode(said, index)) == said
        assert len(set(tokenizer.words[index].values())) == len(words), "no two words are spelled alike"
        for ids in tokenizer.words[index].values():
            assert ids and not set(ids) & set(tokenizer.special.values())
            first, *rest = (tokenizer.pieces[i] for i in ids)
            assert not first.startswith(CONTINUES) and all(piece.startswith(CONTINUES) for piece in rest)
            if config.scheme == "word":
                assert not rest
            if config.scheme == "character":
                assert {len(piece.removeprefix(CONTINUES)) for piece in (first, *rest)} == {1}


@given(spoken(), ways)
def test_special_tokens_come_first_and_pieces_of_words_fill_up_a_round_number(spoken, config):
    languages, _ = spoken
    tokenizer = Tokenizer.for_languages(languages, config, n_cues=2)
    end = [] if config.scheme == "word" else [EOS]
    special = [PAD, BOS, *end, *map(language_tag, languages), cue_symbol(0), cue_symbol(1)]
    assert [*tokenizer.pieces[: len(special)]] == special == [*tokenizer.special]
    assert [*tokenizer.special.values()] == list(range(len(special)))
    used = {i for table in tokenizer.words for ids in table.values() for i in ids}
    filling = {i for i, piece in enumerate(tokenizer.pieces) if piece == "<unused>"}
    assert used | filling == set(range(len(special), len(tokenizer))) and not used & filling
    assert len(filling) < ROUND_TO
    assert not filling if config.scheme == "word" else len(tokenizer) % ROUND_TO == 0


def test_words_of_no_fact_are_spelled_too():
    """Fewer subjects than objects: some objects answer nothing, and may be all that has some letter."""
    for seed in range(4):
        world = World.synthetic(WorldConfig(n_subjects=2, n_relations=2, n_objects=16), seed)
        languages = make_languages(world, LanguageConfig(lexical_distance=1.0), seed)
        counts = word_counts(world, languages)
        assert 0 in counts.values()
        for config in EVERY_SCHEME:
            made(languages, config, counts)


def test_words_that_are_not_in_the_language_are_named():
    a, b = language("bafo"), language("kedu", name="b")
    for config in EVERY_SCHEME:
        tokenizer = made([a, b], config)
        assert tokenizer.encode(["kedu"], 1)
        with pytest.raises(KeyError, match=r"words outside the 1 words of language 0: \['kedu', '<cue 0>'\]"):
            tokenizer.encode(["bafo", "kedu", BOS, "<cue 0>"], 0)


def test_a_piece_that_goes_on_with_a_word_needs_one_before_it():
    tokenizer = made([language("bafo")], TokenizerConfig(scheme="character"))
    b, a, *_ = tokenizer.encode(["bafo"])
    assert tokenizer.decode([b, a, b]) == ["ba", "b"]
    for ids in ([a], [0, a], [b, a, tokenizer.special[BOS], a]):
        with pytest.raises(ValueError, match=rf"token {a} \('##a'\) goes on with a word, but no word stands before it"):
            tokenizer.decode(ids)


@pytest.mark.parametrize(
    ("tables", "told"),
    [
        ([{"ba": (1, 2), "fa": (3, 2), "bo": (1, 2)}], ["language 0: 'ba' and 'bo' collide in the tokens (1, 2)"]),
        ([{"ba": (1, 2)}, {"fa": (3, 2), "ba": (3, 2)}], ["language 1: 'fa' and 'ba' collide"]),
        (
            [{"ba": (1, 2), "fo": (3, 2)}],
            ["language 0: the tokens (3, 2) of 'fo' spell ['fa']", "allowed: tokens that"],
        ),
        ([{"ba": (1, 2), "bb": (1, 1)}], ["(1, 1) of 'bb' spell ['b', 'b']"]),
        ([{"ba": (1, 2), "nothing": ()}], ["() of 'nothing' spell []"]),
        ([{"a": (2,)}], ["language 0: the tokens (2,) of 'a': token 2 ('##a') goes on with a word, but"]),
    ],
)
def test_a_table_that_does_not_spell_its_words_is_refused(tables, told):
    tokenizer = Tokenizer((PAD, "b", "##a", "f"), {PAD: 0}, tuple(tables), TokenizerConfig())
    with pytest.raises(ValueError) as error:
        tokenizer.check()
    for part in told:
        assert part in str(error.value)


def test_the_same_tokens_in_two_languages_are_no_collision():
    Tokenizer((PAD, "b", "##a"), {PAD: 0}, ({"ba": (1, 2)}, {"ba": (1, 2), "b": (1,)}), TokenizerConfig()).check()


# --- which tokens languages share ----------------------------------------------------------------------------


@given(spoken(), ways)
def test_tokens_are_shared_by_all_languages_that_use_them_or_by_none(spoken, config):
    languages, counts = spoken
    split, merged = (made(languages, config, counts, shared_tokens=share) for share in (0.0, 1.0))
    owners = Counter(chain.from_iterable(set(chain(*spelling(merged, i).values())) for i in range(len(languages))))
    assert split.languages_of().max() == 1
    assert Counter(piece for piece in split.pieces if piece in owners) == owners, "one for each that uses it"
    assert {piece: n for piece, n in zip(merged.pieces, merged.languages_of(), strict=True) if n} == owners
    shared_words = set(languages[0].words()) & set(languages[1].words())
    for word in shared_words:
        assert not set(split.words[0][word]) & set(split.words[1][word])
        if config.training == "joint":
            assert merged.words[0][word] == merged.words[1][word]


@settings(max_examples=25)
@given(spoken(), ways, st.lists(st.integers(0, 20).map(lambda k: k / 20), min_size=2, max_size=2).map(sorted))
def test_a_larger_share_keeps_the_shared_tokens_and_changes_no_spelling(spoken, config, two_shares):
    languages, counts = spoken
    everything = made(languages, config, counts)
    n_candidates = int((everything.languages_of() > 1).sum())
    kept = set()
    for share in two_shares:
        tokenizer = made(languages, config, counts, shared_tokens=share)
        for index in range(len(languages)):
            assert spelling(tokenizer, index) == spelling(everything, index)
        shared = {tokenizer.pieces[i] for i in np.flatnonzero(tokenizer.languages_of() > 1)}
        assert len(shared) == round(share * n_candidates)
        assert kept <= shared
        kept = shared
        # a shared piece is one token in all languages that use it, the others one for each
        again = Counter(tokenizer.pieces)
        assert all(again[piece] == 1 for piece in shared)


def test_which_tokens_are_shared_depends_on_the_seed():
    same = [language("bafo", "kedu", "lumi", "zite"), language("bafo", "kedu", "lumi", "zite", name="b")]
    config = TokenizerConfig(shared_tokens=0.5)
    tables = [Tokenizer.for_languages(same, config, seed).words for seed in (0, 0, 1, 2, 3)]
    assert tables[0] == tables[1] and any(table != tables[0] for table in tables)


# --- training ------------------------------------------------------------------------------------------------


@settings(max_examples=15)
@given(spoken(), ways, shares)
def test_tokens_depend_on_nothing_but_words_settings_and_seed(spoken, config, share):
    languages, counts = spoken
    first, *others = (made(languages, config, counts, shared_tokens=share) for _ in range(3))
    for again in others:
        assert again.pieces == first.pieces and again.words == first.words and again.special == first.special


@pytest.mark.parametrize("scheme", ["bpe", "unigram"])
def test_pieces_that_are_equally_good_are_chosen_alike_every_time(scheme):
    """Many words of the same few syllables make many ties."""
    world = World.synthetic(WorldConfig(n_subjects=60, n_relations=2, n_objects=12), 1)
    languages = make_languages(world, LanguageConfig(), 1)
    config = TokenizerConfig(scheme=scheme, vocab_size=100)
    tables = [made(languages, config, word_counts(world, languages)).words for _ in range(4)]
    assert all(table == tables[0] for table in tables)


@pytest.mark.parametrize("scheme", ["bpe", "unigram"])
@pytest.mark.parametrize("training", ["joint", "separate"])
def test_a_vocabulary_smaller_than_the_alphabet_is_refused(scheme, training):
    # letters: b, f, k first, then a, o, f, b; the second language has fewer
    languages = [language("bafo", "fabo", "kabo"), language("ba", name="b")]
    config = TokenizerConfig(scheme=scheme, vocab_size=6, training=training)
    with pytest.raises(ValueError) as error:
        made(languages, config)
    words = 4 if training == "joint" else 3
    told = f"tokenizer.vocab_size=6 is smaller than the alphabet: {words} words have 7 letters"
    assert told in str(error.value) and "allowed: 7 or more" in str(error.value)
    letters = made(languages, config.model_copy(update={"vocab_size": 7}))
    assert all(len(ids) == len(word) for word, ids in letters.words[0].items())


@settings(max_examples=20)
@given(spoken(), st.sampled_from(["bpe", "unigram"]), st.sampled_from(SIZES))
def test_separate_training_is_training_on_each_languages_own_words(spoken, scheme, size):
    languages, counts = spoken
    config = TokenizerConfig(scheme=scheme, vocab_size=size, training="separate")
    together = made(languages, config, counts)
    for index, own in enumerate(languages):
        assert spelling(together, index) == spelling(made([own], config, counts), 0)
        assert len(set(chain(*spelling(together, index).values()))) <= size


@settings(max_examples=20)
@given(spoken(), st.sampled_from(["bpe", "unigram"]), st.sampled_from(SIZES))
def test_joint_training_cuts_a_word_alike_in_all_languages(spoken, scheme, size):
    languages, counts = spoken
    tokenizer = made(languages, TokenizerConfig(scheme=scheme, vocab_size=size), counts)
    pieces = [spelling(tokenizer, index) for index in range(len(languages))]
    assert all(pieces[0][word] == own[word] for own in pieces[1:] for word in set(pieces[0]) & set(own))
    assert len({piece for own in pieces for piece in chain(*own.values())}) <= size


@pytest.mark.parametrize("scheme", ["bpe", "unigram"])
def test_larger_vocabularies_have_shorter_words_and_frequent_words_are_the_shortest(scheme):
    world = World.synthetic(WorldConfig(n_subjects=60, n_relations=2, n_objects=12), 0)
    languages = make_languages(world, LanguageConfig(), 0)
    counts, lengths = word_counts(world, languages), []
    for size in SIZES:
        tokenizer = made(languages, TokenizerConfig(scheme=scheme, vocab_size=size), counts)
        lengths.append(sum(counts[word] * len(ids) for word, ids in tokenizer.words[0].items()))
    assert lengths == sorted(lengths, reverse=True) and lengths[0] > 1.3 * lengths[-1]


def test_what_is_frequent_is_merged_first():
    words = language("bafo", "kedu")
    config = TokenizerConfig(scheme="bpe", vocab_size=8 + 3)  # eight letters, and as many merges as one word needs
    for frequent, rare in [("bafo", "kedu"), ("kedu", "bafo")]:
        tokenizer = made([words], config, {frequent: 5, rare: 2})
        assert {word: len(ids) for word, ids in tokenizer.words[0].items()} == {frequent: 1, rare: 4}
