"""Ways to make facts cross languages, each on the same bases with the same facts (notebook 15).

A method turns a base experiment into another by one strength. Its three strengths are tried on the tuning seeds, and
the one that `best_strengths` takes is reported on others.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from typing import Any, Literal, NamedTuple

import pandas as pd

from unifylens.config import CorpusChange, Experiment, Intervention, Sparse, Start, StateLoss
from unifylens.designs.common import HARDLY_EVER, SMALLEST, Design, small
from unifylens.designs.common import seeds as reported_seeds
from unifylens.training.cost import Member

Kind = Literal["states", "data", "tokens", "shape", "weights"]

ALIGNED = SMALLEST | {"corpus.parallel": 0.3}
"""What all bases share: the smallest dish, of which 30 % of the facts are parallel."""

BASES: dict[str, dict[str, Any]] = {
    f"{n} languages, {name}": {"language.n_languages": n, "language.shared_subjects": shared}
    for n in (2, 4)
    for name, shared in (("words unshared", 0.0), ("half of subject words shared", 0.5))
}
"""Where transfer is wanting: at chance (1/8) where no subject word is shared, also with 65 % of the facts parallel, and
about 0.2 where half of them are (tuning seeds)."""

FEWER = ("2 languages, half of subject words shared", "4 languages, words unshared")
"""Those of `bases` for two seeds: `UNIFYLENS_SEEDS=2` asks for a short run."""

RECALL_KEPT = 0.98
"""Least mean recall at which a strength is taken, where one of the three has it."""

TUNING_SEEDS = (1000, 1001)


def bases(shared_subjects: float | None = None) -> list[str]:
    """Names of the bases, all or those with that share of subject words in common; for two `seeds` of `FEWER`."""
    names = [name for name in BASES if len(reported_seeds()) > 2 or name in FEWER]
    shares = {name: BASES[name]["language.shared_subjects"] for name in names}
    return [name for name in names if shared_subjects in (None, shares[name])]


def base(name: str, seed: int = 0) -> Experiment:
    """The experiment that methods begin from, which is also the floor. Raises KeyError for another name."""
    return small(**ALIGNED, **BASES[name], seed=seed)


class Method(NamedTuple):
    """A way to align, as the literature has it, in the dish."""

    kind: Kind
    source: str
    strengths: tuple[float, ...]
    """Three, or one where there is no dial."""
    apply: Callable[[Experiment, float], Experiment]
    """From a base and a strength."""
    pairs: bool = False
    """Whether it has a control with shuffled pairs."""


def _states(**fields: Any) -> Callable[[Experiment, float], Experiment]:
    """A loss on states whose weight is the strength, at one layer or, where `layers` are given, at several."""
    layers = fields.pop("layers", (fields.pop("layer", 1),))
    return lambda base, weight: base.replace(
        **{"train.state_losses": [StateLoss(weight=weight, layer=layer, **fields) for layer in layers]}
    )


def _intervention(name: Any, **fields: Any) -> Callable[[Experiment, float], Experiment]:
    return lambda base, share: base.replace(interventions=(Intervention(name=name, share=share, **fields),))


def _without_dial(intervention: Intervention) -> Callable[[Experiment, float], Experiment]:
    return lambda base, _: base.replace(interventions=(intervention,))


def _dial(name: str) -> Callable[[Experiment, float], Experiment]:
    return lambda base, value: base.replace(**{name: value})


def _first_half(change: Callable[[Experiment, float], Experiment]) -> Callable[[Experiment, float], Experiment]:
    """The change for the first half of the steps, then the base's own data from there on."""

    def apply(base: Experiment, strength: float) -> Experiment:
        half = base.replace(**{"train.steps": base.train.steps // 2})
        return half.replace(start=Start(experiment=change(half, strength)))

    return apply


def finished(
    change: Callable[[Experiment, float], Experiment], **fields: Any
) -> Callable[[Experiment, float], Experiment]:
    """The change to a finished model: half as many steps again, from the base's weights."""

    def apply(base: Experiment, strength: float) -> Experiment:
        more = base.replace(start=Start(experiment=base), **{"train.steps": base.train.steps // 2, **fields})
        return change(more, strength)

    return apply


def _few_weights(base: Experiment, share: float) -> Experiment:
    """Most examples switched, for a finished model of which that share of the weights may move."""
    return finished(_intervention("code_switch"), **{"train.sparse": Sparse(share=share)})(base, 0.5)


def _modules(base: Experiment, neurons: float) -> Experiment:
    """So many neurons of each MLP are each language's own; the base, with as many in all, has none but shared ones."""
    return base.replace(**{"model.language_neurons": int(neurons)})


def _experts(base: Experiment, number: float) -> Experiment:
    """Two of so many experts answer for each token, together as wide as the base's MLP."""
    return base.replace(**{"model.n_experts": int(number), "model.d_mlp": base.model.d_mlp // 2})


def _in_order(base: Experiment, replay: float) -> Experiment:
    """One language after the other, equally long; that share of the examples repeats the languages before."""
    n, steps = base.language.n_languages, base.train.steps
    stages = []
    for new in range(n):
        earlier = replay / new if new else 0.0
        factors = (*[earlier] * new, 1 - replay if new else 1.0, *[0.0] * (n - new - 1))
        stages.append(base.corpus.model_copy(update={"language_exposure": factors}))
    changes = tuple(
        CorpusChange(step=number * steps // n, corpus=stage) for number, stage in enumerate(stages) if number
    )
    return base.replace(corpus=stages[0], changes=changes)


def _soft_prompt(base: Experiment, rate: float) -> Experiment:
    """Most examples switched, for a finished model of which one vector moves, at that learning rate, undecayed."""
    settings = {"train.soft_prompt": True, "train.lr": rate, "train.weight_decay": 0.0}
    return finished(_intervention("code_switch"), **settings)(base, 0.5)


def _parallel_first(base: Experiment, factor: float) -> Experiment:
    often = base.corpus.model_copy(update={"parallel_exposure": factor})
    return base.replace(corpus=often, changes=(CorpusChange(step=base.train.steps // 2, corpus=base.corpus),))


WEIGHTS, SHARES = (0.03, 0.3, 3.0), (0.25, 0.5, 1.0)
SWITCHED, FACTORS = (0.1, 0.25, 0.5), (2.0, 4.0, 8.0)
FEW_WEIGHTS = (0.01, 0.05, 0.25)
BLOCKS = ("attention", "mlp", "normalization")

METHODS: dict[str, Method] = {
    "contrast, answer": Method("states", "2502.14830", WEIGHTS, _states(method="contrast"), pairs=True),
    "contrast, subject": Method(
        "states", "2502.14830", WEIGHTS, _states(method="contrast", role="subject"), pairs=True
    ),
    "contrast, words": Method(
        "states", "2502.14830", WEIGHTS, _states(method="contrast", role="subject", layer=0), pairs=True
    ),
    "contrast first, words": Method(
        "states",
        "PreAlign's first stage, 2407.16222",
        WEIGHTS,
        _states(method="contrast", role="subject", layers=(0, 1, 2), until=0.2),
        pairs=True,
    ),
    "pull, answer": Method("states", "2009.14304", WEIGHTS, _states(method="pull"), pairs=True),
    "pull, subject": Method("states", "2009.14304", WEIGHTS, _states(method="pull", role="subject"), pairs=True),
    "adversary, subject": Method(
        "states", "UniBERT, 2503.12608", (0.003, 0.03, 0.3), _states(method="adversary", role="subject"), pairs=True
    ),
    "self-distillation": Method("states", "MT-LLM, DR.DECR", WEIGHTS, _states(method="distil"), pairs=True),
    "code-switching": Method("data", "2406.16135", SWITCHED, _intervention("code_switch")),
    "code-switching, then restored": Method("data", "CSR4mBART", SWITCHED, _first_half(_intervention("code_switch"))),
    "code-switching, finished model": Method("weights", "2406.16135", SWITCHED, finished(_intervention("code_switch"))),
    "parallel facts seen more": Method("data", "balanced sampling", FACTORS, _dial("corpus.parallel_exposure")),
    "parallel facts first": Method("data", "continual pretraining, 2407.02118", FACTORS, _parallel_first),
    "languages in order": Method("data", "continual pretraining, 2407.02118", (0.1, 0.25, 0.5), _in_order),
    "translated in context": Method("data", "TLM, 1901.07291", SWITCHED, _intervention("translate_in_context")),
    "parallel facts added": Method("data", "the yardstick", (0.1, 0.25, 0.5), _intervention("add_parallel")),
    "subject words shared": Method("tokens", "shared words", SHARES, _intervention("share_words", kind="subjects")),
    "object words shared": Method(
        "tokens", "mOthello, 2404.12444", SHARES, _intervention("share_words", kind="objects")
    ),
    "pivot answers": Method("tokens", "quote and think", (1.0,), _without_dial(Intervention(name="pivot_answers"))),
    "words begin as translations": Method("tokens", "2406.11477", SHARES, _dial("train.translated_words")),
    "modules of languages": Method("shape", "X-MOD, 2205.06266", (8.0, 16.0, 32.0), _modules),
    "mixture of experts": Method("shape", "2510.04694", (3.0, 4.0, 6.0), _experts),
    "contrast, finished model": Method(
        "weights", "2502.14830", WEIGHTS, finished(_states(method="contrast")), pairs=True
    ),
    "code-switching, embeddings alone": Method(
        "weights",
        "2406.11477",
        SWITCHED,
        finished(_intervention("code_switch"), **{"train.frozen": (*BLOCKS, "unembedding")}),
    ),
    "code-switching, blocks alone": Method(
        "weights",
        "2406.11477 (the other parts)",
        SWITCHED,
        finished(_intervention("code_switch"), **{"train.frozen": ("embedding", "unembedding")}),
    ),
    "code-switching, soft prompt": Method("weights", "prompt tuning, 2104.08691", (0.003, 0.03, 0.3), _soft_prompt),
    "code-switching, few weights": Method("weights", "composable-sft, 2110.07560", FEW_WEIGHTS, _few_weights),
}
"""By name. Dials of losses other than the strength (layer 1 of 2, temperature 0.1, 20 pairs a step) are our choice."""


def shuffled(experiment: Experiment) -> Experiment:
    """The control of a method that pairs states: the same with pairs of two different facts."""
    losses = [loss.model_copy(update={"shuffled": True}) for loss in experiment.train.state_losses]
    return experiment.replace(**{"train.state_losses": losses})


def contest(strengths: pd.DataFrame, seeds: Sequence[int], methods: Mapping[str, Method] | None = None) -> Design:
    """Every method at its own strength on each of `bases`, and the bases; labels base, method, kind, against, seed.

    `strengths` is `[method, base]`, as `chosen_strengths()` is; `methods` are `METHODS` where None are given. The
    method is `none` of bases and `more steps` of those that train as long as the longest method; `against` says which
    of the two a method is compared with. Raises KeyError for a method without strengths.
    """
    methods, design = METHODS if methods is None else methods, []
    for name in bases():
        for seed in seeds:
            begin = base(name, seed)
            labels = {"base": name, "method": "none", "kind": "base", "against": "", "seed": seed}
            design.append((labels, begin))
            design.append((labels | {"method": "more steps"}, more_steps(begin)))
            for label, method in methods.items():
                own = method.apply(begin, float(strengths.loc[label, name]))
                against = "none" if all_steps(own) == begin.train.steps else "more steps"
                design.append((labels | {"method": label, "kind": method.kind, "against": against}, own))
    return design


def controls(strengths: pd.DataFrame, seeds: Sequence[int]) -> Design:
    """Methods that pair states, with states of two different facts paired; labels as those of `contest`."""
    labelled = [(labels, own) for labels, own in contest(strengths, seeds) if labels["method"] in METHODS]
    return [(labels, shuffled(own)) for labels, own in labelled if METHODS[labels["method"]].pairs]


def yardstick(seeds: Sequence[int]) -> Design:
    """Bases to which parallel facts are added, at every strength; labels base, seed, and facts, the number added."""
    added, design = METHODS["parallel facts added"], []
    for name in bases():
        for seed in seeds:
            begin = base(name, seed)
            alone = (1 - begin.corpus.parallel) * begin.world.n_subjects * begin.world.n_relations
            for share in (0.0, *added.strengths):
                experiment = added.apply(begin, share) if share else begin
                design.append(({"base": name, "facts": round(share * alone), "seed": seed}, experiment))
    return design


TIED = "2 languages, objects tied to them"


def finished_models(seeds: Sequence[int]) -> Design:
    """Models to be asked as they are: the bases, and a dish in which the output prior loses transfer (`TIED`).

    There all subject words are shared, and every object is tied to a language. Labels base, seed.
    """
    design: Design = [({"base": name, "seed": seed}, base(name, seed)) for name in bases() for seed in seeds]
    tied = {"language.shared_subjects": 1.0, "corpus.object_skew": 1.0}
    return design + [({"base": TIED, "seed": seed}, small(**ALIGNED, **tied, seed=seed)) for seed in seeds]


TOGETHER = (("contrast, answer", "code-switching"), ("contrast, answer", "parallel facts seen more"))
"""Pairs of methods that change different settings, so that both can be applied; chosen before they were run."""


def together(strengths: pd.DataFrame, seeds: Sequence[int]) -> Design:
    """Both methods of each pair at once, each at its own strength; labels base, first, second, seed."""
    design: Design = []
    for name in bases():
        for seed in seeds:
            for pair in TOGETHER:
                both = base(name, seed)
                for label in pair:
                    both = METHODS[label].apply(both, float(strengths.loc[label, name]))
                design.append(({"base": name, "first": pair[0], "second": pair[1], "seed": seed}, both))
    return design


def more_steps(begin: Experiment) -> Experiment:
    """A base that trains as long as methods that go on from a finished model."""
    return begin.replace(**{"train.steps": begin.train.steps * 3 // 2})


def all_steps(experiment: Experiment) -> int:
    """Steps of an experiment and of those that it starts from."""
    start = experiment.start
    return experiment.train.steps + (0 if start is None else all_steps(start.experiment))


def cost(experiment: Experiment) -> float:
    """Floating-point operations of training, roughly, those of its start and of a sparse one's first run included."""
    own = float(Member.of(experiment).flops) * experiment.train.steps * (1 if experiment.train.sparse is None else 2)
    return own if experiment.start is None else own + cost(experiment.start.experiment)


def chosen_strengths() -> pd.DataFrame:
    """Strengths `[method, base]` that `best_strengths` took on `TUNING_SEEDS`, as committed (`alignment.toml`)."""
    text = resources.files("unifylens.designs").joinpath("alignment.toml").read_text(encoding="utf-8")
    return pd.DataFrame(tomllib.loads(text)).loc[list(METHODS), list(BASES)]


def early_and_late(strengths: pd.DataFrame, seeds: Sequence[int]) -> Design:
    """Every loss on states throughout, in the first half of training alone, and in the second; labels when, and others.

    On the bases where half of the subject words are shared: where none is, no half of training brings more than 0.05
    (tuning seeds). `contrast first, words` is left out: it is early by what it is.
    """
    halves = {"throughout": (0.0, 1.0), "first half": (0.0, 0.5), "second half": (0.5, 1.0)}
    design: Design = []
    for name in bases(shared_subjects=0.5):
        for label, method in METHODS.items():
            if method.kind != "states" or label == "contrast first, words":
                continue
            for seed in seeds:
                own = method.apply(base(name, seed), float(strengths.loc[label, name]))
                for when, (since, until) in halves.items():
                    losses = [
                        loss.model_copy(update={"since": since, "until": until}) for loss in own.train.state_losses
                    ]
                    labels = {"base": name, "method": label, "when": when, "seed": seed}
                    design.append((labels, own.replace(**{"train.state_losses": losses})))
    return design


def tuning() -> Design:
    """Every method at each of its strengths on every base, and the bases alone; labels base, method, strength, seed."""
    design: Design = []
    for name in BASES:
        for seed in TUNING_SEEDS:
            begin = base(name, seed)
            design.append(({"base": name, "method": "none", "strength": 0.0, "seed": seed}, begin))
            design += [
                ({"base": name, "method": label, "strength": strength, "seed": seed}, method.apply(begin, strength))
                for label, method in METHODS.items()
                for strength in method.strengths
            ]
    return design


def best_strengths(final: pd.DataFrame) -> pd.DataFrame:
    """Strength of each method `[method, base]`: the one of most transfer among those that keep recall, in the mean.

    Where none keeps `RECALL_KEPT`, the one of most recall. `final` is that of runs of `tuning`.
    """
    means = final.groupby(["method", "base", "strength"])[["recall", "transfer"]].mean().reset_index()
    kept = means["recall"] >= RECALL_KEPT
    means["worth"] = means["transfer"].where(kept, means["recall"] - 2)
    best = means.loc[means.groupby(["method", "base"])["worth"].idxmax()]
    return best.pivot(index="method", columns="base", values="strength")


UNIFIED = "2 languages, all subject words shared"


def one_language_alone(seeds: Sequence[int], share: float = 0.05) -> Design:
    """Finished models of two languages tuned on one of them, few weights of their blocks moving; labels base, language.

    Which weights these are, `training.sparse.mask` says. With the bases of two languages stands one in which all
    subject words are shared (`UNIFIED`). Embeddings and unembeddings are frozen, as words of one language are no
    other's, and nothing decays.
    """
    design: Design = []
    bases = {name: changes for name, changes in BASES.items() if changes["language.n_languages"] == 2}
    for name, changes in (bases | {UNIFIED: {"language.shared_subjects": 1.0}}).items():
        for seed in seeds:
            begin = small(**ALIGNED, **changes, seed=seed)
            for language in (0, 1):
                factors = tuple(1.0 if each == language else HARDLY_EVER for each in (0, 1))
                own = {"corpus.language_exposure": factors, "train.frozen": ("embedding", "unembedding")}
                few = {"train.sparse": Sparse(share=share), "train.weight_decay": 0.0}
                tuned = finished(lambda model, _: model, **own, **few)(begin, 1.0)
                design.append(({"base": name, "language": language, "seed": seed}, tuned))
    return design
