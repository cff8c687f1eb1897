"""Models that others trained, and what they are asked (notebook 13)."""

from __future__ import annotations

from unifylens.environment import profile

ASKED_LANGUAGES = ("en", "fr", "de", "es", "tr", "ru", "uk", "ar", "fa", "hi")
"""Ten languages: five in Latin letters, two in Cyrillic, two in Arabic ones, one in Devanagari."""
ASKED_RELATIONS = ("continent", "currency", "language")


ASKED_FACTS = {"quick": {"gemma-3-270m": 64, "smollm2-135m-instruct": 16}, "full": {}}
"""Facts of each relation, at most; all there are (some 190, 50 and 70) where nothing is said."""

EDITED_FACTS = {"quick": 2, "full": 8}
"""Facts of each relation that are edited, in every language."""
EDITED_BLOCKS = (3, 11)
"""Whose MLPs are edited: of 3, 5, 7 and 9, the one whose edits hold and best spare other facts (drawn with seed 1000),
and the one before the layer that notebook 13 chooses (12)."""
EDITED_RELATIONS = ("continent", "language")


def per_relation(model: str) -> int:
    """How many facts of each relation a model is asked."""
    return ASKED_FACTS[profile()].get(model, 200)


def n_edited() -> int:
    """How many facts of each relation are edited."""
    return EDITED_FACTS[profile()]
