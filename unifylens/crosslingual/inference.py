"""What can be done to a finished model while it answers, so that facts cross: no weight changes.

A fact that one language alone has seen (its home) is asked in another. Whatever is fitted is fitted on parallel facts,
for each pair of the language asked and the home language, and acts on the last token of the prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import permutations, product
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unifylens import patching
from unifylens.corpus.corpus import Corpus
from unifylens.crosslingual.evaluate import Options, Trained, model_and_corpus, states
from unifylens.crosslingual.repair import output_bias, ridge
from unifylens.crosslingual.roles import prompts
from unifylens.patching import hooks, subspaces
from unifylens.patching.edits import read_activations, rows_at_a_time
from unifylens.patching.prompts import by_length, in_order
from unifylens.patching.stream import Hook, Model, can_resume, logits_of_table, resid_post
from unifylens.patching.subspaces import Subspace
from unifylens.seeds import rng

STRENGTHS = (-1.0, 0.5, 1.0, 2.0, 4.0)
"""What an edit is multiplied by; below 0 it leads away from the home language, as INCLINE's range allows."""
RANKS = (1, 2, 3, 4, 6)
"""Dimensions that subspace removal takes out."""
HEADS = (1, 3)
"""Numbers of attention heads that are shifted."""

EDITS = ("global shift", "relation shifts", "subspace removal", "INCLINE", "Procrustes", "head shifts")
"""Methods that are fitted and edit what the model computes; each has a control."""
METHODS = (
    "none",
    "translate-test",
    "prior correction",
    "constrained decoding",
    "home decoding",
    *EDITS,
    "majority vote",
)


# --- the methods, on tensors ---------------------------------------------------------------------------------


def global_shift(asked: Float[Tensor, "fact d"], home: Float[Tensor, "fact d"]) -> Float[Tensor, " d"]:
    """From the mean state of the language asked to that of the home language; facts need not be paired.

    Language Surgery (arXiv 2506.12450), which shifts within the directions of a discriminant analysis.
    """
    return relation_shifts(asked, home, torch.zeros(len(asked), dtype=torch.long))[0]


def relation_shifts(
    asked: Float[Tensor, "fact d"], home: Float[Tensor, "fact d"], relation: Int[Tensor, " fact"]
) -> Float[Tensor, "relation d"]:
    """The same for each relation by itself; nan for a number that no fact has."""
    shifts = subspaces.language_shifts(torch.stack([asked, home]).float(), relation)
    return shifts[:, 1] - shifts[:, 0]


def language_subspace(
    asked: Float[Tensor, "fact d"], home: Float[Tensor, "fact d"], relation: Int[Tensor, " fact"], rank: int
) -> Subspace:
    """The `rank` directions, or as many as there are, that hold most of how relations' means differ by language."""
    shifts = relation_shifts(asked, home, relation)
    whole = subspaces.span(shifts[shifts.isfinite().all(1)])
    return Subspace(whole.basis[:rank])


def incline(asked: Float[Tensor, "fact d"], home: Float[Tensor, "fact d"]) -> Float[Tensor, "d d"]:
    """Least squares from states of the language asked to the home language's (INCLINE, arXiv 2410.12462).

    With the house's ridge, so that fewer facts than dimensions do not interpolate. The paper's edit is
    `h + strength * h @ W`: the state keeps its own part and gains the one predicted at home.
    """
    return ridge(asked.double(), home.double()).float()


class Rotation(NamedTuple):
    """An orthogonal map between two languages' states, around their means."""

    turn: Float[Tensor, "d d"]
    asked: Float[Tensor, " d"]
    home: Float[Tensor, " d"]

    def __call__(self, state: Float[Tensor, "row d"]) -> Float[Tensor, "row d"]:
        """States of the language asked, where the home language would have them."""
        return (state - self.asked) @ self.turn + self.home


