"""Terms of the loss on states of the same fact in two languages: what draws them together, or hides the language.

Each step draws some parallel facts, each in two of the languages that it is told in, and computes no more than their
states at the layer and the place that a term looks at. The gradient by these is autograd's; the stack's own goes on.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unifylens.config import Experiment
from unifylens.corpus.corpus import Corpus
from unifylens.seeds import rng, torch_seed
from unifylens.training.batches import STEPS_PER_DRAW
from unifylens.training.stack import Network, Parameters, States

DISCRIMINATOR_RATE = 1e-2
"""Learning rate (Adam) of the adversary's discriminator: several times the models', so that it keeps up with them."""
EPSILON = 1e-5
"""Of its Adam: where languages are balanced, its bias has a gradient of rounding errors alone."""
BETAS = (0.9, 0.98)
"""Of the discriminator's Adam, as of the models'."""


# --- what terms are ------------------------------------------------------------------------------------------


def contrast(
    a: Float[Tensor, "model pair d_model"],
    b: Float[Tensor, "model pair d_model"],
    alike: Bool[Tensor, "model pair pair"],
    temperature: float,
) -> Float[Tensor, " model"]:
    """InfoNCE of cosines within the batch, both ways, in nats: which of the states in b belongs to that in a?

    `alike` marks pairs that say the same, which are no negatives of each other. After mid-layer alignment
    (arXiv 2502.14830).
    """
    cosines = F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).mT / temperature
    itself = torch.eye(a.shape[1], dtype=torch.bool, device=a.device)
    cosines = cosines.masked_fill(alike & ~itself, -torch.inf)
    right = cosines.diagonal(dim1=1, dim2=2)
    return (cosines.logsumexp(1) / 2 + cosines.logsumexp(2) / 2 - right).mean(1)


def pull(a: Float[Tensor, "model pair d_model"], b: Float[Tensor, "model pair d_model"]) -> Float[Tensor, " model"]:
    """Mean squared distance of the two states of a fact, in units of the states' own variance over facts (no gradient).

    In these units a weight means the same at every layer. After the pull of translations in arXiv 2009.14304.
    """
    both = torch.cat([a, b], 1).detach()
    spread = (both - both.mean(1, keepdim=True)).pow(2).sum(-1).mean(1)
    return (a - b).pow(2).sum(-1).mean(1) / spread.clamp(min=1e-12)


def discrimination(
    states: Float[Tensor, "model state d_model"],
    weight: Float[Tensor, "model d_model language"],
    bias: Float[Tensor, "model language"],
    languages: Int[Tensor, "model state"],
) -> Float[Tensor, " model"]:
    """Cross-entropy, in nats, of a linear discriminator that tells the language from a state."""
    logits = torch.baddbmm(bias.unsqueeze(1), states, weight)
    return F.cross_entropy(logits.mT, languages, reduction="none").mean(1)


def distillation(
    home: Float[Tensor, "model pair object"], other: Float[Tensor, "model pair object"]
) -> Float[Tensor, " model"]:
    """KL divergence, in nats, of the objects answered in another language from those answered at home (no gradient).

    Logits of what is no object of the relation are -inf in both. After self-distillation across languages.
    """
    teacher = home.detach().softmax(-1)
    difference = (teacher.clamp(min=1e-30).log() - other.log_softmax(-1)).masked_fill(teacher == 0, 0.0)
    return (teacher * difference).sum(-1).mean(1)


# --- which facts a step draws ----------------------------------------------------------------------------------


def refuse_what_does_not_fit(experiment: Experiment, corpus: Corpus) -> None:
    """Raise ValueError where a term has no parallel facts to act on, or compares answers of several tokens."""
    steps = experiment.train.steps
    for number, term in enumerate(experiment.train.state_losses):
        if term.method == "distil":
            _ = corpus.answers  # which says so
        for start, stop, exposure in corpus.stages:
            acts = start < term.until * steps and stop > term.since * steps
            if acts and not ((exposure > 0).sum(0) > 1).any():
                raise ValueError(
                    f"train.state_losses[{number}] needs facts told in two languages, and from step {start} to {stop} "
                    "there are none; allowed: corpus.parallel above 0, or since and until that leave these steps out."
                )


class _Pairs:
    """The facts of one term that every member draws at a step, each in two languages."""

    def __init__(
        self, term: int, experiments: Sequence[Experiment], corpora: Sequence[Corpus], sequences: Tensor
    ) -> None:
        self.term, self.device, self.sequences = term, sequences.device, sequences
        self.losses = [experiment.train.state_losses[term] for experiment in experiments]
        self.seeds = [experiment.seed for experiment in experiments]
        first = self.losses[0]
        self.n_pairs, self.n_languages = first.pairs, corpora[0].n_languages
        self.n_facts = corpora[0].n_facts
        self.n_templates = self.sequences.shape[1]
        role = "answer" if first.method == "distil" else first.role
        at = torch.stack(
            [torch.stack([torch.tensor(c.positions(role, t)) for t in range(self.n_templates)]) for c in corpora]
        )
        low, high = int(at.min()), int(at.max())
        # modules of languages are told by the whole prompt
        whole = experiments[0].model.language_neurons > 0
        self.n_in = 1 + (max(int(c.answer_positions[..., 0].max()) for c in corpora) if whole else high)
        self.query = slice(low, high + 1) if low == high else None
        """The position where it is the same in all prompts."""
        self.at = at.to(self.device)
        self.shared = int(low > 0 and bool((self.sequences[..., 0] == self.sequences[:, :1, :1, 0]).all()))
        self.home = torch.stack([torch.tensor(c.home) for c in corpora]).to(self.device)
        self.told = [[(stop, torch.tensor(exposure > 0)) for _, stop, exposure in c.stages] for c in corpora]
        self.partner = torch.stack(
            [_partners(c, e.seed, loss.shuffled) for c, e, loss in zip(corpora, experiments, self.losses, strict=True)]
        ).to(self.device)
        """The fact that takes a fact's place in the second language: itself, unless pairs are shuffled."""
        self._members = torch.arange(len(corpora), device=self.device)[:, None]
        self._chunk, self._drawn = -1, torch.empty(0)
        self._since, self._until = 0, 0
        self._parallel = self._counts = self._seen = torch.empty(0)

    def draw(self, step: int) -> list[Tensor]:
        """Tokens `[model, 2 pair, pos]`, facts and languages `[model, 2 pair]`, positions where they differ.

        The first half is said in one language, the second half in the other.
        """
        chunk, within = divmod(step, STEPS_PER_DRAW)
        if chunk != self._chunk:
            self._chunk = chunk
            self._drawn = torch.stack([self._random(seed, chunk) for seed in self.seeds]).to(self.device)
        self._enter(step)
        which, what, order = self._drawn[:, within].split([1, 1, self.n_languages], -1)
        template = (what[..., 0] * self.n_templates).long()
        fact = self._parallel.gather(1, (which[..., 0] * self._counts).long())
        told = self._seen[self._members, :, fact]  # [model, pair, language]
        if self.losses[0].method == "distil":  # the home language teaches
            order = order + F.one_hot(self.home.gather(1, fact), self.n_languages)
        languages = order.masked_fill(~told, -1.0).topk(2, -1).indices
        facts = torch.cat([fact, self.partner.gather(1, fact)], 1)
        languages = torch.cat([languages[..., 0], languages[..., 1]], 1)
        rows, templates = languages * self.n_facts + facts, template.repeat(1, 2)
        tokens = self.sequences[self._members, templates, rows, : self.n_in]
        drawn = [tokens, facts, languages]
        if self.query is None:
            drawn.append(self.at[self._members, templates, rows].unsqueeze(-1))
        return drawn

    def _enter(self, step: int) -> None:
        """Look up which facts are told in two languages or more at a step."""
        if self._since <= step < self._until:
            return
        current = [next(stage for stage in stages if step < stage[0]) for stages in self.told]
        self._since, self._until = step, min(stop for stop, _ in current)
        parallel = [torch.nonzero(told.sum(0) > 1)[:, 0] for _, told in current]
        # a member whose term does not act now may have none: what it draws then counts nothing
        parallel = [facts if len(facts) else torch.zeros(1, dtype=torch.long) for facts in parallel]
        self._counts = torch.tensor([[len(facts)] for facts in parallel], device=self.device)
        self._parallel = torch.nn.utils.rnn.pad_sequence(parallel, batch_first=True).to(self.device)
        self._seen = torch.stack([told for _, told in current]).to(self.device)

    def _random(self, seed: int, chunk: int) -> Float[Tensor, "step pair number"]:
        generator = torch.Generator().manual_seed(torch_seed(seed, f"pairs of state loss {self.term}", chunk))
        size = (STEPS_PER_DRAW, self.n_pairs, 2 + self.n_languages)
        return torch.rand(size, generator=generator, dtype=torch.float64)


