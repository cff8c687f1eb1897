"""Models whose facts are edited: separate to unified, with shared object words, with two templates (notebook 16)."""

from __future__ import annotations

from typing import Any

from unifylens.designs.common import Design, seeds, small

EDITED_PARALLEL = (0.0, 0.1, 0.15, 0.2, 0.3, 0.6)
"""Shares of parallel facts, from separate models to unified ones; six with ten seeds are sixty models."""

MIDDLING_PARALLEL = (0.1, 0.15, 0.2)
"""Of them those at which some facts transfer and others do not."""

EDITED_WORDS: dict[str, dict[str, Any]] = {
    "separate, object words shared": {"language.shared_objects": 1.0, "language.shared_subjects": 0.0},
    "unified by shared words": {"language.shared_objects": 1.0},
}
"""Two languages that answer in the same words, without parallel facts. In the first nothing else is shared, so that no
fact transfers; in the second all subject words are, which unifies the model: an edit should cross entirely."""

EDITED_TEMPLATES: dict[str, Any] = {
    "corpus.parallel": 0.3,
    "language.templates": ("{subject} {relation} {object}", "{relation} {subject} {object}"),
}
"""Every fact is told in two ways: an edit is made in the first and asked in the second."""


def edited_levels() -> Design:
    """The smaller dish at rising shares of parallel facts; labels parallel, seed."""
    return [
        ({"parallel": level, "seed": seed}, small(**{"corpus.parallel": level, "seed": seed}))
        for level in EDITED_PARALLEL
        for seed in seeds()
    ]


def edited_words() -> Design:
    """The smaller dish without parallel facts, with object words shared; labels words, seed."""
    return [
        ({"words": words, "seed": seed}, small(**changes, **{"corpus.parallel": 0.0, "seed": seed}))
        for words, changes in EDITED_WORDS.items()
        for seed in seeds()
    ]


def edited_templates() -> Design:
    """The smaller dish with two templates; label seed."""
    return [({"seed": seed}, small(**EDITED_TEMPLATES, seed=seed)) for seed in seeds()]