def procrustes(asked: Float[Tensor, "fact d"], home: Float[Tensor, "fact d"]) -> Rotation:
    """The orthogonal map, after centring, that takes the states of facts nearest to the home language's.

    Schönemann (1966); of contextual states in arXiv 2009.14304.
    """
    means = asked.double().mean(0), home.double().mean(0)
    left, _, right = torch.linalg.svd((asked - means[0]).T @ (home - means[1]))
    return Rotation(*(part.float() for part in (left @ right, *means)))


def separating_heads(
    asked: Float[Tensor, "fact head d_head"], home: Float[Tensor, "fact head d_head"], n: int
) -> Int[Tensor, " n"]:
    """The heads whose outputs tell two languages apart best: squared distance of means over the spread around them."""
    apart = (asked.mean(0) - home.mean(0)).square().sum(-1)
    spread = asked.var(0, unbiased=False).sum(-1) + home.var(0, unbiased=False).sum(-1)
    return (apart / spread.clamp_min(1e-9)).argsort(descending=True, stable=True)[:n]


def majority_vote(
    option: Int[Tensor, "language row"], probability: Float[Tensor, "language row"], n_options: int
) -> Int[Tensor, " row"]:
    """The object that most languages name (-1: none), ties by the sum of the answers' probabilities; -1 if nobody does.

    Cross-lingual consistency at inference: the home language has a vote among the others, as its prompt is asked, too.
    """
    votes = torch.zeros(option.shape[1], n_options + 1, dtype=torch.double)
    # probabilities of all languages are below one vote together
    weight = 1 + probability.double() / (len(option) + 1)
    votes.scatter_add_(1, (option + 1).T, weight.T)
    most = votes[:, 1:].argmax(1)
    return torch.where((option >= 0).any(0), most, -1)


def look_up(
    said: Int[Tensor, " row"], source: Int[Tensor, "row option"], target: Int[Tensor, "row option"]
) -> Int[Tensor, " row"]:
    """Answers by a dictionary: one that is option i of `source` becomes option i of `target`; any other stays."""
    found = said[:, None] == source
    option = found.to(torch.uint8).argmax(1, keepdim=True)
    return torch.where(found.any(1), target.gather(1, option)[:, 0], said)


def only(logits: Float[Tensor, "row vocab"], allowed: Bool[Tensor, "row vocab"]) -> Float[Tensor, "row vocab"]:
    """Logits with all but the allowed tokens ruled out: constrained decoding."""
    return logits.masked_fill(~allowed, -torch.inf)


