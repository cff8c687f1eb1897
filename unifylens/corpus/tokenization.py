"""From words to token IDs: a table for each language. Swapping the tokenizer touches nothing else."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np
import sentencepiece
import tokenizers
from tokenizers import models, trainers

from unifylens.config import TokenizerConfig
from unifylens.corpus.language import Language
from unifylens.corpus.world import World
from unifylens.seeds import rng

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
PAD_ID = 0
"""Token ID of padding in every vocabulary."""
CONTINUES = "##"
"""In front of a piece that goes on with a word."""
ROUND_TO = 32
"""Vocabularies of pieces are filled up to a multiple of this, so that models of several seeds have one shape."""

Pieces = dict[str, list[str]]
"""The pieces that each word of a language is made of."""


def language_tag(language: Language) -> str:
    """The token that names a language."""
    return f"<{language.name}>"


def cue_symbol(index: int) -> str:
    """A token that tells the language only together with others, or by its place."""
    return f"<cue {index}>"


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """What every token spells, and the tokens of every word of every language."""

    pieces: tuple[str, ...]
    """By token ID; a piece that goes on with a word begins with `##`. One marked by language stands once for each."""
    special: dict[str, int]
    """Token IDs of `<pad>` (0), `<bos>`, where answers have several tokens `<eos>`, language tags and cue symbols."""
    words: tuple[Mapping[str, tuple[int, ...]], ...]
    """By language: token IDs of each word."""
    config: TokenizerConfig
    """How it was made."""

    @classmethod
    def for_languages(
        cls,
        languages: Sequence[Language],
        config: TokenizerConfig | None = None,
        seed: int = 0,
        weights: Mapping[str, int] | None = None,
        n_cues: int = 0,
    ) -> Tokenizer:
        """Cut words into pieces and number the pieces, after the special tokens, `n_cues` symbols among them.

        `weights` is how often training counts each word (at least once).

        Raises ValueError for a vocabulary smaller than the alphabet, and for words that come out alike or cannot be
        spelled back.
        """
        config = TokenizerConfig() if config is None else config
        inventories = [language.words() for language in languages]
        cut = _cut(inventories, config, weights or {})
        end = [] if config.scheme == "word" else [EOS]  # a word of one token has no end to tell
        special = [PAD, BOS, *end, *map(language_tag, languages), *map(cue_symbol, range(n_cues))]
        pieces = [*special]
        ids: dict[tuple[int, str], int] = {}
        shared = _shared_pieces(cut, config.shared_tokens, seed)
        for index, words in enumerate(cut):
            for piece in chain.from_iterable(words.values()):
                if (index, piece) not in ids:
                    owners = range(len(cut)) if piece in shared else [index]
                    ids |= {(owner, piece): len(pieces) for owner in owners}
                    pieces.append(piece)
        if config.scheme != "word":
            pieces += ["<unused>"] * (-len(pieces) % ROUND_TO)
        made = cls(
            pieces=tuple(pieces),
            special={name: i for i, name in enumerate(special)},
            words=tuple(
                {word: tuple(ids[index, piece] for piece in cut_word) for word, cut_word in words.items()}
                for index, words in enumerate(cut)
            ),
            config=config,
        )
        made.check()
        return made

    def __len__(self) -> int:
        """Size of the vocabulary."""
        return len(self.pieces)

    def encode(self, words: Sequence[str], language: int = 0) -> list[int]:
        """Token IDs of a language's words, or of special tokens. Raises KeyError for any other word."""
        table = self.words[language]
        unknown = [word for word in words if word not in table and word not in self.special]
        if unknown:
            raise KeyError(f"words outside the {len(table)} words of language {language}: {unknown[:5]}")
        return [i for word in words for i in (table[word] if word in table else (self.special[word],))]

    def decode(self, ids: Sequence[int]) -> list[str]:
        """Words of token IDs. Raises ValueError where a word would begin with a piece that goes on with one."""
        words: list[str] = []
        for i in ids:
            piece = self.pieces[i]
            if not piece.startswith(CONTINUES):
                words.append(piece)
            elif words and words[-1] not in self.special:
                words[-1] += piece.removeprefix(CONTINUES)
            else:
                raise ValueError(f"token {i} ({piece!r}) goes on with a word, but no word stands before it.")
        return words

    def check(self) -> None:
        """Raise ValueError if two words of a language have the same tokens, or a word is not spelled by its tokens."""
        for language, table in enumerate(self.words):
            by_tokens: dict[tuple[int, ...], str] = {}
            for word, ids in table.items():
                if (other := by_tokens.setdefault(ids, word)) != word:
                    raise ValueError(f"language {language}: {other!r} and {word!r} collide in the tokens {ids}.")
                try:
                    spelled = self.decode(ids)
                except ValueError as error:
                    raise ValueError(f"language {language}: the tokens {ids} of {word!r}: {error}") from None
                if spelled != [word]:
                    raise ValueError(
                        f"language {language}: the tokens {ids} of {word!r} spell {spelled}; allowed: tokens that "
                        "spell the word."
                    )

    def used_by(self) -> np.ndarray:
        """`[language, vocab]`: whether a token is used in a language."""
        used = np.zeros((len(self.words), len(self)), dtype=bool)
        for language, table in enumerate(self.words):
            used[language, [i for ids in table.values() for i in ids]] = True
        return used

    def languages_of(self) -> np.ndarray:
        """`[vocab]`: in how many languages a token is used."""
        return self.used_by().sum(0)


