"""From words to token IDs. Swapping the tokenizer touches nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from unifylens.language import Language

PAD, BOS = "<pad>", "<bos>"


def language_tag(language: Language) -> str:
    """The token that names a language."""
    return f"<{language.name}>"


@dataclass(frozen=True)
class WordTokenizer:
    """One token per distinct word; words that languages share are one token."""

    vocabulary: tuple[str, ...]
    ids: dict[str, int] = field(repr=False)

    @classmethod
    def for_languages(cls, languages: Sequence[Language]) -> WordTokenizer:
        """Special tokens, a tag per language, then every word once, in the languages' order."""
        words = [PAD, BOS, *(language_tag(language) for language in languages)]
        for language in languages:
            words += language.words()
        vocabulary = tuple(dict.fromkeys(words))
        return cls(vocabulary, {word: i for i, word in enumerate(vocabulary)})

    def __len__(self) -> int:
        """Size of the vocabulary."""
        return len(self.vocabulary)

    def encode(self, words: Sequence[str]) -> list[int]:
        """Token IDs of words. Raises KeyError for a word outside the vocabulary."""
        unknown = [word for word in words if word not in self.ids]
        if unknown:
            raise KeyError(f"words outside the vocabulary of {len(self)} words: {unknown[:5]}")
        return [self.ids[word] for word in words]

    def decode(self, ids: Sequence[int]) -> list[str]:
        """Words of token IDs."""
        return [self.vocabulary[i] for i in ids]