# --- the rows that are asked ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rows:
    """Facts asked in a language, each as if another language were its home."""

    corpus: Corpus
    asked: Int[np.ndarray, " row"]
    home: Int[np.ndarray, " row"]
    fact: Int[np.ndarray, " row"]

    @staticmethod
    def of(corpus: Corpus, facts: Callable[[int, int], Bool[np.ndarray, " fact"]]) -> Rows:
        """Those that `facts(asked, home)` says, of every ordered pair of languages."""
        pairs = list(permutations(range(corpus.n_languages), 2))
        chosen = [np.flatnonzero(facts(*pair)) for pair in pairs]
        asked, home = np.repeat(np.array(pairs), [len(some) for some in chosen], axis=0).T
        return Rows(corpus, asked, home, np.concatenate(chosen))

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.fact)

    def asked_in(self, language: Int[np.ndarray, " row"]) -> Rows:
        """The same facts asked in other languages; their homes stay."""
        return replace(self, asked=language)

    def by_pair(self) -> Iterator[tuple[tuple[int, int], Int[np.ndarray, " some"]]]:
        """Numbers of the rows of each pair `(asked, home)` that has any."""
        for asked, home in permutations(range(self.corpus.n_languages), 2):
            some = np.flatnonzero((self.asked == asked) & (self.home == home))
            if len(some):
                yield (asked, home), some

    @cached_property
    def relation(self) -> Int[Tensor, " row"]:
        """Relations asked for."""
        return torch.from_numpy(self.corpus.world.relation[self.fact])

    @cached_property
    def group(self) -> Int[Tensor, " row"]:
        """Rows of one pair of languages and relation share a number."""
        pair = torch.from_numpy(self.asked * self.corpus.n_languages + self.home)
        return pair * self.corpus.world.n_relations + self.relation

    @cached_property
    def _options(self) -> tuple[Int[Tensor, "row option"], Bool[Tensor, "row option"]]:
        """The relation's objects, padded where others have more, and which are no padding."""
        of, n = self.corpus.world.object_relation, self.corpus.world.n_relations
        objects = [torch.from_numpy(np.flatnonzero(of == r)) for r in range(n)]
        table = torch.nn.utils.rnn.pad_sequence(objects, batch_first=True, padding_value=-1)[self.relation]
        return table.clamp_min(0), table >= 0

    @property
    def allowed(self) -> Bool[Tensor, "row option"]:
        """Options that are no padding."""
        return self._options[1]

    @cached_property
    def option(self) -> Int[Tensor, " row"]:
        """Which option is right."""
        due = torch.from_numpy(self.corpus.world.object[self.fact])
        return ((self._options[0] == due[:, None]) & self.allowed).to(torch.uint8).argmax(1)

    def _words(self, language: Int[np.ndarray, " row"]) -> Int[Tensor, "row option"]:
        """Tokens of the relation's objects in a language; -1 for padding, which nobody says."""
        tokens = self.corpus.object_tokens[torch.from_numpy(language)[:, None], self._options[0]]
        return tokens.masked_fill(~self.allowed, -1)

    @cached_property
    def asked_words(self) -> Int[Tensor, "row option"]:
        """In the language asked."""
        return self._words(self.asked)

    @cached_property
    def home_words(self) -> Int[Tensor, "row option"]:
        """In the home language."""
        return self._words(self.home)

    @cached_property
    def in_language(self) -> Bool[Tensor, "language vocab"]:
        """Tokens that are objects' words in a language."""
        return self.corpus.choices.any(1)


class Said(NamedTuple):
    """Greedy answers, and logits of the relation's objects in words of the language asked and of the home language."""

    token: Int[Tensor, " row"]
    asked: Float[Tensor, "row option"]
    home: Float[Tensor, "row option"]


Change = Callable[[Tensor, Int[Tensor, " chosen"]], Tensor]
"""From logits `[chosen, vocab]` and the rows they are of to others."""


class Asked:
    """A model asked some rows, as it is or edited; what comes before an edit is computed once."""

    @torch.no_grad()
    def __init__(self, model: Model, rows: Rows) -> None:
        self.model, self.rows = model, rows
        self.prompts = prompts(rows.corpus, rows.asked * rows.corpus.n_facts + rows.fact)
        self._batches = [
            (some, self.prompts.part(some).tokens.to(next(model.parameters()).device)) for some in self._parts()
        ]
        blocks = range(model.cfg.n_layers - 1) if can_resume(model) else ()
        names = [resid_post(block) for block in blocks]
        self._before = [(read_activations(model, [tokens], names) or [{}])[0] for _, tokens in self._batches]

    def _parts(self) -> Iterator[Int[Tensor, " chosen"]]:
        for same in by_length(self.prompts):
            yield from same.split(rows_at_a_time(self.model, int(self.prompts.lengths[same[0]]), 1, []))

    @torch.no_grad()
    def say(
        self,
        edit: Callable[[Tensor], Sequence[Hook]] = lambda chosen: (),
        change: Change = lambda logits, chosen: logits,
    ) -> Said:
        """Answers under hooks, given for some rows at a time, and a change of the logits."""
        parts = []
        for (chosen, tokens), before in zip(self._batches, self._before, strict=True):
            logits = logits_of_table(self.model, tokens, list(edit(chosen)), before).cpu()
            parts.append(self._said(change(logits, chosen), chosen))
        order = [chosen for chosen, _ in self._batches]
        return Said(*(in_order(list(part), order) for part in zip(*parts, strict=True)))

    def _said(self, logits: Float[Tensor, "chosen vocab"], chosen: Int[Tensor, " chosen"]) -> Said:
        token = torch.from_numpy(logits.numpy().argmax(-1))  # torch's takes ten times as long on a CPU
        words = (table[chosen].clamp_min(0) for table in (self.rows.asked_words, self.rows.home_words))
        return Said(token, *(logits.gather(1, each) for each in words))


