"""What is said: templates filled with words, as token IDs, and where in a row each slot ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from unifylens.corpus.language import Language
from unifylens.corpus.tokenization import BOS, EOS, PAD_ID, Tokenizer, cue_symbol, language_tag
from unifylens.corpus.world import World

LENGTHS_OF = 4
"""Sequences with answers of several tokens are padded to a multiple of this, so that seeds have the same length."""


class Rendering(NamedTuple):
    """One way to say all facts."""

    words: list[str]
    """Those of the template."""
    shift: int = 0
    """A number that shifts which cue each row shows."""
    switched: Int[np.ndarray, "language fact"] | None = None
    """How many languages on the one lies whose word for the subject is said instead of its own; 0 for none."""
    preceded: Int[np.ndarray, "language fact"] | None = None
    """How many languages on the one lies in which the fact is told first, in the same prompt; 0 for none."""


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
    every = range(n_languages)
    symbols = {
        "first": lambda told: [(told, other) for other in every],
        "pair": lambda told: [(one, (told - one) % n_languages) for one in every],
        "vote": lambda told: sorted(
            {own for one in every for own in ((one, told, told), (told, one, told), (told, told, one))}
        ),
    }[cue]
    return [symbols(language) for language in every]


def render(
    world: World,
    languages: Sequence[Language],
    tokenizer: Tokenizer,
    renderings: Sequence[Rendering],
    language_token: bool,
    language_cue: str,
) -> Rendered:
    """Every fact in every language, row `language * n_facts + fact`, in every rendering."""
    renderer = _Renderer(world, languages, tokenizer, language_token, language_cue)
    parts = [renderer.rows(rendering) for rendering in renderings]
    n_prompt = max(int(part.ends["answer"].max()) + 1 for part in parts)
    n_answer = max(int(part.n_answer.max()) for part in parts)
    width = max(part.tokens.shape[1] for part in parts)
    if n_answer > 1:  # room for any answer after any prompt
        width = -(-(n_prompt + n_answer) // LENGTHS_OF) * LENGTHS_OF
    padded = [_padded(part.tokens, width) for part in parts]
    return Rendered(np.stack(padded), [part.ends for part in parts], np.stack([part.n_answer for part in parts]))


class _Renderer:
    """Fills templates with the words that each fact takes in each language."""

    def __init__(
        self,
        world: World,
        languages: Sequence[Language],
        tokenizer: Tokenizer,
        language_token: bool,
        language_cue: str,
    ) -> None:
        self.world, self.languages, self.tokenizer = world, languages, tokenizer
        self.language_token, self.language_cue = language_token, language_cue
        self.patterns = cue_patterns(language_cue, len(languages))
        # which cue a row shows in which rendering is random, so that no rendering has a telling one
        self.order = np.random.default_rng(0).integers(len(self.patterns[0]), size=(len(languages), world.n_facts))
        self.subjects = [tokenizer.encode(name.split(), i) for i, of in enumerate(languages) for name in of.subjects]
        """Token IDs of all subjects' names, language by language."""

    def rows(self, rendering: Rendering) -> _One:
        """Every fact in every language."""
        alone = self._alone(rendering)
        return alone if rendering.preceded is None else self._behind_another(alone, rendering.preceded)

    def _behind_another(self, alone: _One, preceded: Int[np.ndarray, "language fact"]) -> _One:
        """The same behind the fact as another language tells it, where one does; `<bos>` stands once."""
        n_languages, n_facts = preceded.shape
        first = (np.arange(n_languages)[:, None] + preceded) % n_languages * n_facts + np.arange(n_facts)
        none = (preceded == 0).reshape(-1, 1)
        before = np.where(none, PAD_ID, alone.tokens[first.ravel()])
        start = np.where(none, alone.tokens[:, :1], before[:, :1])
        tokens = np.concatenate([start, before[:, 1:], alone.tokens[:, 1:]], 1)
        tokens = _padding_last(tokens)[:, : (tokens != PAD_ID).sum(1).max()]
        n_before = (before[:, 1:] != PAD_ID).sum(1)
        return _One(tokens, {slot: at + n_before for slot, at in alone.ends.items()}, alone.n_answer)

    def _alone(self, rendering: Rendering) -> _One:
        """Every fact in every language, with nothing before it."""
        switched = rendering.switched
        lent = np.zeros(len(self.languages), dtype=int) if switched is None else switched
        by_language = [
            self._columns(index, rendering.words, rendering.shift, lent[index]) for index in range(len(self.languages))
        ]
        slots = [slot for slot, _ in by_language[0]]
        blocks = [np.concatenate([tokens for _, tokens in columns], 1) for columns in by_language]
        counts = [np.stack([(ids != PAD_ID).sum(1) for _, ids in columns], 1) for columns in by_language]
        width = max(block.shape[1] for block in blocks)
        rows = np.concatenate([_padded(block, width) for block in blocks])
        rows = _padding_last(rows)
        n_tokens = np.concatenate(counts)
        ends = n_tokens.cumsum(1) - 1
        answer = slots.index("object")
        where = {slot: ends[:, i] for i, slot in enumerate(slots) if slot not in ("", "object")}
        return _One(rows[:, : ends[:, -1].max() + 1], where | {"answer": ends[:, answer - 1]}, n_tokens[:, answer])

    def _columns(
        self, index: int, template: list[str], shift: int, lent: Int[np.ndarray, " fact"] | int
    ) -> list[tuple[str, Int[np.ndarray, "fact token"]]]:
        """Slots, or nothing where there is none, and token IDs, in the order of the prompt in one language."""
        language, world = self.languages[index], self.world
        columns = [("", self._table(index, [[BOS]]))]
        if self.language_token:
            columns.append(("language", self._table(index, [[language_tag(language)]])))
        if self.language_cue != "none":
            cues = [[*map(cue_symbol, symbols)] for symbols in self.patterns[index]]
            columns.append(("language", self._table(index, cues, (self.order[index] + shift) % len(cues))))
        end = [EOS] if EOS in self.tokenizer.special else []
        for word in template:
            if word == "{subject}":
                lender = (index + lent) % len(self.languages)
                columns.append(("subject", self._chosen(self.subjects, lender * world.n_subjects + world.subject)))
            elif word == "{relation}":
                names = [name.split() for name in language.relations]
                columns.append(("relation", self._table(index, names, world.relation)))
            elif word == "{object}":
                names = [[*name.split(), *end] for name in language.objects]
                columns.append(("object", self._table(index, names, world.object)))
            else:
                columns.append(("", self._table(index, [[language.function_words[word]]])))
        return columns

    def _table(
        self, index: int, names: list[list[str]], which: Int[np.ndarray, " fact"] | int = 0
    ) -> Int[np.ndarray, "fact token"]:
        """Token IDs of the language's name that each fact takes."""
        return self._chosen([self.tokenizer.encode(words, index) for words in names], which)

    def _chosen(self, ids: list[list[int]], which: Int[np.ndarray, " fact"] | int) -> Int[np.ndarray, "fact token"]:
        """The token IDs that each fact takes, padded on the right."""
        padded = np.full((len(ids), max(map(len, ids))), PAD_ID, dtype=np.int64)
        for row, tokens in zip(padded, ids, strict=True):
            row[: len(tokens)] = tokens
        return padded[np.broadcast_to(which, self.world.n_facts)]


def _padding_last(rows: Int[np.ndarray, "row pos"]) -> Int[np.ndarray, "row pos"]:
    return np.take_along_axis(rows, np.argsort(rows == PAD_ID, axis=1, kind="stable"), 1)


def _padded(rows: Int[np.ndarray, "row pos"], width: int) -> Int[np.ndarray, "row width"]:
    return np.pad(rows, ((0, 0), (0, width - rows.shape[1])), constant_values=PAD_ID)
