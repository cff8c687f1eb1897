"""Where an answer comes from: influence of every training example on prompts, by kind of example, and its check.

Influence is TracIn (Pruthi et al. 2020, arXiv 2002.08484; between languages: 2305.13286): the sum over a run's
checkpoints of the learning rate times the product of two gradients, that of an example's loss and that of the prompt's.
It is by how much steps on the example alone would lower the prompt's loss, to first order and in nats.

What is ours: a checkpoint stands for all steps since the one before it, so its weight is the sum of their learning
rates; and gradients are of the cross-entropy alone, and exact. AdamW's scaling, its decay and losses on states are left
out, as in TracIn: influence ranks examples, and how well is what `retrained` tells.

It is of runs of `ul.train` whose models train stacked (attention, then a plain MLP of `gelu` or `relu`): of a
model of your own, nothing here knows the examples, the steps and the checkpoints.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from torch import Tensor
from tqdm.auto import tqdm

from unifylens.arguments import numbers, plain, shown
from unifylens.config import Experiment, Intervention
from unifylens.corpus.corpus import Corpus
from unifylens.hardware import limited_threads
from unifylens.model import shape_for
from unifylens.patching.tensors import is_whole
from unifylens.seeds import rng
from unifylens.training.batches import Batches
from unifylens.training.gradients import PARTS, ByExample, products
from unifylens.training.run import Run
from unifylens.training.sparse import moves_few
from unifylens.training.stack import Stacked, unsupported
from unifylens.training.sweeps import train_many

EXAMPLES_AT_ONCE = 512
"""What their products with some hundred prompts take stays in a processor's cache (measured)."""

LEVELS: dict[str, tuple[str, ...]] = {
    "link": ("itself", "twin", "answer", "relation", "subject", "rest"),
    "facts": ("parallel", "monolingual"),
    "language": ("own", "other"),
}
"""What an example is to a prompt.

`twin`: the same fact in another language; `answer`: another fact of the same relation with the same object; `relation`:
of the same relation, with another object; `subject`: of the same subject. `facts`: seen in several languages or in one.
`language`: that of the prompt or another.
"""

N_KINDS = int(np.prod([len(names) for names in LEVELS.values()]))
AXES = ("step", "prompt", *LEVELS)
COUNTED = ("examples", "draws")


# --- influence -------------------------------------------------------------------------------------------------


def examples(corpus: Corpus) -> Int[np.ndarray, " example"]:
    """Rows of the corpus that training draws at any time, in order: what influence is of."""
    return np.flatnonzero(corpus.seen)


def tracin(
    run: Run,
    prompts: ArrayLike | Tensor,
    *,
    drawn: bool = False,
    steps: Sequence[int] | None = None,
    parts: Collection[str] | None = None,
    progress: bool = True,
) -> Float[Tensor, "example prompt"]:
    """Influence of every training example (`examples(run.corpus)`) on prompts, rows of the corpus, in nats.

    Above 0: steps on the example lower the loss of the prompt's right answer. By default as if the example were drawn
    at every step, so that all are on a par; `drawn` weighs it by its share of the draws, so that the sum over all
    examples is what training as a whole did, to first order. Of an example in several templates it is the mean; prompts
    are asked in the first one.
    `steps` are checkpoints (None: all that are kept; `train.n_checkpoints`); `parts` are parts of the model as
    `train.frozen` names them (None: all that were trained).
    Raises ValueError for rows, steps or parts that are not there, and for a run that diverged, that moved few weights
    (`train.sparse`), or whose shape the stack does not compute.

    >>> influence = ul.influence.tracin(run, ~run.corpus.seen.ravel(), progress=False)
    >>> influence.shape, len(ul.influence.examples(run.corpus))
    (torch.Size([108, 36]), 108)
    """
    asked = _rows(run, prompts)
    (total,) = _influences(run, asked, steps, parts, progress)
    return total.of["draws"] if drawn else total.of["examples"] * len(examples(run.corpus))