MEASURES = ("transfer", "guessed", "either", "corrected", "looked up", "right language", "recall", "recall, either")
"""Columns of shares."""


def measured(rows: Rows, said: Said, held_out: Bool[np.ndarray, " row"]) -> dict[str, float]:
    """What answers amount to: shares of the rows held out, and of the others, which the language asked has seen."""
    due = rows.asked_words.gather(1, rows.option[:, None])[:, 0]
    at_home = rows.home_words.gather(1, rows.option[:, None])[:, 0]
    right = (said.token == due).numpy()
    either = right | (said.token == at_home).numpy()
    own = rows.in_language[torch.from_numpy(rows.asked), said.token].numpy()
    mask = torch.from_numpy(held_out)
    is_due = torch.nn.functional.one_hot(rows.option, rows.allowed.shape[1]).bool()
    among = (Options(*(part[mask] for part in (x, rows.allowed, is_due, rows.group))) for x in (said.asked, said.home))
    corrected, looked_up = (
        _mean(each.corrected().right()) if bool(each.logits.isfinite().all()) else np.nan for each in among
    )
    return {
        "transfer": _mean(right[held_out]),
        "guessed": guessed(said.token[mask], due[mask], rows.group[mask]),
        "either": _mean(either[held_out]),
        "corrected": corrected,
        "looked up": looked_up,
        "right language": _mean(own[held_out]),
        "recall": _mean(right[~held_out]),
        "recall, either": _mean(either[~held_out]),
    }


def guessed(said: Int[Tensor, " row"], due: Int[Tensor, " row"], group: Int[Tensor, " row"]) -> float:
    """The share that would be right if what is due were dealt out anew within each group: expected over all deals.

    What answers gain by being spread over those that are due there, without knowing which is whose.
    """
    if not len(said):
        return float("nan")
    table = pd.DataFrame({"group": group.numpy(), "due": due.numpy()})
    times = table.value_counts()
    asked = pd.MultiIndex.from_arrays([group.numpy(), said.numpy()])
    share = times.reindex(asked, fill_value=0).to_numpy() / table["group"].map(table["group"].value_counts()).to_numpy()
    return _mean(share)


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


# --- fits ----------------------------------------------------------------------------------------------------

Delta = Callable[[Tensor, Tensor, float], Tensor]
"""From states `[row, d]`, their relations and a dial to what is added to them."""


def fitted(method: str, asked: Tensor, home: Tensor, relation: Tensor, control: int | None) -> Delta:
    """One of `EDITS` of the residual stream, fitted on a layer's states of the same facts; with a seed, its control.

    Shuffled pairs would leave means as they are: controls of what needs means alone have random directions.
    """
    if method == "global shift":
        shift = _turned(global_shift(asked, home), control)
        return lambda state, of, dial: dial * shift.expand_as(state)
    if method == "relation shifts":
        shifts = _turned(relation_shifts(asked, home, relation), control)
        return lambda state, of, dial: dial * shifts[of]
    if method == "subspace removal":
        centre, d = (asked.mean(0) + home.mean(0)) / 2, asked.shape[1]
        whole = language_subspace(asked, home, relation, max(RANKS))
        if control is not None:
            whole = subspaces.random(d, whole.rank, control)
        return lambda state, of, dial: -Subspace(whole.basis[: int(dial)]).project(state - centre)
    if control is not None:
        home = home[shuffled(relation, control)]
    if method == "INCLINE":
        matrix = incline(asked, home)
        return lambda state, of, dial: dial * (state @ matrix)
    turned = procrustes(asked, home)
    return lambda state, of, dial: dial * (turned(state) - state)


