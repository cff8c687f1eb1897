"""Which experiments the notebooks run, in each profile: lists of `(labels, experiment)` for `train_design`.

Members of a design differ only in what their labels say, so those of one seed start from the same weights.
Reported seeds are 0, 1, 2, ...; everything was tuned on seeds from 1000.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np

from unifylens.config import Experiment, Intervention
from unifylens.corpus import parallel_window
from unifylens.information import entropy
from unifylens.paths import profile

Design = list[tuple[dict[str, Any], Experiment]]

PARALLEL_LEVELS = {
    "quick": (0.0, 0.05, 0.1, 0.2, 0.3, 0.6),
    "full": (0.0, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6),
}
BOUNDARIES = {"quick": (1 / 3, 1 / 2, 2 / 3), "full": (1 / 3, 5 / 12, 1 / 2, 7 / 12, 2 / 3)}

SCHEDULES = {
    "cosine": {},
    "constant": {"train.schedule": "constant"},
    "matched": {"train.cycles": 2},
}
"""Learning rates of the critical-period experiment; `matched` gives both halves of training the same cosine."""

CRITICAL_PARALLEL = 0.4

MIXED_DIALS: dict[str, dict[str, Any]] = {
    "subject words 70 % shared": {"language.shared_subjects": 0.7},
    "subject words 30 % shared": {"language.shared_subjects": 0.3},
    "subject words not shared": {"language.shared_subjects": 0.0},
    "relation words half shared, language token": {
        "language.shared_relations": 0.5,
        "language.language_token": True,
        "corpus.parallel": 0.1,
    },
    "relation words shared, language token": {
        "language.shared_relations": 1.0,
        "language.language_token": True,
        "corpus.parallel": 0.1,
    },
    "object words half shared": {"language.shared_objects": 0.5, "corpus.parallel": 0.1},
    "exposure 70:30": {"corpus.exposure_balance": 0.6},
    "exposure 90:10": {"corpus.exposure_balance": 0.2},
    "objects tied to the language": {"corpus.object_skew": 1.0},
    "weight decay 0.1": {"train.weight_decay": 0.1},
    "weight decay 0.5": {"train.weight_decay": 0.5},
    "three languages": {"language.n_languages": 3, "corpus.parallel": 0.1},
}

SMALL: dict[str, Any] = {
    "world.n_subjects": 200,
    "world.n_objects": 8,
    "train.steps": 400,
    "train.lr": 6e-3,
    "train.weight_decay": 4.0,
    "train.n_evaluations": 12,
    "train.n_checkpoints": 1,
}
"""A smaller dish, learnt in a fifth of the time: for designs of many dials. Chance of a transfer is 1/8."""

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

INFORMATION_PARALLEL = 0.2
EXPOSURE_BALANCES = {
    "quick": (1.0, 0.6, 0.4, 0.2, 0.1, 0.02),
    "full": (1.0, 0.8, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.04, 0.02),
}
"""Exposure of a parallel fact's copy away from home, in units of a balanced one: from 50:50 to 99:1."""
MATCHED_BALANCES = {"quick": (0.4,), "full": (0.6, 0.4, 0.3, 0.2)}
"""Those at which exposure and information are taken apart."""
INFORMATION_DIALS = {
    "object skew": ("corpus.object_skew", {"quick": (0.0, 0.5, 1.0), "full": (0.0, 0.25, 0.5, 0.75, 1.0)}),
    "home by subject": ("corpus.home_bias", {"quick": (0.0, 1.0), "full": (0.0, 0.25, 0.5, 0.75, 1.0)}),
    "home by relation": ("corpus.relation_bias", {"quick": (0.0, 1.0), "full": (0.0, 0.25, 0.5, 0.75, 1.0)}),
    "parallel share": ("corpus.parallel", {"quick": (0.1, 0.2), "full": (0.05, 0.1, 0.2, 0.3, 0.4)}),
}
"""Other dials that make data tell its language; exposure stays balanced."""