@dataclass(frozen=True)
class Checkpoint:
    """A kept step, and what it stands for: the steps since the one before."""

    step: int
    rate: float
    """Sum of their learning rates."""
    drawn: Float[np.ndarray, " row"]
    """The same, each step times the row's share of its draws."""


def checkpoints(run: Run, steps: Sequence[int] | None = None) -> list[Checkpoint]:
    """The kept steps, or some of them, in order. Raises ValueError for steps that were not kept, or none."""
    given = run.steps if steps is None else plain(steps)
    given = list(given) if isinstance(given, Collection) else [given]
    if not all(map(is_whole, given)):
        raise ValueError(f"steps={shown(steps)}; allowed: {', '.join(map(str, run.steps))}, or None for all.")
    chosen = sorted(set(given))
    if not chosen:
        raise ValueError("steps is empty; allowed: " + ", ".join(map(str, run.steps)) + ", or None for all.")
    if missing := [step for step in chosen if step not in run.steps]:
        raise ValueError(
            f"steps: {missing[0]} was never saved; allowed: {', '.join(map(str, run.steps))} "
            "(train.n_checkpoints decides how many)."
        )
    found = []
    for start, stop in pairwise([0, *chosen]):
        rates = np.array([run.experiment.train.lr_at(step) for step in range(start, stop)])
        drawn = sum(
            rates[max(begin - start, 0) : max(end - start, 0)].sum() * exposure.ravel()
            for begin, end, exposure in run.corpus.stages
        )
        found.append(Checkpoint(stop, float(rates.sum()), np.asarray(drawn)))
    return found


def _rows(run: Run, prompts: ArrayLike | Tensor) -> Int[np.ndarray, " prompt"]:
    """Rows of prompts of a run that influence can be of."""
    if not isinstance(run, Run):
        raise TypeError(
            f"run is a {type(run).__name__}; allowed: a Run of ul.train, whose checkpoints influence reads."
        )
    if run.diverged_at is not None:
        raise ValueError(f"run diverged at step {run.diverged_at}; allowed: a run whose loss stayed finite.")
    if moves_few(run.experiment.train):
        raise ValueError("run moved few weights (train.sparse, train.soft_prompt); allowed: a run without.")
    return numbers(prompts, run.corpus.n_rows, "prompts", "the corpus")


def _parts(run: Run, parts: Collection[str] | None) -> tuple[str, ...]:
    if parts is None:
        return tuple(part for part in PARTS if part not in run.experiment.train.frozen)
    given = tuple(parts) if isinstance(parts, Collection) and not isinstance(parts, str) else (parts,)
    if not given or not set(given) <= set(PARTS):
        raise ValueError(f"parts={given!r}; allowed: some of {', '.join(PARTS)}, or None for all that were trained.")
    return given


class _Gradients:
    """Factors of gradients by examples of a run, at any of its checkpoints."""

    def __init__(self, run: Run, parts: tuple[str, ...], answers_alone: bool) -> None:
        """`answers_alone`: of the loss on answers, even where training has it on every token."""
        experiment, corpus = run.experiment, run.corpus
        if answers_alone:
            experiment = experiment.replace(**{"train.loss": "answer"})
        shape = shape_for(experiment.model, corpus)
        if reason := unsupported(shape):
            raise ValueError(f"run: {reason}, and influence is computed by it alone.")
        self.network, self.batches, self.parts = Stacked(shape), Batches([experiment], [corpus]), parts

    def of(self, parameters: dict[str, Tensor], rows: Int[np.ndarray, " row"], template: int = 0) -> ByExample:
        """A pass over some rows in a template."""
        batch = self.batches.of(torch.full((1, len(rows)), template), torch.from_numpy(rows)[None])
        return ByExample(self.network, parameters, batch, self.batches.query, self.batches.shared, self.parts)


def _parameters(run: Run, step: int) -> dict[str, Tensor]:
    """Those after a step, with a leading 1."""
    return {name: p[None] for name, p in run.parameters(step).items()}