def _partners(corpus: Corpus, seed: int, shuffled: bool) -> Int[Tensor, " fact"]:
    """Each fact's own number, or that of another one with its relation that is told in the same languages."""
    partner = torch.arange(corpus.n_facts)
    if not shuffled:
        return partner
    generator = rng(seed, "shuffled pairs")
    kinds: dict[tuple, list[int]] = {}
    for fact in generator.permutation(corpus.n_facts).tolist():
        told = tuple(tuple((exposure[:, fact] > 0).tolist()) for *_, exposure in corpus.stages)
        kinds.setdefault((int(corpus.world.relation[fact]), told), []).append(fact)
    for facts in kinds.values():
        partner[torch.tensor(facts)] = torch.tensor(facts[1:] + facts[:1])
    return partner


# --- terms of a stack ------------------------------------------------------------------------------------------


class _Term:
    """One term of K members, which share all of it but weight, time and shuffling."""

    def __init__(
        self, number: int, experiments: Sequence[Experiment], corpora: Sequence[Corpus], sequences: Tensor
    ) -> None:
        self.losses = [experiment.train.state_losses[number] for experiment in experiments]
        self.method, self.temperature = self.losses[0].method, self.losses[0].temperature
        self.layer = None if self.method == "distil" else self.losses[0].layer
        self.pairs = _Pairs(number, experiments, corpora, sequences)
        self.own: Parameters = {}
        """What the term learns itself, with its moments."""

    def states(self, network: Network, parameters: Parameters, tokens: Tensor, query: slice | Tensor) -> States:
        """What the term looks at."""
        return network.states(parameters, tokens, self.layer, query, self.pairs.shared)

    def value_and_gradient(
        self,
        states: Float[Tensor, "model state width"],
        part: slice,
        drawn: Sequence[Tensor],
        acts: Bool[Tensor, " model"],
    ) -> tuple[Float[Tensor, " model"], Float[Tensor, "model state width"]]:
        """Of each member of a part, from what it computes for the facts drawn; the gradient is the model's.

        Where the term does not act, it must not learn either.
        """
        leaf = states.detach().requires_grad_()
        with torch.enable_grad():
            value = self.value(*leaf.chunk(2, 1), part, *(facts.chunk(2, 1) for facts in drawn))
            (gradient,) = torch.autograd.grad(value.sum(), leaf)
        return value.detach(), gradient

    def value(
        self, a: Tensor, b: Tensor, part: slice, facts: Sequence[Tensor], languages: Sequence[Tensor]
    ) -> Float[Tensor, " model"]:
        """Of a pair's two states."""
        return pull(a, b)


