"""Related words cut into pieces (notebook 09)."""

from __future__ import annotations

from typing import Any

from unifylens.designs.common import Design, few_seeds, seeds, small
from unifylens.environment import profile

PIECES: dict[str, Any] = {
    "world.n_subjects": 80,
    "world.n_relations": 6,
    "language.syllables": (2, 1, 2),
    "language.shared_subjects": 0.0,
    "language.lexical_distance": 0.3,
    "language.language_token": True,
    "tokenizer.scheme": "bpe",
    "tokenizer.vocab_size": 150,
    "train.batch_size": 128,
    "train.lr": 8e-3,
    "train.n_evaluations": 8,
    "train.eval_facts": 96,
}
"""What makes the smaller dish one of related languages with words of several pieces. Rows are longer, facts fewer."""

LEXICAL_DISTANCES = {"quick": (0.0, 0.15, 0.3, 0.6, 1.0), "full": (0.0, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0)}

TOKENIZERS: dict[str, dict[str, Any]] = {
    "words": {"tokenizer.scheme": "word", "tokenizer.vocab_size": None},
    "BPE 300": {"tokenizer.vocab_size": 300},
    "BPE 150": {},
    "BPE 80": {"tokenizer.vocab_size": 80},
    "Unigram 150": {"tokenizer.scheme": "unigram"},
    "letters": {"tokenizer.scheme": "character", "tokenizer.vocab_size": None},
    "separate": {"tokenizer.training": "separate"},
    "half marked": {"tokenizer.shared_tokens": 0.5},
    "all marked": {"tokenizer.shared_tokens": 0.0},
}
"""Tokenizers of the same words (notebook 09); all but `separate`, `half marked` and `all marked` share every piece."""
ONLY_IN_FULL = ("letters",)
"""Rows of letters are the longest, and in these steps they are not learnt (recall 0.44 over three seeds)."""


def lexical_distances() -> Design:
    """Second languages derived from the first by more and more sound changes, and one unrelated; labels kind, level."""
    kinds = {("derived", level): level for level in LEXICAL_DISTANCES[profile()]} | {("unrelated", 1.0): None}
    return [
        (
            {"kind": kind, "level": level, "seed": seed},
            small(**PIECES | {"language.lexical_distance": distance, "seed": seed}),
        )
        for (kind, level), distance in kinds.items()
        for seed in seeds()
    ]


def tokenizers() -> Design:
    """The same words and facts cut into tokens in other ways, at the distance of `PIECES`; label tokenizer."""
    return [
        ({"tokenizer": name, "seed": seed}, small(**PIECES | changes | {"seed": seed}))
        for name, changes in TOKENIZERS.items()
        if profile() == "full" or name not in ONLY_IN_FULL
        for seed in few_seeds(3)
    ]