@torch.no_grad()
def _products(
    run: Run,
    asked: Int[np.ndarray, " prompt"],
    steps: Sequence[int] | None,
    parts: Collection[str] | None,
    progress: bool,
) -> Iterator[tuple[Checkpoint, Float[Tensor, "example prompt"]]]:
    """By checkpoint, products of every training example's gradient with every prompt's."""
    trained, prompted = (_Gradients(run, _parts(run, parts), alone) for alone in (False, True))
    rows, n_templates = examples(run.corpus), trained.batches.n_templates
    for checkpoint in tqdm(checkpoints(run, steps), "checkpoints", disable=not progress):
        parameters = _parameters(run, checkpoint.step)
        found = torch.zeros(len(rows), len(asked))
        with limited_threads(1):  # products this small are slower on two: beside another process, 20 times (measured)
            due = prompted.of(parameters, asked).factors()
            for start in range(0, len(rows), EXAMPLES_AT_ONCE):
                some = slice(start, start + EXAMPLES_AT_ONCE)
                for template in range(n_templates):
                    found[some] += products(trained.of(parameters, rows[some], template).factors(), due) / n_templates
        yield checkpoint, found


@dataclass
class _Influence:
    """Of every example on every prompt, and its share of the draws times the learning rate.

    `examples`: as if all were drawn equally often; `draws`: as they were.
    """

    step: int
    of: dict[str, Float[Tensor, "example prompt"]]
    size: dict[str, Float[Tensor, " example"]]

    def add(self, later: _Influence) -> _Influence:
        """With that of later steps, in place."""
        for counted in COUNTED:
            self.of[counted] += later.of[counted]
            self.size[counted] += later.size[counted]
        return self


def _influences(
    run: Run,
    asked: Int[np.ndarray, " prompt"],
    steps: Sequence[int] | None,
    parts: Collection[str] | None,
    progress: bool,
    by_step: bool = False,
) -> Iterator[_Influence]:
    """Of what every checkpoint stands for, or of all together."""
    rows, total = examples(run.corpus), None
    for checkpoint, product in _products(run, asked, steps, parts, progress):
        drawn = torch.from_numpy(checkpoint.drawn[rows]).float()
        size = dict(zip(COUNTED, (torch.full_like(drawn, checkpoint.rate / len(rows)), drawn), strict=True))
        each = _Influence(checkpoint.step, {c: product * weight[:, None] for c, weight in size.items()}, size)
        if by_step:
            yield each
        else:
            total = each if total is None else total.add(each)
    if total is not None:
        yield total


# --- whence ----------------------------------------------------------------------------------------------------