class _Contrast(_Term):
    def __init__(
        self, number: int, experiments: Sequence[Experiment], corpora: Sequence[Corpus], sequences: Tensor
    ) -> None:
        super().__init__(number, experiments, corpora, sequences)
        self.content = torch.stack([_content(corpus, self.losses[0].role) for corpus in corpora]).to(sequences.device)

    def value(
        self, a: Tensor, b: Tensor, part: slice, facts: Sequence[Tensor], languages: Sequence[Tensor]
    ) -> Float[Tensor, " model"]:
        said, also_said = (self.content[part].gather(1, own) for own in facts)
        alike = (said.unsqueeze(2) == said.unsqueeze(1)) | (also_said.unsqueeze(2) == also_said.unsqueeze(1))
        return contrast(a, b, alike, self.temperature)


class _Distillation(_Term):
    def __init__(
        self, number: int, experiments: Sequence[Experiment], corpora: Sequence[Corpus], sequences: Tensor
    ) -> None:
        super().__init__(number, experiments, corpora, sequences)
        self.object_tokens = torch.stack([corpus.object_tokens for corpus in corpora]).to(sequences.device)
        self.relation = torch.stack([torch.tensor(c.world.relation) for c in corpora]).to(sequences.device)
        """Of each fact."""
        self.relation_of_object = torch.stack([torch.tensor(c.world.object_relation) for c in corpora]).to(
            sequences.device
        )

    def states(self, network: Network, parameters: Parameters, tokens: Tensor, query: slice | Tensor) -> States:
        """Logits of both halves; the first one teaches, and needs no gradient."""
        n = self.pairs.n_pairs
        one, other = (query, query) if isinstance(query, slice) else (query[:, :n], query[:, n:])
        teacher = network.forward(parameters, tokens[:, :n], one, self.pairs.shared).logits[:, :, 0]
        taught = network.states(parameters, tokens[:, n:], self.layer, other, self.pairs.shared)
        return States(torch.cat([teacher, taught.values], 1), lambda gradient: taught.gradients(gradient[:, n:]))

    def value(
        self, a: Tensor, b: Tensor, part: slice, facts: Sequence[Tensor], languages: Sequence[Tensor]
    ) -> Float[Tensor, " model"]:
        members = torch.arange(len(a), device=a.device)[:, None]
        answers = []
        for logits, own, language in zip((a, b), facts, languages, strict=True):
            tokens = self.object_tokens[part][members, language]
            asked = self.relation[part].gather(1, own).unsqueeze(2)
            others = asked != self.relation_of_object[part].unsqueeze(1)
            answers.append(logits.gather(2, tokens).masked_fill(others, -torch.inf))
        return distillation(*answers)