DIAGRAM: dict[str, Any] = {
    "world.n_subjects": 120,
    "model.d_model": 48,
    "model.d_mlp": 192,
    "train.batch_size": 192,
    "train.n_evaluations": 2,
}
"""The small dish made smaller, for the hundreds of models of a diagram; its recall is still complete."""
DIAGRAM_PARALLEL = {
    "quick": (0.1, 0.2, 0.4, 0.8),
    "full": (0.05, 0.1, 0.14, 0.2, 0.28, 0.4, 0.57, 0.8),
}
DIAGRAM_SKEWS = {"quick": (0.0, 1.0), "full": (0.0, 0.25, 0.5, 0.75, 1.0)}
DIAGRAM_SHARED = {"quick": (1.0, 0.85, 0.7), "full": (1.0, 0.925, 0.85, 0.775, 0.7)}
DIAGRAM_CORNERS = {"easy": (0.0, 1.0), "hard": (1.0, 0.7)}
"""Object skew and share of subject words that are shared, where both forces are weakest and strongest."""
DIAGRAM_VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "quick": {
        "d_model 64": {"model.d_model": 64, "model.d_mlp": 256},
        "weight decay 2": {"train.weight_decay": 2.0},
        "3 languages": {"language.n_languages": 3},
        "480 facts": {"world.n_subjects": 60},
    },
    "full": {
        "d_model 32": {"model.d_model": 32, "model.d_mlp": 128},
        "d_model 64": {"model.d_model": 64, "model.d_mlp": 256},
        "d_model 96": {"model.d_model": 96, "model.d_mlp": 384},
        "1 layer": {"model.n_layers": 1},
        "3 layers": {"model.n_layers": 3},
        "weight decay 1": {"train.weight_decay": 1.0},
        "weight decay 2": {"train.weight_decay": 2.0},
        "weight decay 8": {"train.weight_decay": 8.0},
        "3 languages": {"language.n_languages": 3},
        "4 languages": {"language.n_languages": 4},
        "5 languages": {"language.n_languages": 5},
        "480 facts": {"world.n_subjects": 60},
        "1920 facts": {"world.n_subjects": 240},
    },
}
"""What the easy corner is varied in, one thing at a time."""

UNIFIED_AND_SEPARATE = {"unified": 0.6, "separate": 0.0}
"""Shares of parallel facts that give models of the two kinds for certain (notebook 01)."""

LATE_READING: dict[str, Any] = {
    "world.n_subjects": 300,
    "language.n_languages": 4,
    "language.templates": ("the {subject} has {relation} {object}",),
    "model.n_layers": 3,
    "model.local_blocks": 1,
    "train.steps": 1300,
}
"""A dish whose last position cannot read the subject in the first block, which sees one token back: until then all that
is known of the subject stands at two positions, its own and the next, mixed with words that tell the language."""
LATE_READING_POSITIONS = (2, 3)

EXTRACTABILITY_PARALLEL = {"subject": 0.25, "shared": 0.15}
"""Parallel share of the dials of extractability, lower where relation words are shared too: none at its ceiling."""
SHARED_SUBJECTS = {
    "quick": (1.0, 0.9, 0.8, 0.7, 0.5, 0.3),
    "full": (1.0, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.3, 0.0),
}
"""The main dial of extractability (C5): shares of subject words that the languages share."""
SHARED_WORDS = {"quick": (1.0, 0.5, 0.0), "full": (1.0, 0.75, 0.5, 0.25, 0.0)}
SHARED_FUNCTION_WORDS = {"quick": (1.0, 0.0), "full": (1.0, 2 / 3, 1 / 3, 0.0)}
LANGUAGE_CUES = ("token", "first", "vote", "pair")
"""How the language is told where all words of a prompt are shared: by one token, or by symbols (`language_cue`)."""


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


def seeds() -> range:
    """Seeds that are reported: 4 in `quick`, 10 in `full`."""
    return range(10 if profile() == "full" else 4)


def causal_seeds() -> range:
    """Seeds of interventions and of the dials of the data: 5 in `quick`, 10 in `full`."""
    return range(10 if profile() == "full" else 5)


def small(**changes: Any) -> Experiment:
    """The smaller dish with some settings changed."""
    return Experiment().replace(**{**SMALL, **changes})


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


def extractability() -> Design:
    """The dials of extractability in the small dish; settings that two dials have in common are trained once."""
    return [
        ({"dial": dial, "level": level, "seed": seed}, small(seed=seed, **changes))
        for dial, levels in extractability_dials().items()
        for level, changes in levels.items()
        for seed in causal_seeds()
    ]