def whence(
    run: Run,
    prompts: ArrayLike | Tensor,
    *,
    by: Sequence[str] = ("link",),
    steps: Sequence[int] | None = None,
    parts: Collection[str] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """From which kinds of training examples the influence on prompts comes: one row a kind, twice.

    `by` names what tells kinds apart: some of `link`, `facts` and `language` (see `LEVELS`), and `step` (influence of
    the steps that each checkpoint stands for) and `prompt` (each alone; else the mean over prompts).
    The index begins with `counted`: as if all examples were drawn equally often (`examples`), or as they were drawn
    (`draws`). Columns:

    - `size`: the kind's share of all examples, or of draws.
    - `positive`: its share of all influence that is above 0; `lift`: how many times its `size` that is.
    - `absolute`: its share of the influence regardless of sign; `net`: its influence in nats, signs kept.
    - `permuted`: the lift when the kinds' names are dealt out anew among examples, by `seed`; 1 but for chance.

    Kinds without an example are left out. Raises ValueError as `tracin` does, and for names in `by` that are none.

    >>> table = ul.influence.whence(run, ~run.corpus.seen.ravel(), by=["link", "language"], progress=False)
    >>> table["size"]["examples"].loc[["twin", "subject"]].round(3).to_dict()
    {('twin', 'other'): 0.009, ('subject', 'own'): 0.014, ('subject', 'other'): 0.013}
    """
    names = tuple(by) if isinstance(by, Collection) and not isinstance(by, str) else (by,)
    if not names or len(set(names)) < len(names) or not set(names) <= set(AXES):
        raise ValueError(f"by={names!r}; allowed: some of {', '.join(AXES)}, each once.")
    asked, rows = _rows(run, prompts), examples(run.corpus)
    kinds = _kinds(run.corpus, rows, asked)
    dealt = kinds[rng(seed, "permuted kinds").permutation(len(rows))]
    found, moments = [], []
    for influence in _influences(run, asked, steps, parts, progress, "step" in names):
        found.append(_sums(influence, kinds, dealt))
        moments.append(influence.step)
    index = {"step": moments, "prompt": asked.tolist(), **LEVELS}
    tables = {counted: _table([sums[counted] for sums in found], index, names) for counted in COUNTED}
    table = pd.concat(tables, names=["counted"])
    return table[table["size"] > 0].reorder_levels(["counted", *names])


def _kinds(
    corpus: Corpus, rows: Int[np.ndarray, " example"], asked: Int[np.ndarray, " prompt"]
) -> Int[np.ndarray, "example prompt"]:
    """What every example is to every prompt: a code into `LEVELS`, the last level fastest."""
    world = corpus.world
    (language, fact), (own, asked_fact) = (np.divmod(x, corpus.n_facts) for x in (rows[:, None], asked[None]))
    same_relation = world.relation[fact] == world.relation[asked_fact]
    links = {
        "itself": (fact == asked_fact) & (language == own),
        "twin": fact == asked_fact,
        "answer": same_relation & (world.object[fact] == world.object[asked_fact]),
        "relation": same_relation,
        "subject": world.subject[fact] == world.subject[asked_fact],
    }
    link = np.select(list(links.values()), list(range(len(links))), len(links))  # the first that is so
    levels = (link, ~corpus.parallel[fact] + 0 * link, (language != own) + 0 * link)
    return np.ravel_multi_index(levels, [len(names) for names in LEVELS.values()])


def _sums(
    influence: _Influence, kinds: Int[np.ndarray, "example prompt"], dealt: Int[np.ndarray, "example prompt"]
) -> dict[str, dict[str, Float[np.ndarray, "prompt kind"]]]:
    """What each kind adds up to, by prompt."""

    def sums(values: Tensor, of: np.ndarray) -> np.ndarray:
        return np.bincount(of, values.numpy().ravel(), n_prompts * N_KINDS).reshape(n_prompts, N_KINDS)

    n_prompts = kinds.shape[1]
    kinds, dealt = ((of + N_KINDS * np.arange(n_prompts)).ravel() for of in (kinds, dealt))
    out = {}
    for counted, values in influence.of.items():
        size, positive = influence.size[counted][:, None].expand_as(values), values.clamp(min=0)
        out[counted] = {
            "size": sums(size, kinds),
            "positive": sums(positive, kinds),
            "absolute": sums(values.abs(), kinds),
            "net": sums(values, kinds),
            "dealt size": sums(size, dealt),
            "dealt positive": sums(positive, dealt),
        }
    return out


def _table(
    found: list[dict[str, Float[np.ndarray, "prompt kind"]]], index: dict[str, Sequence], names: tuple[str, ...]
) -> pd.DataFrame:
    """Sums by step as shares, kinds that are not told apart taken together, and the mean over the rest."""
    shape = [len(values) for values in index.values()]
    levels = tuple(AXES.index(name) for name in LEVELS)
    together = tuple(axis for axis in levels if AXES[axis] not in names)
    mean = tuple(axis for axis in range(len(AXES)) if AXES[axis] not in names)

    def share(of: str, divided: bool = True) -> np.ndarray:
        sums = np.stack([each[of] for each in found]).reshape(shape)
        total = sums.sum(levels, keepdims=True) if divided else 1.0
        with np.errstate(invalid="ignore"):  # no influence at all
            return (sums.sum(together, keepdims=True) / total).mean(mean).ravel()

    columns = {name: share(name, name != "net") for name in ("size", "positive", "absolute", "net")}
    kept = pd.MultiIndex.from_product(
        [index[name] for name in AXES if name in names], names=[n for n in AXES if n in names]
    )
    table = pd.DataFrame(columns, index=kept)
    with np.errstate(invalid="ignore", divide="ignore"):
        table.insert(2, "lift", table["positive"] / table["size"])
        table["permuted"] = share("dealt positive") / share("dealt size")
    return table


# --- retraining ------------------------------------------------------------------------------------------------


def retrained(
    run: Run,
    prompts: ArrayLike | Tensor,
    k: int,
    *,
    n_random: int = 3,
    steps: Sequence[int] | None = None,
    parts: Collection[str] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """What training without `k` examples does to prompts' right answers: is influence what it says?

    The experiment is trained again (intervention `leave_out`) without the examples of `most` influence on the prompts
    together (by draws); without those that come first for some prompt (`each`: first all prompts' first, then their
    second); without those of `least`, which is below 0; and `n_random` times, by `seed`, without as many random ones:
    what any change of batches does. All of them and the run itself: one row each, columns

    - `draws`: share of the draws that is left out.
    - `foretold`: the change of the mean log-probability of the right answers, in nats, that influence foretells.
    - `log_probability`: its mean over prompts; `change`: the mean change from the run's own.
    - `better`: share of the prompts whose right answer is likelier than the run has it.

    Raises ValueError as `tracin` and `interventions.leave_out` do, and for a `k` or `n_random` that is no number of
    examples or trainings.

    >>> table = ul.influence.retrained(run, ~run.corpus.seen.ravel(), k=10, n_random=1, progress=False)
    >>> list(table.index)
    ['nothing', 'most', 'each', 'least', 'random 0']
    """
    asked, rows = _rows(run, prompts), examples(run.corpus)
    for name, value, least, most in (("k", k, 1, len(rows) - 1), ("n_random", n_random, 0, 1000)):
        if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or not least <= value <= most:
            raise ValueError(f"{name}={value!r}; allowed: a whole number from {least} to {most}.")
    influence = tracin(run, asked, drawn=True, steps=steps, parts=parts, progress=progress).numpy()
    total, rank = influence.mean(1), (-influence).argsort(0, kind="stable").argsort(0).min(1)
    order = np.argsort(-total, kind="stable")
    draw = rng(seed, "left out")
    chosen = {"nothing": order[:0], "most": order[:k], "each": np.lexsort((-total, rank))[:k], "least": order[-k:]}
    chosen |= {f"random {i}": draw.permutation(len(rows))[:k] for i in range(n_random)}
    experiments = [_without(run, rows[which]) for which in chosen.values()]
    runs = [run, *train_many(experiments[1:], progress=progress)]
    by_prompt = np.stack([log_probabilities(each, asked) for each in runs])
    change = by_prompt - by_prompt[0]
    return pd.DataFrame(
        {
            "draws": [run.corpus.exposure.ravel()[rows[which]].sum() for which in chosen.values()],
            "foretold": [-total[which].sum() for which in chosen.values()],
            "log_probability": by_prompt.mean(1),
            "change": change.mean(1),
            "better": (change > 0).mean(1),
        },
        index=pd.Index(chosen, name="left_out"),
    )


def _without(run: Run, rows: Int[np.ndarray, " row"]) -> Experiment:
    """The run's experiment without some rows."""
    if not len(rows):
        return run.experiment
    left_out = Intervention(name="leave_out", rows=tuple(rows.tolist()))
    return run.experiment.replace(interventions=(*run.experiment.interventions, left_out))


@torch.no_grad()
def log_probabilities(run: Run, prompts: ArrayLike | Tensor) -> Float[np.ndarray, " prompt"]:
    """Log-probability of each prompt's right answer at the end of training, in nats: mean over its tokens.

    Raises ValueError as `tracin` does.
    """
    rows = _rows(run, prompts)
    answers = _Gradients(run, PARTS, answers_alone=True).of(_parameters(run, run.steps[-1]), rows)
    return -answers.losses().double().numpy()