class _Adversary(_Term):
    """Reverses the gradient of a discriminator of languages, which learns on the way."""

    def __init__(
        self, number: int, experiments: Sequence[Experiment], corpora: Sequence[Corpus], sequences: Tensor
    ) -> None:
        super().__init__(number, experiments, corpora, sequences)
        n, d_model, n_languages = len(experiments), experiments[0].model.d_model, corpora[0].n_languages
        sizes = {"weight": (n, d_model, n_languages), "bias": (n, n_languages)}
        kinds = ("now", "mean", "square")
        device = sequences.device
        self.own = {
            f"{kind}/{name}": torch.zeros(size, device=device) for name, size in sizes.items() for kind in kinds
        }
        self.own["steps"] = torch.zeros(n, device=device)
        labels = zip(corpora, experiments, self.losses, strict=True)
        self.labels = torch.stack([_labels(c, e.seed, loss.shuffled) for c, e, loss in labels]).to(sequences.device)

    def value_and_gradient(
        self,
        states: Float[Tensor, "model state width"],
        part: slice,
        drawn: Sequence[Tensor],
        acts: Bool[Tensor, " model"],
    ) -> tuple[Float[Tensor, " model"], Float[Tensor, "model state width"]]:
        facts, languages = drawn
        members = torch.arange(len(states), device=states.device)[:, None]
        labels = self.labels[part][members, languages, facts]
        weight, bias = (self.own[f"now/{name}"][part].to(states.dtype) for name in ("weight", "bias"))
        leaves = [x.detach().requires_grad_() for x in (states, weight, bias)]
        with torch.enable_grad():
            value = discrimination(*leaves, labels)
            gradient, *own = torch.autograd.grad(value.sum(), leaves)
        self._learn(part, dict(zip(("weight", "bias"), own, strict=True)), acts)
        return value.detach(), -gradient

    def _learn(self, part: slice, gradients: Parameters, acts: Bool[Tensor, " model"]) -> None:
        """A step of Adam, in place, of the members in which the term acts."""
        steps = self.own["steps"][part].add_(acts)
        for name, gradient in gradients.items():
            now, mean, square = (self.own[f"{kind}/{name}"][part] for kind in ("now", "mean", "square"))
            taken, moves = (x.view(-1, *[1] * (now.ndim - 1)) for x in (steps.clamp(min=1), acts.to(now.dtype)))
            mean.lerp_(gradient.to(now.dtype), (1 - BETAS[0]) * moves)
            square.lerp_(gradient.to(now.dtype).square(), (1 - BETAS[1]) * moves)
            scale = (square / (1 - BETAS[1] ** taken)).sqrt() + EPSILON
            now.sub_(DISCRIMINATOR_RATE * moves * (mean / (1 - BETAS[0] ** taken)) / scale)


TERMS: dict[str, type[_Term]] = {
    "contrast": _Contrast,
    "pull": _Term,
    "adversary": _Adversary,
    "distil": _Distillation,
}


