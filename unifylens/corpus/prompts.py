"""What is said: templates filled with words, as token IDs, and where in a row each slot ends."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from unifylens.corpus.language import Language
from unifylens.corpus.tokenization import BOS, EOS, Tokenizer, cue_symbol, language_tag
from unifylens.corpus.world import World

LENGTHS_OF = 4
"""Sequences with answers of several tokens are padded to a multiple of this, so that seeds have the same length."""


class Rendered(NamedTuple):
    """Rows of tokens of several renderings, and what stands where in them."""

    tokens: Int[np.ndarray, "template row pos"]
    """Prompt, answer and what follows, padded on the right."""
    ends: list[dict[str, Int[np.ndarray, " row"]]]
    """By rendering: position of the last token of each slot, and `answer`, the last token before it."""
    n_answer: Int[np.ndarray, "template row"]
    """Tokens of the answer."""


class _One(NamedTuple):
    tokens: Int[np.ndarray, "row pos"]
    ends: dict[str, Int[np.ndarray, " row"]]
    n_answer: Int[np.ndarray, " row"]


def cue_patterns(cue: str, n_languages: int) -> list[list[tuple[int, ...]]]:
    """By language, the sequences of symbols that tell it: what `LanguageConfig.language_cue` means."""
    if cue == "none":
        return [[()]] * n_languages
    told = {
        "first": lambda symbols: symbols[0],
        "pair": lambda symbols: sum(symbols) % n_languages,
        "vote": lambda symbols: max(range(n_languages), key=symbols.count),
    }[cue]
    every = product(range(n_languages), repeat=3 if cue == "vote" else 2)
    decided = [s for s in every if cue != "vote" or len(set(s)) < 3]
    return [[symbols for symbols in decided if told(symbols) == language] for language in range(n_languages)]


def render(
    world: World,
    languages: Sequence[Language],
    tokenizer: Tokenizer,
    renderings: Sequence[tuple[list[str], int, bool]],
    language_token: bool,
    language_cue: str,
    switched: Int[np.ndarray, "language fact"] | None = None,
) -> Rendered:
    """Every fact in every language, row `language * n_facts + fact`, in every rendering.

    A rendering is a template's words, a number that shifts which cue each row shows, and whether its subjects' words
    are of the language that lies `switched` further on.
    """
    parts = [
        _one(world, languages, tokenizer, words, shift, language_token, language_cue, switched if switch else None)
        for words, shift, switch in renderings
    ]
    n_prompt = max(int(part.ends["answer"].max()) + 1 for part in parts)
    n_answer = max(int(part.n_answer.max()) for part in parts)
    width = max(part.tokens.shape[1] for part in parts)
    if n_answer > 1:  # room for any answer after any prompt
        width = -(-(n_prompt + n_answer) // LENGTHS_OF) * LENGTHS_OF
    padded = [np.pad(part.tokens, ((0, 0), (0, width - part.tokens.shape[1]))) for part in parts]
    return Rendered(np.stack(padded), [part.ends for part in parts], np.stack([part.n_answer for part in parts]))


def _one(
    world: World,
    languages: Sequence[Language],
    tokenizer: Tokenizer,
    template: list[str],
    shift: int,
    language_token: bool,
    language_cue: str,
    switched: Int[np.ndarray, "language fact"] | None,
) -> _One:
    patterns = cue_patterns(language_cue, len(languages))
    # which cue a row shows in which rendering is random, so that no rendering has a telling one
    order = np.random.default_rng(0).integers(len(patterns[0]), size=(len(languages), world.n_facts))
    blocks, counts = [], []

    def chosen(ids: list[list[int]], which: Int[np.ndarray, " fact"] | int = 0) -> np.ndarray:
        """The token IDs that each fact takes, `[fact, token]`, padded on the right."""
        padded = np.zeros((len(ids), max(map(len, ids))), dtype=np.int64)
        for row, tokens in zip(padded, ids, strict=True):
            row[: len(tokens)] = tokens
        return padded[np.broadcast_to(which, world.n_facts)]

    subjects = [tokenizer.encode(name.split(), i) for i, of in enumerate(languages) for name in of.subjects]
    for index, language in enumerate(languages):
        lender = (index + (0 if switched is None else switched[index])) % len(languages)

        def table(names: list[list[str]], which: Int[np.ndarray, " fact"] | int = 0, index: int = index) -> np.ndarray:
            """Token IDs `[fact, token]` of the language's name that each fact takes."""
            return chosen([tokenizer.encode(words, index) for words in names], which)

        named = {
            "{relation}": (language.relations, world.relation),
            "{object}": (language.objects, world.object),
        }
        columns = [("", table([[BOS]]))]
        if language_token:
            columns.append(("language", table([[language_tag(language)]])))
        if language_cue != "none":
            cues = [[*map(cue_symbol, symbols)] for symbols in patterns[index]]
            columns.append(("language", table(cues, (order[index] + shift) % len(cues))))
        for word in template:
            if word == "{subject}":
                columns.append(("subject", chosen(subjects, lender * world.n_subjects + world.subject)))
            elif word in named:
                names, which = named[word]
                end = [EOS] if word == "{object}" and EOS in tokenizer.special else []
                columns.append((word[1:-1], table([[*name.split(), *end] for name in names], which)))
            else:
                columns.append(("", table([[language.function_words[word]]])))
        blocks.append(np.concatenate([tokens for _, tokens in columns], 1))
        counts.append(np.stack([(tokens > 0).sum(1) for _, tokens in columns], 1))
    slots = [name for name, _ in columns]
    width = max(block.shape[1] for block in blocks)
    rows = np.concatenate([np.pad(block, ((0, 0), (0, width - block.shape[1]))) for block in blocks])
    rows = np.take_along_axis(rows, np.argsort(rows == 0, axis=1, kind="stable"), 1)  # padding moves to the right
    n_tokens = np.concatenate(counts)
    ends = n_tokens.cumsum(1) - 1
    answer = slots.index("object")
    where = {slot: ends[:, i] for i, slot in enumerate(slots) if slot not in ("", "object")}
    return _One(rows[:, : ends[:, -1].max() + 1], where | {"answer": ends[:, answer - 1]}, n_tokens[:, answer])