def _turned(vectors: Float[Tensor, "*row d"], control: int | None) -> Float[Tensor, "*row d"]:
    """As they are, or with the seed of a control of random direction and the same length."""
    return vectors if control is None else subspaces.random_like(vectors, control)


def shuffled(relation: Int[Tensor, " fact"], seed: int) -> Int[Tensor, " fact"]:
    """Another fact of the relation for each, where it has two or more."""
    draw, order = rng(seed, "shuffled pairs"), np.arange(len(relation))
    for name in relation.unique():
        facts = draw.permutation(np.flatnonzero(relation.numpy() == int(name)))
        order[facts] = np.roll(facts, 1)
    return torch.from_numpy(order)


class Setting(NamedTuple):
    """How an edit is made."""

    layer: int | None
    """Residual stream that is edited; None for heads."""
    strength: float | None
    """What the edit is multiplied by; None where its size is all there is to choose."""
    size: int | None = None
    """Rank of the subspace, or number of heads."""


def settings(method: str, n_layers: int) -> list[Setting]:
    """What is tried of an edit in a model of so many blocks: as many settings for each, where it has two blocks."""
    # the embedding of the last token says the relation alone: an edit there would only put in another word for it
    layers = range(1, n_layers + 1)
    if method == "head shifts":
        return [Setting(None, strength, n) for n, strength in product(HEADS, STRENGTHS)]
    if method == "subspace removal":
        return [Setting(layer, None, rank) for layer, rank in product(layers, RANKS)]
    return [Setting(layer, strength) for layer, strength in product(layers, STRENGTHS)]


class Fits:
    """Edits of a model, fitted on some parallel facts for each ordered pair of languages."""

    def __init__(self, model: Model, corpus: Corpus, facts: Int[np.ndarray, " fact"], seed: int) -> None:
        """`facts` are parallel ones; `seed` is that of the controls."""
        self.model, self.corpus, self.facts, self.seed = model, corpus, facts, seed
        self.states = states(model, corpus, np.arange(corpus.n_facts))
        self._kept: dict[tuple[str, bool, int, int, int], Delta] = {}

    def _known(self, asked: int, home: int) -> Int[np.ndarray, " fact"]:
        seen = self.corpus.seen
        return self.facts[seen[asked, self.facts] & seen[home, self.facts]]

    def edit(self, method: str, setting: Setting, rows: Rows, control: bool) -> Callable[[Tensor], list[Hook]]:
        """Hooks that edit the last position of some of the rows."""
        if method == "head shifts":
            return self._shifted_heads(setting, rows, control)
        layer, dial = setting.layer, setting.strength if setting.size is None else setting.size
        added = torch.zeros(len(rows), self.states.shape[-1])
        for pair, some in rows.by_pair():
            state = self.states[layer, rows.asked[some], rows.fact[some]]
            added[some] = self._delta(method, control, *pair, layer)(state, rows.relation[some], dial)
        name = patching.residual(self.model, layer)
        return lambda chosen: [(name, partial(hooks.steer, vector=added[chosen], positions=-1))]

    def _delta(self, method: str, control: bool, asked: int, home: int, layer: int) -> Delta:
        key = method, control, asked, home, layer
        if key not in self._kept:
            facts = self._known(asked, home)
            pairs = (self.states[layer, language, facts] for language in (asked, home))
            relation = torch.from_numpy(self.corpus.world.relation[facts])
            self._kept[key] = fitted(method, *pairs, relation, self.seed if control else None)
        return self._kept[key]

    @cached_property
    def _heads(self) -> Float[Tensor, "language fact head d_head"]:
        """Outputs of all heads of all blocks at the last prompt token."""
        names = [f"blocks.{block}.attn.hook_z" for block in range(self.model.cfg.n_layers)]
        asked, parts, order = prompts(self.corpus, self.corpus.rows(self.facts)), [], []
        for some in by_length(asked):
            tokens = asked.part(some).tokens.to(next(self.model.parameters()).device)
            (run,) = read_activations(self.model, [tokens], names)
            parts.append(torch.cat([run[name][:, -1] for name in names], 1).float().cpu())
            order.append(some)
        return in_order(parts, order).unflatten(0, (self.corpus.n_languages, len(self.facts)))

    def _shifted_heads(self, setting: Setting, rows: Rows, control: bool) -> Callable[[Tensor], list[Hook]]:
        n_heads = self.model.cfg.n_heads
        shifts: dict[int, Tensor] = {}
        for (asked, home), some in rows.by_pair():
            known = np.isin(self.facts, self._known(asked, home))
            outputs = [self._heads[language, known] for language in (asked, home)]
            apart = outputs[1].mean(0) - outputs[0].mean(0)
            apart = setting.strength * _turned(apart, self.seed if control else None)
            for head in separating_heads(*outputs, setting.size).tolist():
                shifts.setdefault(head, torch.zeros(len(rows), apart.shape[1]))[some] = apart[head]
        named = [(f"blocks.{head // n_heads}.attn.hook_z", head % n_heads, shift) for head, shift in shifts.items()]
        return lambda chosen: [
            (name, partial(hooks.steer, vector=shift[chosen], positions=-1, heads=head)) for name, head, shift in named
        ]


