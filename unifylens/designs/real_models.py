"""Models that others trained, and what they are asked (notebook 13)."""

from __future__ import annotations

from unifylens.paths import profile

ASKED_LANGUAGES = ("en", "fr", "de", "es", "tr", "ru", "uk", "ar", "fa", "hi")
"""Ten languages: five in Latin letters, two in Cyrillic, two in Arabic ones, one in Devanagari."""
ASKED_RELATIONS = ("continent", "currency", "language")


def per_relation() -> int:
    """Facts of each relation: 32 in `quick`, all there are in `full`."""
    return 200 if profile() == "full" else 32
