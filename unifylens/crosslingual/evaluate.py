"""Ask a model the corpus' prompts and hand states and answers to the measures."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from itertools import combinations
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike
from torch import Tensor

from unifylens import measures
from unifylens.corpus.corpus import Corpus
from unifylens.corpus.exposure import KINDS, Copy
from unifylens.corpus.tokenization import PAD_ID
from unifylens.measures import probes, scores
from unifylens.measures.answers import AnswerType
from unifylens.measures.scores import Pair
from unifylens.model import untrained_like
from unifylens.patching.prompts import Prompts
from unifylens.patching.stream import Model, run_prompts
from unifylens.seeds import rng

SEEN = (Copy.MONOLINGUAL, Copy.MAJORITY, Copy.MINORITY)
"""Kinds of copies that recall is of."""

UNIFICATION: dict[str, Callable[[Pair], Tensor]] = {"unification": lambda pair: pair.unification}

MEASURED_ROWS = 4096
"""Rows of all layers measured together: more of them in double precision would leave a processor's cache."""

Ask = Callable[[Tensor, Tensor], tuple[Tensor, list[Tensor]]]
"""From tokens `[row, pos]` and positions `[row]`: logits `[row, vocab]` and states by layer `[row, d_model]` there."""


class Trained(Protocol):
    """A model and the corpus it was trained on, such as a `Run`."""

    @property
    def model(self) -> Model:
        """The model."""

    @property
    def corpus(self) -> Corpus:
        """Its corpus."""


def model_and_corpus(model: Model | Trained, corpus: Corpus | None = None) -> tuple[Model, Corpus]:
    """A model and a corpus that fit, or those of a run that is given alone.

    Raises TypeError for anything else, and ValueError if the model does not fit the corpus.
    """
    if isinstance(model, Corpus):
        raise TypeError("model is a Corpus; allowed: the model first, then the corpus.")
    if hasattr(model, "runs"):
        raise TypeError("model is a Sweep; allowed: one run, or all of them with `runs.measure(ul.transfer)`.")
    if not hasattr(model, "cfg") and isinstance(getattr(model, "corpus", None), Corpus):
        corpus = model.corpus if corpus is None else corpus
        model = model.model
    if not hasattr(model, "cfg"):
        raise TypeError(f"model is a {type(model).__name__}; allowed: a model with TransformerLens' hooks, or a run.")
    if not isinstance(corpus, Corpus):
        raise TypeError(f"corpus is a {type(corpus).__name__}; allowed: a Corpus, such as run.corpus.")
    corpus.check_model(model.cfg.d_vocab, model.cfg.n_ctx)
    return model, corpus


class Answers(NamedTuple):
    """What a model says: its greedy answers, and logits and states at the last prompt token."""

    tokens: Int[Tensor, "row answer"]
    logits: Float[Tensor, "row vocab"]
    states: list[Float[Tensor, "row d_model"]]


class Options(NamedTuple):
    """Logits of answers of one token that a relation has in the language asked, of some rows."""

    logits: Float[Tensor, "row option"]
    allowed: Bool[Tensor, "row option"]
    """Which are no padding."""
    due: Bool[Tensor, "row option"]
    group: Int[Tensor, " row"]
    """Rows of one language and relation share a number."""

    def right(self) -> Bool[np.ndarray, " row"]:
        """Whether the likeliest is right: the calibrated choice."""
        choice = measures.object_choice(self.logits, self.allowed)
        return self.due.gather(1, choice[:, None]).numpy()[:, 0]

    def corrected(self) -> Options:
        """The same without the answers' priors, and without rows that are alone in their group: they tell no prior."""
        some = torch.from_numpy(self.accompanied)
        logits, allowed, due, group = (part[some] for part in self)
        return Options(measures.without_prior(logits, group), allowed, due, group)

    @property
    def accompanied(self) -> Bool[np.ndarray, " row"]:
        """Which are not alone in their group."""
        return np.bincount(self.group)[self.group] > 1

    def margin(self) -> Float[np.ndarray, " row"]:
        """By how many nats the right answer is likelier than the likeliest other one."""
        others = self.logits.masked_fill(self.due | ~self.allowed, -torch.inf).amax(1)
        return ((self.logits * self.due).sum(1) - others).double().numpy()