def likeness(rows: Rows, said: Said) -> tuple[float, float]:
    """How much answers are the home language's: 1 for its word of the right object, 0.5 for that of the language asked.

    The mean over rows; and for ties the mean log-probability of the home language's word, among those of the relation's
    objects in the two languages. Settings are chosen by it: parallel facts are known in the language asked, too, so by
    what is right in its own words doing nothing would be best; by the home language's words alone, of settings that
    bring none, the most destructive one could be.
    """
    options = torch.cat([said.home, said.asked], 1).masked_fill(~rows.allowed.repeat(1, 2), -torch.inf)
    likely = options.log_softmax(1).gather(1, rows.option[:, None])
    at_home, at_asked = (
        (said.token == words.gather(1, rows.option[:, None])[:, 0]).double()
        for words in (rows.home_words, rows.asked_words)
    )
    return float(torch.maximum(at_home, at_asked / 2).mean()), float(likely.double().mean())


# --- all of them ---------------------------------------------------------------------------------------------


@torch.no_grad()
def transfer_at_inference(
    model: Model | Trained,
    corpus: Corpus | None = None,
    *,
    methods: Sequence[str] | None = None,
    every: bool = False,
    seed: int = 0,
) -> pd.DataFrame:
    """Facts asked in languages that never saw them, with each of `METHODS` at work: what is right, what is kept?

    A run may stand alone. `methods` are names of `METHODS`; None is all that the corpus allows. Edits are fitted on one
    half of the parallel facts of each relation, their setting is chosen on the other half (see `likeness`), one for all
    pairs of languages, and what is reported is neither.

    - `none` is what the model says; `translate-test` asks in the home language and looks the answer's object up.
    - `prior correction` adds a bias that makes a relation's objects equally likely over the prompts asked
      (`repair.output_bias`, which asks for no right answer); `constrained decoding` allows only words of the language
      asked, `home decoding` only those of the home language: what moves states home must bring more than it does.
    - `global shift`, `relation shifts`, `subspace removal`, `INCLINE` and `Procrustes` edit the residual stream of one
      layer, `head shifts` the outputs of the heads that separate the languages most (CLAIM, arXiv 2506.11073).
    - `majority vote` asks in all languages, the home language among them; it needs three.

    A row a method: `layer`, `strength` and `size` (rank, or number of heads) as chosen, `likeness` by which; and shares

    - `transfer`, answers that are right in the word of the language asked; `either`, in that or the home language's.
      What moves states home answers in words of home: `either` is what a dictionary would make of it, not transfer.
    - `guessed`, what transfer would be if the answers due were dealt out anew among the facts asked in one language
      and relation that have one home: the part of it that needs no knowledge of which fact has which.
    - `corrected`, the prior-corrected choice among the relation's objects in words of the language asked; `looked up`,
      the same in words of the home language, whose object is then looked up.
    - `right language`, answers that are words of the language asked.
    - `recall` and `recall, either`, the same as the first two of facts that the language asked alone has seen, with the
      method at work as if each other language were their home.

    `control` marks a method fitted on facts shuffled within their relation (INCLINE, Procrustes), or, as means need no
    pairs, with a random direction of equal length or rank. `every` gives a row for each setting, and `chosen` marks the
    one. Raises ValueError for an unknown method, a vote of two languages, answers of several tokens, no fact that is
    held out, or a relation without two parallel facts.

    >>> table = ul.crosslingual.transfer_at_inference(run, methods=["none", "INCLINE", "translate-test"])
    >>> list(table["method"]), list(table["control"])
    (['none', 'INCLINE', 'INCLINE', 'translate-test'], [False, False, True, False])
    """
    model, corpus = model_and_corpus(model, corpus)
    methods = _checked(corpus, methods)
    fit, choose = split(corpus, seed) if set(methods) & set(EDITS) else (None, None)
    seen = corpus.seen
    # of two languages one alone has seen the fact: the home language, or that asked, whose recall is to be kept
    rows = Rows.of(corpus, lambda a, b: ~corpus.parallel & (seen[a] ^ seen[b]))
    held_out = ~seen[rows.asked, rows.fact]
    asked, records = Asked(model, rows), []
    if fit is not None:
        fits = Fits(model, corpus, fit, seed)
        others = np.isin(np.arange(corpus.n_facts), choose)
        of_choice = Asked(model, Rows.of(corpus, lambda a, b: others & seen[a] & seen[b]))
    for method in methods:
        if method not in EDITS:
            said = UNFITTED[method](asked, held_out)
            records.append({"method": method, "control": False, **measured(rows, said, held_out)})
            continue
        for control in (False, True):
            tried = {}
            for setting in settings(method, model.cfg.n_layers):
                said = of_choice.say(fits.edit(method, setting, of_choice.rows, control))
                tried[setting] = likeness(of_choice.rows, said)
            best = max(tried, key=lambda setting: tried[setting])
            for setting in tried if every else [best]:
                said = asked.say(fits.edit(method, setting, rows, control))
                labels = {"method": method, "control": control, **setting._asdict(), "likeness": tried[setting][0]}
                if every:
                    labels["chosen"] = setting == best
                records.append({**labels, **measured(rows, said, held_out)})
    columns = ["method", "control", *Setting._fields, "likeness", *(["chosen"] if every else []), *MEASURES]
    return pd.DataFrame(records, columns=columns).astype({"layer": float, "strength": float, "size": float})


