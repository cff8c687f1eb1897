"""Interventions on one base setting (notebook 10)."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from unifylens.config import Intervention
from unifylens.designs.common import Design, seeds, small

TURNING: dict[str, Any] = {
    "world.n_subjects": 100,
    "train.batch_size": 128,
    "train.steps": 500,
    "corpus.parallel": 0.45,
    "corpus.object_skew": 0.8,
    "corpus.exposure_balance": 0.6,
    "language.shared_subjects": 0.75,
    "tokenizer.shared_tokens": 0.85,
}
"""Where interventions begin, in the smaller dish: every one finds something to undo, with room up and down."""


class Turn(NamedTuple):
    """One intervention on `TURNING`, and what was foretold of it before the reported run."""

    of: Literal["data", "tokens"]
    foretold: Literal[1, -1]
    """Whether transfer rises or falls."""
    named: bool
    """Whether the claim (C6 for data, C7 for tokens) rests on it."""
    intervention: Intervention


TURNS: dict[str, Turn] = {
    "parallel facts added": Turn("data", 1, True, Intervention(name="add_parallel", share=0.25)),
    "subjects code-switched": Turn("data", 1, True, Intervention(name="code_switch", share=0.5)),
    "objects balanced": Turn("data", 1, True, Intervention(name="balance_objects", share=1.0)),
    "exposure balanced": Turn("data", 1, False, Intervention(name="rebalance_exposure", balance=1.0)),
    "objects tied to languages": Turn("data", -1, False, Intervention(name="tie_objects", share=1.0)),
    "exposure made uneven": Turn("data", -1, False, Intervention(name="rebalance_exposure", balance=0.3)),
    "parallel facts removed": Turn("data", -1, True, Intervention(name="remove_parallel", share=0.5)),
    "subject words shared": Turn("tokens", 1, True, Intervention(name="share_words", share=1.0, kind="subjects")),
    "object words shared": Turn("tokens", 1, True, Intervention(name="share_words", share=1.0, kind="objects")),
    "vocabularies merged": Turn("tokens", 1, True, Intervention(name="merge_vocabularies", share=1.0)),
    "language token added": Turn("tokens", -1, False, Intervention(name="add_language_token")),
    "every token marked": Turn("tokens", -1, True, Intervention(name="mark_language")),
}


def turning() -> Design:
    """Every intervention alone on one base setting; members of a seed share facts, words and order of examples."""
    base = small(**TURNING)
    what = {"none": ()} | {name: (turn.intervention,) for name, turn in TURNS.items()}
    return [
        ({"intervention": name, "seed": seed}, base.replace(seed=seed, interventions=interventions))
        for name, interventions in what.items()
        for seed in seeds()
    ]