class Questions:
    """Some facts, asked in every language, and what the answers and states to them amount to."""

    def __init__(self, corpus: Corpus, facts: ArrayLike | Tensor) -> None:
        """`facts` as in `Corpus.fact_numbers`; rows are ordered language by language."""
        self.corpus = corpus
        self.facts = np.sort(corpus.fact_numbers(facts))
        self.rows = torch.from_numpy(corpus.rows(self.facts))
        self.prompts = corpus.prompts(self.rows.numpy())
        self.last = torch.from_numpy(corpus.positions("answer")[self.rows.numpy()])
        """Position of each prompt's last token."""
        self.n_answer = corpus.due.shape[2]
        self.kind = corpus.kind[:, self.facts].ravel()
        self.language = np.repeat(np.arange(corpus.n_languages), len(self.facts))
        self.relation = np.tile(corpus.world.relation[self.facts], corpus.n_languages)
        self.parallel = corpus.parallel[self.facts]
        self._due = corpus.due[0, self.rows]
        self._due_code, _ = corpus.named(self._due, torch.from_numpy(self.relation))
        self._object = torch.from_numpy(np.tile(corpus.world.object[self.facts], corpus.n_languages))

    @classmethod
    def sample(cls, corpus: Corpus, per_kind: int, seed: int) -> Questions:
        """Up to `per_kind` parallel and as many monolingual facts; which ones depends on the seed alone."""
        order = rng(seed, "evaluated facts").permutation(corpus.n_facts)
        parallel = corpus.parallel[order]
        return cls(corpus, np.concatenate([order[parallel][:per_kind], order[~parallel][:per_kind]]))

    @classmethod
    def all(cls, corpus: Corpus) -> Questions:
        """Every fact."""
        return cls(corpus, np.arange(corpus.n_facts))

    @torch.no_grad()
    def answered_by(self, ask: Ask) -> Answers:
        """Greedy decoding: every token of an answer is the likeliest after those before it."""
        tokens = torch.nn.functional.pad(self.prompts, (0, self.n_answer - 1), value=PAD_ID)
        row = torch.arange(len(tokens))
        first, states = ask(tokens, self.last)
        said = [_likeliest(first)]
        for i in range(1, self.n_answer):
            tokens[row, self.last + i] = said[-1]
            said.append(_likeliest(ask(tokens, self.last + i)[0]))
        return Answers(torch.stack(said, 1), first, states)

    def answer_types(self, said: Int[Tensor, "row answer"]) -> Int[np.ndarray, " row"]:
        """An `AnswerType` for each answer."""
        objects = torch.from_numpy(self.corpus.world.object_relation)
        said, named = self.corpus.named(said, torch.from_numpy(self.relation))
        relation = torch.where(named >= 0, objects[named.clamp(min=0)], -1)
        return np.asarray(
            measures.answer_types(said, self._due_code, named, relation, self._object, torch.from_numpy(self.relation))
        )

    def options(self, logits: Float[Tensor, "row vocab"], asked: Bool[np.ndarray, " row"]) -> Options:
        """What the asked rows offer as answers. Raises ValueError where answers have several tokens."""
        rows = torch.from_numpy(np.flatnonzero(asked))
        language, relation = self.language[asked], self.relation[asked]
        tokens, allowed = (table[language, relation] for table in self._candidates)
        group = torch.from_numpy(language * self.corpus.world.n_relations + relation)
        return Options(logits[rows[:, None], tokens].cpu(), allowed, tokens == self._due[rows], group)

    def choices(self, logits: Float[Tensor, "row vocab"], asked: Bool[np.ndarray, " row"]) -> tuple[float, float]:
        """Accuracy of the asked rows among the relation's objects, raw and prior-corrected.

        An answer's prior is its mean over the asked rows alone, as seen facts would tell which answers the model knows
        there: one that is held out would stand out by being none of them.
        """
        if self.n_answer > 1:
            return float("nan"), float("nan")
        options = self.options(logits, asked)
        return _mean(options.right()), _mean(options.corrected().right())

    @cached_property
    def _candidates(self) -> tuple[Int[Tensor, "language relation n"], Bool[Tensor, "language relation n"]]:
        """Tokens that a relation's objects have in a language, in order and padded, and which of them are no padding.

        So a choice reads few logits of a row, and not one for every token of the vocabulary.
        """
        choices = self.corpus.choices
        most = int(choices.sum(-1).max())
        allowed, tokens = choices.to(torch.uint8).sort(dim=-1, descending=True, stable=True)
        return tokens[..., :most].clone(), allowed[..., :most].bool()

    def accuracy(self, answers: Answers) -> dict[str, float]:
        """Recall by kind of copy, transfer with its error types; nan where there is nothing to ask.

        `transfer_choice` and `transfer_corrected` are nan, too, where answers have several tokens.
        """
        types = self.answer_types(answers.tokens)
        right = types == AnswerType.RIGHT
        n_kind = self._n_kind
        by_kind = [_mean(right[self.kind == code]) for code in range(len(KINDS))]
        known = [code for code in SEEN if n_kind[code] and not np.isnan(by_kind[code])]
        held_out = self.kind == Copy.HELD_OUT
        choice, corrected = self.choices(answers.logits, held_out)
        out = {
            # kinds are sampled evenly, so recall weighs them by how many copies there are
            "recall": float(np.average([by_kind[c] for c in known], weights=n_kind[known])),
            **{f"recall_{KINDS[code]}": by_kind[code] for code in SEEN},
            "transfer": by_kind[Copy.HELD_OUT],
            "transfer_choice": choice,
            "transfer_corrected": corrected,
        }
        for kind in (AnswerType.WRONG_LANGUAGE, AnswerType.WRONG_OBJECT, AnswerType.OTHER):
            out[f"transfer_{kind.name.lower()}"] = _mean(types[held_out] == kind)
        return out

    @cached_property
    def _n_kind(self) -> Int[np.ndarray, " kind"]:
        """Copies of every kind in the whole corpus."""
        return np.bincount(self.corpus.kind.ravel(), minlength=len(KINDS))

    def pairs(self, states: Float[Tensor, "row d_model"], parallel: bool) -> list[tuple[Tensor, Tensor]]:
        """States of the same facts, `([fact, d_model], [fact, d_model])`, for every pair of languages."""
        by_language = states.view(self.corpus.n_languages, len(self.facts), -1)
        chosen = by_language[:, torch.from_numpy(self.parallel == parallel)]
        return list(combinations(chosen, 2)) if chosen.shape[1] > 1 else []

    def representation(self, states: list[Float[Tensor, "row d_model"]]) -> dict[str, float]:
        """By layer from 1 on: unification of monolingual and of parallel facts, its shuffled control, a language probe.

        The probe is trained on some relations and tested on others, as each relation's own words give the language
        away; with one relation it is tested on other facts.
        """
        n_rows, n_layers = len(self.rows), len(states)
        at_once = max(1, MEASURED_ROWS // n_rows)
        out: dict[str, float] = {}
        for first in range(0, n_layers, at_once):
            some = self._representation(torch.stack(list(states[first : first + at_once])).double())
            for i, layer in enumerate(range(first + 1, min(first + at_once, n_layers) + 1)):
                out |= {f"{name}_{layer}": float(values[i]) for name, values in some.items()}
        main = main_layer(n_layers)
        return {name: out[f"{name}_{main}"] for name in ("unification", "fact_only")} | out

    def _representation(self, states: Float[Tensor, "layer row d_model"]) -> dict[str, Float[Tensor, " layer"]]:
        """The same, without numbers of layers in the names."""
        by_language = states.unflatten(1, (self.corpus.n_languages, len(self.facts)))
        parts = {}
        compared = ("", self._alone, self._alone_scores), ("_parallel", self._shared, UNIFICATION)
        for suffix, facts, measured in compared:
            if len(facts) > 1:
                found = scores.of_languages(by_language.index_select(2, facts), measured)
            else:
                found = dict.fromkeys(measured, torch.full((len(states),), torch.nan))
            parts |= {name + suffix: values for name, values in found.items()}
        return parts | {"probe": probes.probe_accuracy(states, self._halves)}

    def by_fact(self, states: list[Float[Tensor, "row d_model"]]) -> Float[np.ndarray, "layer language language fact"]:
        """What every fact adds to the fact-only score of two languages, by layer from 1 on; nan for parallel facts."""
        n, alone = self.corpus.n_languages, self._alone.numpy()
        out = np.full((len(states), n, n, len(self.facts)), np.nan)
        for layer, state in enumerate(states):
            each = [scores.States(x) for x in state.cpu().double().unflatten(0, (n, -1)).index_select(1, self._alone)]
            for a, b in combinations(range(n), 2):
                added = scores.Pair(each[a], each[b]).fact_only_by_fact(self._words)
                out[layer, a, b, alone] = out[layer, b, a, alone] = added
        return out

    @cached_property
    def _words(self) -> scores.Additive:
        """What the words of the monolingual facts explain."""
        world, facts = self.corpus.world, self.facts[~self.parallel]
        return scores.Additive.of(world.relation[facts], world.subject[facts])

    @cached_property
    def _alone(self) -> Int[Tensor, " fact"]:
        """Which of the facts are monolingual."""
        return torch.from_numpy(np.flatnonzero(~self.parallel))

    @cached_property
    def _shared(self) -> Int[Tensor, " fact"]:
        """Which of the facts are parallel."""
        return torch.from_numpy(np.flatnonzero(self.parallel))

    @cached_property
    def _alone_scores(self) -> dict[str, Callable[[Pair], Tensor]]:
        """Scores of the monolingual facts, by name."""
        words, relation = self._words, self.corpus.world.relation[self.facts[~self.parallel]]
        partners = scores.Partners.of(relation, seed=0)
        return UNIFICATION | {
            "fact_only": lambda pair: pair.fact_only(words),
            "shuffled": lambda pair: pair.shuffled(partners),
        }

    @cached_property
    def _halves(self) -> probes.Halves:
        """Rows that the language probe is trained on, and those that it is tested on."""
        one_relation = len(np.unique(self.relation)) == 1
        groups = np.tile(self.facts, self.corpus.n_languages) if one_relation else self.relation
        return probes.Halves.of(self.language, groups)


def _likeliest(logits: Float[Tensor, "row vocab"]) -> Int[Tensor, " row"]:
    if logits.is_cuda:
        return logits.argmax(-1).cpu()
    # numpy's, as torch's takes ten times as long on a CPU (measured)
    return torch.from_numpy(logits.float().numpy().argmax(-1))


def _mean(values: list[float] | np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


def main_layer(n_layers: int) -> int:
    """Layer whose score is called `unification`: the last but one, as the last must hold the answer's language.

    Of a model of one block it is layer 1, as layer 0 is the embedding.
    """
    return max(1, n_layers - 1)


def states(
    model: Model | Trained, corpus: Corpus, facts: ArrayLike | Tensor, position: str = "answer"
) -> Float[Tensor, "layer language fact d_model"]:
    """Residual stream of facts in every language, from the embedding to after the last block.

    `position` is a slot of the prompt (its last token); `answer` is the last token before it. `facts` are numbers,
    whose order is kept, or a mask over all facts. Raises ValueError if the model does not fit the corpus, or a fact or
    the slot does not exist.

    >>> facts = run.corpus.block_facts(n_relations=2, per_relation=4)
    >>> ul.states(run.model, run.corpus, facts).shape
    torch.Size([3, 2, 8, 16])
    """
    model, corpus = model_and_corpus(model, corpus)
    facts = corpus.fact_numbers(facts)
    rows = corpus.rows(facts)
    # positions are known, and what pads after them is run along: no causal model sees it
    prompts, at = Prompts(corpus.prompts(rows)), torch.from_numpy(corpus.positions(position)[rows])
    _, by_layer = run_prompts(model, prompts, at)
    return torch.stack(by_layer).unflatten(1, (corpus.n_languages, len(facts)))


def _all_answers(model: Model | Trained, corpus: Corpus | None) -> tuple[Corpus, Questions, Answers]:
    """Every fact asked in every language. Raises ValueError where none is held out."""
    model, corpus = model_and_corpus(model, corpus)
    if corpus.seen.all():
        raise ValueError("every fact is seen in every language (corpus.parallel=1): no transfer to measure.")
    questions = Questions.all(corpus)
    return corpus, questions, questions.answered_by(lambda tokens, at: run_prompts(model, Prompts(tokens), at, at))


def transfer(model: Model | Trained, corpus: Corpus | None = None) -> pd.DataFrame:
    """Answers to every fact in every language in which it was never seen: one row a language, shares by type.

    A run may stand alone: `transfer(run)` is `transfer(run.model, run.corpus)`.
    Columns: `n` questions; one share per `measures.ANSWER_TYPES`, of whole answers, as greedy decoding gives them;
    `choice`, the accuracy when only the relation's objects in the language asked are allowed; `corrected`,
    prior-corrected transfer: the same when each answer's mean log-probability over the questions of that language and
    relation is taken off (`measures.without_prior`; a question that is its only one is left out); and `chance` of both,
    one over the number of objects. `choice` and `corrected` are nan where answers have several tokens.
    `choice` less `corrected` is what the output prior costs, and it is signed: where answers are of unequal frequency,
    the prior is knowledge, and taking it off harms.
    Raises ValueError if the model does not fit the corpus, or no fact is held out.

    >>> table = ul.transfer(run.model, run.corpus)
    >>> table["n"].to_dict(), list(table)[1:3]
    ({'a': 17, 'b': 19}, ['right', 'right object, wrong language'])
    """
    corpus, questions, answers = _all_answers(model, corpus)
    types = questions.answer_types(answers.tokens)
    chance = (1 / np.bincount(corpus.world.object_relation))[questions.relation]
    records = []
    for index, language in enumerate(corpus.languages):
        asked = (questions.kind == Copy.HELD_OUT) & (questions.language == index)
        shares = {name: _mean(types[asked] == code) for code, name in enumerate(measures.ANSWER_TYPES)}
        choice, corrected = questions.choices(answers.logits, asked)
        among = {"choice": choice, "corrected": corrected, "chance": _mean(chance[asked])}
        records.append({"language": language.name, "n": int(asked.sum()), **shares, **among})
    return pd.DataFrame(records).set_index("language")


def by_language(model: Model | Trained, corpus: Corpus | None = None) -> pd.DataFrame:
    """Answers to all facts in every language, by language asked, home, kind of copy and number of copies.

    The index has names of languages (`asked`, `home`) and of `corpus.KINDS` (`kind`), and in how many languages the
    facts are told (`copies`). Columns `n`, and `right`: a share of whole answers, of held-out facts transfer and of
    others recall. Raises ValueError if the model does not fit the corpus.

    >>> table = ul.evaluate.by_language(run.model, run.corpus)
    >>> table.xs("held-out", level="kind")["n"].to_dict()
    {('a', 'b', 1): 19, ('b', 'a', 1): 17}
    """
    model, corpus = model_and_corpus(model, corpus)
    questions = Questions.all(corpus)
    answers = questions.answered_by(lambda tokens, at: run_prompts(model, Prompts(tokens), at, at))
    names = np.array([language.name for language in corpus.languages])
    table = pd.DataFrame(
        {
            "asked": names[questions.language],
            "home": names[np.tile(corpus.home[questions.facts], corpus.n_languages)],
            "kind": np.array(KINDS)[questions.kind],
            "copies": np.tile(corpus.seen[:, questions.facts].sum(0), corpus.n_languages),
            "right": questions.answer_types(answers.tokens) == AnswerType.RIGHT,
        }
    )
    return table.groupby(["asked", "home", "kind", "copies"])["right"].agg(n="size", right="mean")


def held_out(model: Model | Trained, corpus: Corpus | None = None) -> pd.DataFrame:
    """The answer to every fact in every language in which it was never seen: one row each.

    Columns: `fact`, `relation` (its name where the world is real), `home` and `asked` (names of languages), `answer`
    (its `measures.ANSWER_TYPES`), `right`, and two baselines that need no model: `majority`, whether the relation's
    most frequent answer is right, and `same_name`, whether it is or the subject has the same name in both languages.
    What is seen in several languages has no one home: where it is held out, the first counts.
    Raises ValueError if the model does not fit the corpus, or no fact is held out.

    >>> table = ul.evaluate.held_out(run.model, run.corpus)
    >>> table.groupby(["home", "asked"])["right"].size().to_dict()
    {('a', 'b'): 19, ('b', 'a'): 17}
    """
    return _held_out(*_all_answers(model, corpus))


def _held_out(corpus: Corpus, questions: Questions, answers: Answers) -> pd.DataFrame:
    types = questions.answer_types(answers.tokens)
    asked = questions.kind == Copy.HELD_OUT
    facts = np.tile(questions.facts, corpus.n_languages)[asked]
    names = np.array([language.name for language in corpus.languages])
    home, language, world = corpus.home[facts], questions.language[asked], corpus.world
    most = np.array([np.bincount(world.object[world.relation == r]).argmax() for r in range(world.n_relations)])
    majority = world.object[facts] == most[world.relation[facts]]
    subjects = np.array([each.subjects for each in corpus.languages])
    same = subjects[home, world.subject[facts]] == subjects[language, world.subject[facts]]
    relation = questions.relation[asked]
    answer = np.array(measures.ANSWER_TYPES)[types[asked]]
    return pd.DataFrame(
        {
            "fact": facts,
            "relation": relation if world.codes is None else np.array(world.codes[1])[relation],
            "home": names[home],
            "asked": names[language],
            "answer": answer,
            "right": answer == "right",
            "majority": majority,
            "same_name": majority | same,
        }
    )


def by_fact(model: Model | Trained, corpus: Corpus | None = None) -> pd.DataFrame:
    """Fact by fact: score, exposure, words and answer of every fact in every language in which it was never seen.

    A run may stand alone: `by_fact(run)`. One row each, in the order of `held_out`, with its columns and these:

    - `subject`: its number, or its code where the world is real.
    - `fact_only_<layer>`, from layer 1 on: what the fact adds to `measures.fact_only` of its home language and the one
      asked, which is the mean over the monolingual facts of all homes; `fact_only` is that of the main layer
      (`main_layer`). nan for parallel facts, and where words explain a fact whatever its state (alone in its subject).
    - `exposure`: share of all training examples that state it, in whatever language, times the number of facts: 1 is
      average.
    - `frequency_home`, `frequency_asked`: its answer's share of the training examples of its relation in its home
      language and in the one asked; nan where a language never has the relation.
    - `shared_subject`, `shared_relation`, `shared_object`: whether its words have the same tokens in both languages.
    - `margin`: by how many nats the right answer is ahead of the likeliest other object of the relation, at the last
      prompt token; and `margin_corrected`, the same prior-corrected (see `transfer`; nan for a question that is the
      only one of its relation in the language). Above 0 is right in the choice. nan where answers have several tokens.

    Whether what scores high is right, model by model: `measures.within_models`. Raises ValueError as `held_out` does.

    >>> table = ul.by_fact(run)
    >>> len(table), list(table)[8:12]
    (36, ['subject', 'fact_only', 'fact_only_1', 'fact_only_2'])
    """
    corpus, questions, answers = _all_answers(model, corpus)
    table, world = _held_out(corpus, questions, answers), corpus.world
    asked = questions.kind == Copy.HELD_OUT
    fact, language = table["fact"].to_numpy(), questions.language[asked]
    home, relation, subject, due = corpus.home[fact], world.relation[fact], world.subject[fact], world.object[fact]
    scored = questions.by_fact(answers.states[1:])[:, home, language, fact]
    table["subject"] = subject if world.codes is None else np.array(world.codes[0])[subject]
    table["fact_only"] = scored[main_layer(len(scored)) - 1]
    for layer, values in enumerate(scored, 1):
        table[f"fact_only_{layer}"] = values
    table["exposure"] = corpus.exposure.sum(0)[fact] * corpus.n_facts
    told = corpus.object_exposure
    with np.errstate(invalid="ignore"):
        share = told / told.sum(0)
    for name, of in (("home", home), ("asked", language)):
        table[f"frequency_{name}"] = share[due, of, relation]
    for kind, number in (("subject", subject), ("relation", relation), ("object", due)):
        names = [getattr(each, f"{kind}s") for each in corpus.languages]
        tokens = [[corpus.tokenizer.encode(name.split(), i) for name in own] for i, own in enumerate(names)]
        alike = (tokens[a][n] == tokens[b][n] for a, b, n in zip(home, language, number, strict=True))
        table[f"shared_{kind}"] = list(alike)
    table[["margin", "margin_corrected"]] = np.nan
    if questions.n_answer == 1:
        options = questions.options(answers.logits, asked)
        table["margin"] = options.margin()
        table.loc[options.accompanied, "margin_corrected"] = options.corrected().margin()
    return table


def unification(
    model: Model | Trained,
    corpus: Corpus | None = None,
    position: str = "answer",
    facts: str = "held-out",
    n_facts: int = 1024,
    seed: int = 0,
) -> pd.DataFrame:
    """Every variant of the unification score by layer, with shuffled pairs and an untrained model as controls.

    A run may stand alone: `unification(run)`.
    `position` is a slot of the prompt (`answer`: the last token before it); `facts` are `held-out` (seen in one
    language only) or `parallel` ones; at most `n_facts` of them are compared. One row a layer (0 is the
    embedding, `l` the residual stream after block `l - 1`); mean over pairs of languages; columns `untrained` and
    `untrained_fact_only` are `unification` and `fact_only` in a model of the same shape that has learnt nothing: what
    blocks make of shared words alone.
    Raises ValueError if the model does not fit the corpus.

    >>> table = ul.unification(run.model, run.corpus)
    >>> table[["unification", "shuffled", "untrained"]].shape
    (3, 3)
    """
    model, corpus = model_and_corpus(model, corpus)
    if facts not in ("held-out", "parallel"):
        raise ValueError(f"facts={facts!r}; allowed: 'held-out', 'parallel'.")
    if isinstance(n_facts, bool) or not isinstance(n_facts, (int, np.integer)) or n_facts < 2:
        raise ValueError(f"n_facts={n_facts!r}; allowed: a whole number from 2 on, as different facts are compared.")
    wanted = np.flatnonzero(corpus.parallel == (facts == "parallel"))
    if len(wanted) < 2:
        raise ValueError(f"facts={facts!r}: the corpus has {len(wanted)} of them; allowed: at least 2.")
    questions = Questions(corpus, rng(seed, "compared facts").permutation(wanted)[:n_facts])
    relation = torch.from_numpy(corpus.world.relation[questions.facts])
    subject = torch.from_numpy(corpus.world.subject[questions.facts])
    at = torch.from_numpy(corpus.positions(position)[questions.rows.numpy()])

    def by_layer(network: Model, score: Callable[[Tensor, Tensor], Any]) -> list[list[Any]]:
        _, states = run_prompts(network, Prompts(questions.prompts), at)
        return [[score(x, y) for x, y in questions.pairs(state, facts == "parallel")] for state in states]

    trained = by_layer(model, lambda x, y: measures.unification_variants(x, y, relation, subject))
    words = scores.Additive.of(relation.numpy(), subject.numpy())

    def controls(x: Tensor, y: Tensor) -> tuple[float, float]:
        pair = Pair.of(x, y)
        return float(pair.unification), float(pair.fact_only(words))

    untrained = by_layer(untrained_like(model, seed), controls)
    records = []
    for layer, (variants, fresh) in enumerate(zip(trained, untrained, strict=True)):
        record = {name: _mean([pair[name] for pair in variants]) for name in variants[0]}
        record["untrained"], record["untrained_fact_only"] = map(_mean, zip(*fresh, strict=True))
        records.append({"layer": layer, **record})
    return pd.DataFrame(records).set_index("layer")