def _shared_pieces(cut: list[Pieces], share: float, seed: int) -> set[str]:
    """Pieces that are one token in all languages; a larger share keeps the smaller one's."""
    used = [dict.fromkeys(chain.from_iterable(words.values())) for words in cut]
    common = [piece for piece in used[0] if all(piece in other for other in used[1:])]
    known = set(common)
    several = [p for p in dict.fromkeys(chain(*used)) if p not in known and sum(p in one for one in used) > 1]
    candidates = common + several
    order = rng(seed, "shared tokens").permutation(len(candidates))
    return {candidates[i] for i in order[: round(share * len(candidates))]}


def _cut(inventories: list[list[str]], config: TokenizerConfig, weights: Mapping[str, int]) -> list[Pieces]:
    """Pieces of every word, by language."""
    if config.scheme == "word":
        return [{word: [word] for word in words} for words in inventories]
    initial = sorted({word[0] for words in inventories for word in words})
    spelling = _Spelling({letter: chr(0xE000 + i) for i, letter in enumerate(initial)})
    if config.scheme == "character":
        return [{word: [spelling.piece(x) for x in spelling.of(word)] for word in words} for words in inventories]
    groups = inventories if config.training == "separate" else [list(dict.fromkeys(chain(*inventories)))]
    trained = [_train(words, config, weights, spelling) for words in groups]
    if len(trained) == 1:
        trained *= len(inventories)
    return [
        {word: [spelling.piece(x) for x in cut(spelling.of(word))] for word in words}
        for cut, words in zip(trained, inventories, strict=True)
    ]


@dataclass(frozen=True)
class _Spelling:
    """Spells a word's first letter by a letter of its own (private use area), so that pieces show where words begin."""

    initial: dict[str, str]

    def of(self, word: str) -> str:
        """The word as tokenizers are trained on it."""
        return self.initial[word[0]] + word[1:]

    def piece(self, text: str) -> str:
        """A trained piece as it is shown: plain at the beginning of a word, else behind `##`."""
        letter = self._plain.get(text[0])
        return CONTINUES + text if letter is None else letter + text[1:]

    @cached_property
    def _plain(self) -> dict[str, str]:
        return {mark: letter for letter, mark in self.initial.items()}


def _train(
    words: list[str], config: TokenizerConfig, weights: Mapping[str, int], spelling: _Spelling
) -> Callable[[str], list[str]]:
    """What a BPE or Unigram model, trained on these words, cuts a spelled word into."""
    counts = {spelling.of(word): max(1, weights.get(word, 1)) for word in words}  # words of no fact are spelled, too
    alphabet = set(chain.from_iterable(counts))
    if config.vocab_size < len(alphabet):
        raise ValueError(
            f"tokenizer.vocab_size={config.vocab_size} is smaller than the alphabet: {len(words)} words have "
            f"{len(alphabet)} letters (first letters counted apart); allowed: {len(alphabet)} or more."
        )
    text = (spelled for spelled, n in counts.items() for _ in range(n))
    if config.scheme == "bpe":
        model = tokenizers.Tokenizer(models.BPE())
        trainer = trainers.BpeTrainer(vocab_size=config.vocab_size, show_progress=False, special_tokens=[])
        model.train_from_iterator(text, trainer)
        return lambda spelled: model.encode(spelled).tokens
    # the Unigram trainer of `tokenizers` breaks ties in the random order of a hash table
    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=text,
        model_writer=trained,
        model_type="unigram",
        vocab_size=config.vocab_size + 1,  # and the unknown piece
        hard_vocab_limit=False,
        character_coverage=1.0,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        split_by_unicode_script=False,
        split_by_number=False,
        bos_id=-1,
        eos_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    processor = sentencepiece.SentencePieceProcessor(model_proto=trained.getvalue())
    return lambda spelled: processor.encode(spelled, out_type=str)


def make_tokenizer(
    world: World, languages: Sequence[Language], config: TokenizerConfig, language_cue: str, seed: int
) -> Tokenizer:
    """The tokenizer of these languages, trained on the words of all facts."""
    n_cues = 0 if language_cue == "none" else len(languages)
    return Tokenizer.for_languages(languages, config, seed, word_counts(world, languages), n_cues)


def word_counts(world: World, languages: Sequence[Language]) -> Counter[str]:
    """In how many facts each word stands, summed over the languages that use it: what tokenizers are trained on."""
    counts: Counter[str] = Counter()
    for language in languages:
        for names, which in zip((language.subjects, language.relations, language.objects), world.facts.T, strict=True):
            for name, count in zip(names, np.bincount(which, minlength=len(names)).tolist(), strict=True):
                counts.update({word: count for word in name.split()})
        counts.update(dict.fromkeys(language.function_words.values(), world.n_facts))
    return counts