def _content(corpus: Corpus, role: str) -> Int[Tensor, " fact"]:
    """A number for what is said of each fact up to a place, in every template: equal where states would be the same."""
    content = torch.zeros(corpus.n_facts, dtype=torch.long)
    for name, number in (("subject", corpus.world.subject), ("relation", corpus.world.relation)):
        templates = range(len(corpus.sequences))
        if all((corpus.positions(name, t) <= corpus.positions(role, t)).all() for t in templates):
            content = content * (int(number.max()) + 1) + torch.tensor(number)
    return content


def _labels(corpus: Corpus, seed: int, shuffled: bool) -> Int[Tensor, "language fact"]:
    """The language of every prompt; or, shuffled, one drawn for it once and for all."""
    n_languages, n_facts = corpus.n_languages, corpus.n_facts
    if shuffled:
        return torch.from_numpy(rng(seed, "shuffled languages").integers(n_languages, size=(n_languages, n_facts)))
    return torch.arange(n_languages)[:, None].expand(-1, n_facts)


class Alignment:
    """All terms on states of a stack, whose members share them but for weight, time and shuffling."""

    def __init__(self, experiments: Sequence[Experiment], corpora: Sequence[Corpus], sequences: Tensor) -> None:
        """`sequences` `[model, template, row, pos]` are the corpora's, where models train.

        Where experiments have no `train.state_losses`, nothing is drawn and nothing added.
        """
        device = sequences.device
        self.experiments, n_terms = experiments, len(experiments[0].train.state_losses)
        self.terms = [
            TERMS[experiments[0].train.state_losses[number].method](number, experiments, corpora, sequences)
            for number in range(n_terms)
        ]
        self.always = device.type == "cuda"
        """A CUDA graph computes what it recorded, also where the weight is 0."""
        self.weights = torch.zeros(n_terms, len(experiments), dtype=torch.float64, device=device)
        self.sums = torch.zeros_like(self.weights)
        """Of every term's values since the last evaluation, over the steps at which it acted."""
        self.counts = torch.zeros_like(self.sums)

    def draw(self, step: int) -> list[list[Tensor]]:
        """What each term that acts looks at, at a step; its weights are set on the way."""
        weights = [[_weight(e, number, step) for e in self.experiments] for number in range(len(self.terms))]
        if self.terms:
            self.weights.copy_(torch.tensor(weights, dtype=torch.float64))
        return [
            term.pairs.draw(step) if self.always or any(own) else []
            for term, own in zip(self.terms, weights, strict=True)
        ]

    def add(
        self, network: Network, part: slice, parameters: Parameters, gradients: Parameters, drawn: Sequence[Sequence]
    ) -> None:
        """Add the gradients of all terms, times their weights, to those of a part of the members."""
        for number, (term, inputs) in enumerate(zip(self.terms, drawn, strict=True)):
            if not inputs:
                continue
            tokens, facts, languages, *at = (x[part] for x in inputs)
            states = term.states(network, parameters, tokens, at[0] if at else term.pairs.query)
            weight = self.weights[number, part]
            value, by_states = term.value_and_gradient(states.values, part, (facts, languages), weight > 0)
            for name, gradient in states.gradients(by_states * weight[:, None, None].to(by_states.dtype)).items():
                gradients[name] += gradient
            self.sums[number, part] += torch.where(weight > 0, value, 0)
            self.counts[number, part] += weight > 0

    def means(self, member: int) -> dict[str, float]:
        """Mean value of a member's terms since the last evaluation, as columns of its history; then anew."""
        values: dict[str, float] = {}
        for number, term in enumerate(self.terms):
            count = float(self.counts[number, member])
            value = float(self.sums[number, member]) / count if count else float("nan")
            values[f"{term.method}_loss"] = values.get(f"{term.method}_loss", 0.0) + value
        self.sums[:, member], self.counts[:, member] = 0, 0
        return values

    def tensors(self) -> dict[str, Tensor]:
        """All that training goes on from; views, to be written into."""
        if not self.terms:
            return {}
        own = {f"{number}/{name}": x for number, term in enumerate(self.terms) for name, x in term.own.items()}
        return {f"alignment/{name}": x for name, x in (own | {"sums": self.sums, "counts": self.counts}).items()}


def _weight(experiment: Experiment, number: int, step: int) -> float:
    """Of a term at a 0-based step: nothing before and after its time."""
    term, steps = experiment.train.state_losses[number], experiment.train.steps
    return term.weight if term.since * steps <= step < term.until * steps else 0.0
