"""Interventions on one base setting, and what each force of other notebooks costs in which way (notebook 10)."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from unifylens.config import Experiment, Intervention
from unifylens.designs.common import Design, seeds, small
from unifylens.designs.diagram import diagram_cell
from unifylens.designs.extractability import extractability_dials
from unifylens.designs.informativeness import INFORMATION_PARALLEL

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


TWO_WAYS = {
    "prior": "objects tied to languages",
    "representation": ("exposure uneven", "half of subject words unshared"),
}
"""Forces of `dial_ends` that claims B6 and B6-cause name, by where they are said to lose transfer."""


def dial_ends() -> dict[str, tuple[str, Experiment, Experiment]]:
    """By force of notebooks 07, 08 and 11: the notebook, the dial's end without the force, and the one with it.

    All are settings of these notebooks in either profile. Exposure is the most uneven at which nine in ten copies away
    from home are learnt.
    """
    base = small(**{"corpus.parallel": INFORMATION_PARALLEL})
    told = {
        dial: {level: small(**changes) for level, changes in levels.items()}
        for dial, levels in extractability_dials().items()
    }
    own, cue = told["subject words"]["100% shared"], told["cue"]
    easy, tied, unshared, both = (diagram_cell(skew, shared, 0.4, 0) for shared in (1.0, 0.7) for skew in (0.0, 1.0))
    ends = {
        "07": {
            "objects tied to languages": (base, base.replace(**{"corpus.object_skew": 1.0})),
            "exposure uneven": (base, base.replace(**{"corpus.exposure_balance": 0.2})),
            "half as many parallel facts": (base, base.replace(**{"corpus.parallel": INFORMATION_PARALLEL / 2})),
            "home by subject": (base, base.replace(**{"corpus.home_bias": 1.0})),
            "home by relation": (base, base.replace(**{"corpus.relation_bias": 1.0})),
        },
        "08": {
            "half of subject words unshared": (own, told["subject words"]["50% shared"]),
            "object words unshared": (told["object words"]["100% shared"], own),
            "function words unshared": (told["function words"]["100% shared"], told["function words"]["0% shared"]),
            "language token": (own, told["language token"]["token"]),
            "relation words unshared": (told["relation words"]["100% shared"], told["relation words"]["0% shared"]),
            **{f"language told by {name}": (cue["token"], cue[name]) for name in ("first", "vote", "pair")},
        },
        "11": {
            "objects tied": (easy, tied),
            "30 % of subject words unshared": (easy, unshared),
            "objects tied, words unshared": (easy, both),
        },
    }
    return {force: (notebook, *pair) for notebook, forces in ends.items() for force, pair in forces.items()}


def two_ways() -> Design:
    """Both ends of every force of `dial_ends`; labels notebook, force, end (`without`, `with`), seed.

    Models are those of notebooks 07, 08 and 11 but for some seeds of the last.
    """
    return [
        ({"notebook": notebook, "force": force, "end": end, "seed": seed}, experiment.replace(seed=seed))
        for force, (notebook, without, with_force) in dial_ends().items()
        for end, experiment in (("without", without), ("with", with_force))
        for seed in seeds()
    ]


def separate_donors() -> Design:
    """Models of the same facts as those of `two_ways` from notebooks 07 and 08, without parallel facts; label seed."""
    return [({"seed": seed}, small(seed=seed, **{"corpus.parallel": 0.0})) for seed in seeds()]