def split(corpus: Corpus, seed: int = 0) -> tuple[Int[np.ndarray, " fact"], Int[np.ndarray, " fact"]]:
    """Parallel facts in two halves of each relation: to fit on, and to choose on.

    Raises ValueError where a relation has fewer than two that some pair of languages both saw.
    """
    relation, n = corpus.world.relation, corpus.world.n_relations
    draw, halves = rng(seed, "fit or choose"), ([], [])
    for r in range(n):
        facts = draw.permutation(np.flatnonzero(corpus.parallel & (relation == r)))
        for half, some in zip(halves, (facts[::2], facts[1::2]), strict=True):
            half.append(some)
    fit, choose = (np.sort(np.concatenate(half)) for half in halves)
    for a, b in permutations(range(corpus.n_languages), 2):
        for name, facts in (("fit", fit), ("choose", choose)):
            both = facts[corpus.seen[a, facts] & corpus.seen[b, facts]]
            if lacking := sorted(set(range(n)) - set(relation[both].tolist())):
                raise ValueError(
                    f"relation {lacking[0]} has no parallel fact of languages {a} and {b} to {name} on; allowed: at "
                    "least two in each relation."
                )
    return fit, choose


def _checked(corpus: Corpus, methods: Sequence[str] | None) -> list[str]:
    """Names of methods that the corpus allows."""
    _ = corpus.answers  # which says so where they have several tokens
    if (corpus.seen | corpus.parallel).all():
        raise ValueError("no monolingual fact is held out in any language: no transfer to measure.")
    few = corpus.n_languages < 3
    if methods is None:
        return [name for name in METHODS if not (few and name == "majority vote")]
    if isinstance(methods, str) or not len(methods) or any(name not in METHODS for name in methods):
        raise ValueError(f"methods={methods!r}; allowed: a list of {', '.join(METHODS)}.")
    if few and "majority vote" in methods:
        raise ValueError(
            f"methods has 'majority vote', but the corpus has {corpus.n_languages} languages; allowed: three or more."
        )
    return list(methods)