def unified_and_separate(**changes: Any) -> Design:
    """Models of both kinds for interventions, in the default dish with some settings changed."""
    base = Experiment().replace(**changes)
    return [
        ({"kind": kind, "seed": seed}, base.replace(**{"corpus.parallel": parallel, "seed": seed}))
        for kind, parallel in UNIFIED_AND_SEPARATE.items()
        for seed in causal_seeds()
    ]


def parallel_levels() -> Design:
    """The default dish at rising shares of parallel facts."""
    base = Experiment()
    return [
        ({"parallel": level, "seed": seed}, base.replace(**{"corpus.parallel": level, "seed": seed}))
        for level in PARALLEL_LEVELS[profile()]
        for seed in seeds()
    ]


def critical_period() -> Design:
    """The same parallel copies always, before a boundary, after it, or never; equal total exposure of each copy.

    Boundaries are shares of training. The constant and the matched schedule are run at the middle boundary.
    """
    base = Experiment().replace(**{"corpus.parallel": CRITICAL_PARALLEL})
    design: Design = []
    for schedule, changes in SCHEDULES.items():
        for seed in seeds():
            always = base.replace(seed=seed, **changes)
            steps = always.train.steps
            conditions = {("always", None): always, ("never", None): always.replace(**{"corpus.parallel": 0.0})}
            for boundary in BOUNDARIES[profile()] if schedule == "cosine" else (1 / 2,):
                step = round(boundary * steps)
                conditions["early", boundary] = parallel_window(always, 0, step)
                conditions["late", boundary] = parallel_window(always, step, steps)
            for (condition, boundary), experiment in conditions.items():
                labels = {"schedule": schedule, "condition": condition, "boundary": boundary, "seed": seed}
                design.append((labels, experiment))
    return design


def many_models() -> dict[str, Design]:
    """The models of notebook 04, by family: they differ in data, its order, words and optimisation."""
    return {
        "parallel share": parallel_levels(),
        "critical period": critical_period(),
        "mixed dials": mixed_dials(),
    }


def informativeness() -> dict[str, Design]:
    """One dial of the data's information about its language at a time, by family; labels family, level, seed.

    All families share the dish with balanced copies. In `exposure imbalance` the level is the exposure of a parallel
    fact's copies away from home, in units of a balanced copy's. `same exposure` has, for some of these levels, both
    copies at that exposure; `same information` both at the exposure that gives the same I(fact; language).
    """
    base = small(**{"corpus.parallel": INFORMATION_PARALLEL})
    matched = MATCHED_BALANCES[profile()]
    families = {
        "exposure imbalance": {b: base.replace(**{"corpus.exposure_balance": b}) for b in EXPOSURE_BALANCES[profile()]},
        "same exposure": {b: rare_copies(base, b) for b in matched},
        "same information": {b: rare_copies(base, as_informative(base, b)) for b in matched},
        **{
            family: {level: base.replace(**{dial: level}) for level in levels[profile()]}
            for family, (dial, levels) in INFORMATION_DIALS.items()
        },
    }
    return {
        family: [
            ({"family": family, "level": level, "seed": seed}, experiment.replace(seed=seed))
            for level, experiment in levels.items()
            for seed in causal_seeds()
        ]
        for family, levels in families.items()
    }


def lexical_distances() -> Design:
    """Second languages derived from the first by more and more sound changes, and one unrelated; labels kind, level."""
    kinds = {("derived", level): level for level in LEXICAL_DISTANCES[profile()]} | {("unrelated", 1.0): None}
    return [
        (
            {"kind": kind, "level": level, "seed": seed},
            small(**PIECES | {"language.lexical_distance": distance, "seed": seed}),
        )
        for (kind, level), distance in kinds.items()
        for seed in causal_seeds()
    ]


def tokenizers() -> Design:
    """The same words and facts cut into tokens in other ways, at the distance of `PIECES`; label tokenizer."""
    return [
        ({"tokenizer": name, "seed": seed}, small(**PIECES | changes | {"seed": seed}))
        for name, changes in TOKENIZERS.items()
        for seed in causal_seeds()[: None if profile() == "full" else 3]
    ]


