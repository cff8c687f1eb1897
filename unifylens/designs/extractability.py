"""Dials of how easily the language is read off a prompt (notebook 08)."""

from __future__ import annotations

from typing import Any

from unifylens.designs.common import Design, seeds, small
from unifylens.environment import profile

EXTRACTABILITY_PARALLEL = {"subject": 0.25, "shared": 0.15}
"""Parallel share of the dials of extractability, lower where relation words are shared too: none at its ceiling."""

SHARED_SUBJECTS = {
    "quick": (1.0, 0.7, 0.5, 0.3),
    "full": (1.0, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.3, 0.0),
}
"""The main dial of extractability (C5): shares of subject words that the languages share."""

JUDGED_SHARED = 0.5
"""The level at which C5 is judged, against all words shared."""

FEWER_PARALLEL = {"quick": (0.7, 0.5, 0.3), "full": (0.9, 0.8, 0.7, 0.6, 0.5, 0.3)}
"""Levels of the main dial that are compared with as few parallel facts of shared subject words, and no other."""

SHARED_WORDS = {"quick": (1.0, 0.5, 0.0), "full": (1.0, 0.75, 0.5, 0.25, 0.0)}

SHARED_FUNCTION_WORDS = {"quick": (1.0, 0.0), "full": (1.0, 2 / 3, 1 / 3, 0.0)}

LANGUAGE_CUES = ("token", "first", "vote", "pair")
"""How the language is told where all words of a prompt are shared: by one token, or by symbols (`language_cue`)."""


def extractability_dials() -> dict[str, dict[str, dict[str, Any]]]:
    """By dial and level, what changes in the small dish: how far a prompt gives its language away.

    Every dial moves one thing. `subject words`, `object words`, `function words`: the share that the languages have in
    common, relation words being their own. `language token`: without and with. `relation words`: the same share under a
    language token, so that prompts stay unambiguous. `cue`: all words shared, and the language told in other ways.
    """
    own = {"corpus.parallel": EXTRACTABILITY_PARALLEL["subject"]}
    told = {"corpus.parallel": EXTRACTABILITY_PARALLEL["shared"], "language.language_token": True}
    all_shared = told | {"language.shared_relations": 1.0}
    cues = {"token": all_shared} | {
        cue: all_shared | {"language.language_token": False, "language.language_cue": cue} for cue in LANGUAGE_CUES[1:]
    }

    def sharing(base: dict[str, Any], kind: str, levels: tuple[float, ...]) -> dict[str, dict[str, Any]]:
        return {f"{level:.0%} shared": base | {f"language.shared_{kind}": level} for level in levels}

    size = profile()
    return {
        "subject words": sharing(own, "subjects", SHARED_SUBJECTS[size]),
        "object words": sharing(own, "objects", SHARED_WORDS[size]),
        "function words": sharing(own | {"language.templates": ("of",)}, "function_words", SHARED_FUNCTION_WORDS[size]),
        "language token": {"none": own, "token": own | {"language.language_token": True}},
        "relation words": sharing(told, "relations", SHARED_WORDS[size]),
        "cue": cues,
    }


def fewer_parallel() -> Design:
    """All subject words shared, and as many parallel facts as have shared ones at a level of the main dial.

    Label `level` is that level's share of subject words: facts whose own words are shared stand beside equally many
    parallel ones of their kind, here with no others around.
    """
    parallel = EXTRACTABILITY_PARALLEL["subject"]
    return [
        ({"level": level, "seed": seed}, small(**{"corpus.parallel": parallel * level, "seed": seed}))
        for level in FEWER_PARALLEL[profile()]
        for seed in seeds()
    ]


def extractability() -> Design:
    """The dials of extractability in the small dish; settings that two dials have in common are trained once."""
    return [
        ({"dial": dial, "level": level, "seed": seed}, small(seed=seed, **changes))
        for dial, levels in extractability_dials().items()
        for level, changes in levels.items()
        for seed in seeds()
    ]