# --- what is not fitted on pairs -----------------------------------------------------------------------------


def _unedited(asked: Asked, held_out: Bool[np.ndarray, " row"]) -> Said:
    return asked.say()


def _translated(asked: Asked, held_out: Bool[np.ndarray, " row"]) -> Said:
    rows = asked.rows
    said = Asked(asked.model, rows.asked_in(rows.home)).say()
    return Said(look_up(said.token, rows.home_words, rows.asked_words), said.home, said.home)


def _without_prior(asked: Asked, held_out: Bool[np.ndarray, " row"]) -> Said:
    rows, corpus = asked.rows, asked.rows.corpus
    n = corpus.n_languages
    bias = torch.zeros(n * n, corpus.world.n_relations, corpus.d_vocab)
    for (language, home), some in rows.by_pair():
        facts = rows.fact[some][held_out[some]]
        if len(facts):
            logits = patching.last_logits(asked.model, prompts(corpus, language * corpus.n_facts + facts)).cpu()
            bias[language * n + home] = output_bias(logits, corpus, language, facts)
    pair = torch.from_numpy(rows.asked * n + rows.home)
    return asked.say(change=lambda logits, chosen: logits + bias[pair[chosen], rows.relation[chosen]])


def _constrained(asked: Asked, language: Int[np.ndarray, " row"]) -> Said:
    allowed, of = asked.rows.in_language, torch.from_numpy(language)
    return asked.say(change=lambda logits, chosen: only(logits, allowed[of[chosen]]))


def _voted(asked: Asked, held_out: Bool[np.ndarray, " row"]) -> Said:
    rows, options, probabilities = asked.rows, [], []
    for language in range(rows.corpus.n_languages):
        there = rows.asked_in(np.full(len(rows), language))
        said = Asked(asked.model, there).say()
        named = said.token[:, None] == there.asked_words
        options.append(torch.where(named.any(1), named.to(torch.uint8).argmax(1), -1))
        probabilities.append(said.asked.masked_fill(~rows.allowed, -torch.inf).softmax(1).amax(1))
    winner = majority_vote(torch.stack(options), torch.stack(probabilities), rows.allowed.shape[1])
    word = rows.asked_words.gather(1, winner.clamp_min(0)[:, None])[:, 0]
    own = asked.say()
    nothing = torch.full_like(own.asked, torch.nan)
    return Said(torch.where(winner >= 0, word, own.token), nothing, nothing)


UNFITTED: dict[str, Callable[[Asked, Bool[np.ndarray, " row"]], Said]] = {
    "none": _unedited,
    "translate-test": _translated,
    "prior correction": _without_prior,
    "constrained decoding": lambda asked, held_out: _constrained(asked, asked.rows.asked),
    "home decoding": lambda asked, held_out: _constrained(asked, asked.rows.home),
    "majority vote": _voted,
}
"""From a model asked rows, and which of them are held out, to what it says under a method."""