def phase_diagram() -> Design:
    """Object skew by shared subject words by parallel share; labels skew, shared, parallel, seed.

    In `quick` the two corners that the claim compares have all seeds of `causal_seeds`, other cells two.
    """
    few = causal_seeds() if profile() == "full" else causal_seeds()[:2]
    return [
        (
            {"skew": skew, "shared": shared, "parallel": parallel, "seed": seed},
            diagram_cell(skew, shared, parallel, seed),
        )
        for skew in DIAGRAM_SKEWS[profile()]
        for shared in DIAGRAM_SHARED[profile()]
        for parallel in DIAGRAM_PARALLEL[profile()]
        for seed in (causal_seeds() if (skew, shared) in DIAGRAM_CORNERS.values() else few)
    ]


def diagram_variants() -> Design:
    """The easy corner varied in one thing at a time, at every parallel share; labels variant, parallel, seed."""
    skew, shared = DIAGRAM_CORNERS["easy"]
    few = causal_seeds() if profile() == "full" else causal_seeds()[:2]
    return [
        (
            {"variant": variant, "parallel": parallel, "seed": seed},
            diagram_cell(skew, shared, parallel, seed).replace(**changes),
        )
        for variant, changes in {"as in the diagram": {}, **DIAGRAM_VARIANTS[profile()]}.items()
        for parallel in DIAGRAM_PARALLEL[profile()]
        for seed in few
    ]


def diagram_cell(skew: float, shared: float, parallel: float, seed: int) -> Experiment:
    """One model of the phase diagram."""
    dials = {"corpus.object_skew": skew, "language.shared_subjects": shared, "corpus.parallel": parallel, "seed": seed}
    return small(**{**DIAGRAM, **dials})


def rare_copies(experiment: Experiment, exposure: float) -> Experiment:
    """The same experiment with all copies of parallel facts seen `exposure` times as often.

    Batches shrink by what is left out, to a whole number of examples, so that monolingual facts are seen as often as
    before in the same number of steps. Raises ValueError if the copies' exposure was moved before.
    """
    copies, alone = _copies_and_alone(experiment)
    size = round(experiment.train.batch_size * (exposure * copies + alone) / (copies + alone))
    return experiment.replace(**{"corpus.parallel_exposure": exposure, "train.batch_size": size})


def as_informative(experiment: Experiment, balance: float) -> float:
    """Exposure of balanced copies at which I(fact; language) is what `exposure_balance=balance` gives.

    Exact where the languages have equally many monolingual facts. Raises ValueError as `rare_copies` does.
    """
    copies, alone = _copies_and_alone(experiment)
    n = experiment.language.n_languages
    one_fact = np.array([balance + (1 - balance) * n, *[balance] * (n - 1)])
    unknown = entropy(one_fact) / np.log2(n) * copies / (copies + alone)  # of the language, as a share of log2(n)
    return float(unknown / (1 - unknown) * alone / copies)


def _copies_and_alone(experiment: Experiment) -> tuple[int, int]:
    """Number of parallel facts' copies, all equally frequent, and of monolingual facts."""
    corpus = experiment.corpus
    factors = {name: getattr(corpus, name) for name in ("exposure_balance", "copy_exposure", "parallel_exposure")}
    if moved := [f"{name}={factor}" for name, factor in factors.items() if factor != 1] or experiment.changes:
        raise ValueError(f"{moved}: copies must start equally frequent; allowed: 1 for all factors and no changes.")
    n_facts = experiment.world.n_subjects * experiment.world.n_relations
    n_parallel = round(corpus.parallel * n_facts) if corpus.n_parallel is None else corpus.n_parallel
    return n_parallel * experiment.language.n_languages, n_facts - n_parallel


def mixed_dials() -> Design:
    """One dial of data, words or optimisation at a time away from the default dish."""
    base = Experiment()
    return [
        ({"dial": name, "seed": seed}, base.replace(seed=seed, **changes))
        for name, changes in MIXED_DIALS.items()
        for seed in seeds()[: len(seeds()) // 2]
    ]


def turning() -> Design:
    """Every intervention alone on one base setting; members of a seed share facts, words and order of examples."""
    base = small(**TURNING)
    what = {"none": ()} | {name: (turn.intervention,) for name, turn in TURNS.items()}
    return [
        ({"intervention": name, "seed": seed}, base.replace(seed=seed, interventions=interventions))
        for name, interventions in what.items()
        for seed in causal_seeds()
    ]
