"""Real facts in real words (notebook 12)."""

from __future__ import annotations

from typing import Any

from unifylens.config import Experiment, RealConfig
from unifylens.designs.common import Design, seeds
from unifylens.environment import profile

REAL_WORDS: dict[str, Any] = {
    "real.min_countries": 6,
    "real.max_letters": 16,
    "language.language_token": True,
    "tokenizer.scheme": "bpe",
    "tokenizer.vocab_size": 4500,
    "model.d_model": 64,
    "model.d_mlp": 256,
    "train.steps": 800,
    "train.batch_size": 128,
    "train.lr": 6e-3,
    "train.weight_decay": 4.0,
    "train.n_evaluations": 2,
    "train.n_checkpoints": 1,
    "train.eval_facts": 32,
}
"""The dish for real words: names cut by one BPE tokenizer, a symbol for each relation, a token for the language.

Countries with long names are left out, as every row is padded to the longest (16 tokens; 48 with all of them).
"""
REAL_PARALLEL = {"quick": (0.0, 0.3, 0.5), "full": (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)}
"""Shares of parallel facts, which are told in all languages."""
FORCES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "romanised": {"real.romanised": True},
    "vocabularies split": {"tokenizer.shared_tokens": 0.0},
    "romanised, vocabularies split": {"real.romanised": True, "tokenizer.shared_tokens": 0.0},
    "objects tied to languages": {"corpus.object_skew": 1.0},
    "without leaks": {"real.leaks": False},
    "few parallel": {"corpus.parallel": 0.1},
    "few parallel, objects tied": {"corpus.parallel": 0.1, "corpus.object_skew": 1.0},
}
"""What is changed, one thing at a time, at `FORCES_PARALLEL`. Split: the same pieces, each language's own tokens.

Objects are tied at few parallel facts, too: with many, what a language is told is mostly what all are told.
"""
FORCES_PARALLEL = 0.3
NAMED_FORCES = (
    ("romanised", "as it is", 1),
    ("romanised, vocabularies split", "romanised", -1),
    ("few parallel, objects tied", "few parallel", -1),
)
"""What claim B4 rests on: a change, what it is compared with, and the direction foretold (tuned on seeds 1000-1003)."""


def real(**changes: Any) -> Experiment:
    """An experiment on real words with some settings changed."""
    return Experiment(real=RealConfig()).replace(**{**REAL_WORDS, **changes})


def real_levels() -> Design:
    """Real words at rising shares of parallel facts; labels parallel, seed."""
    return [
        ({"parallel": level, "seed": seed}, real(**{"corpus.parallel": level, "seed": seed}))
        for level in REAL_PARALLEL[profile()]
        for seed in seeds()
    ]


def real_forces() -> Design:
    """What raises and lowers transfer of real words; labels change, seed."""
    return [
        ({"change": name, "seed": seed}, real(**{"corpus.parallel": FORCES_PARALLEL, "seed": seed} | changes))
        for name, changes in FORCES.items()
        for seed in seeds()
    ]
