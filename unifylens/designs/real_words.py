"""Real facts in real words (notebook 12)."""

from __future__ import annotations

from typing import Any

from unifylens.config import Experiment, RealConfig
from unifylens.designs.common import Design, seeds
from unifylens.paths import profile

REAL_WORDS: dict[str, Any] = {
    "language.language_token": True,
    "model.d_model": 96,
    "model.d_mlp": 384,
    "train.steps": 1200,
    "train.n_evaluations": 4,
    "train.n_checkpoints": 1,
    "train.eval_facts": 32,
}
"""The dish for real words: one token a name, a symbol for each relation, a token that names the language."""
REAL_PARALLEL = {"quick": (0.0, 0.3, 0.5), "full": (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)}
FORCES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "romanised": {"real.romanised": True},
    "vocabularies split": {"tokenizer.shared_tokens": 0.0},
    "objects tied to languages": {"corpus.object_skew": 1.0},
    "without leaks": {"real.leaks": False},
}
"""What is changed, one thing at a time, at `FORCES_PARALLEL`."""
FORCES_PARALLEL = 0.3

PIECES_LANGUAGES = ("en", "de", "es", "ru", "uk", "el", "ar", "hi")
REAL_PIECES: dict[str, Any] = {
    "tokenizer.scheme": "bpe",
    "tokenizer.vocab_size": 1500,
    "train.batch_size": 128,
}
"""Names cut into pieces, in fewer languages as rows are four times as long."""
TRAININGS: dict[str, dict[str, Any]] = {
    "joint": {},
    "separate": {"tokenizer.training": "separate", "tokenizer.vocab_size": 400},
    "joint, romanised": {"real.romanised": True},
}


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


def real_pieces() -> Design:
    """Trained subword vocabularies, joint and separate; labels vocabulary, seed."""
    base = {"real.locales": PIECES_LANGUAGES, "corpus.parallel": FORCES_PARALLEL, **REAL_PIECES}
    return [
        ({"vocabulary": name, "seed": seed}, real(**base | changes | {"seed": seed}))
        for name, changes in TRAININGS.items()
        for seed in seeds()
    ]
