"""Models that others trained, and what they are asked (notebook 13)."""

from __future__ import annotations

from unifylens.environment import profile

ASKED_LANGUAGES = ("en", "fr", "de", "es", "tr", "ru", "uk", "ar", "fa", "hi")
"""Ten languages: five in Latin letters, two in Cyrillic, two in Arabic ones, one in Devanagari."""
ASKED_RELATIONS = ("continent", "currency", "language")


ASKED_FACTS = {"quick": {"gemma-3-270m": 64, "smollm2-135m-instruct": 16}, "full": {}}
"""Facts of each relation, at most; all there are (some 190, 50 and 70) where nothing is said."""


def per_relation(model: str) -> int:
    """How many facts of each relation a model is asked."""
    return ASKED_FACTS[profile()].get(model, 200)
