"""Which fact is said in which language, how often: exposure, held-out facts, prompts, statistics.

Torch, most of the time that a first corpus would take, is loaded only by what returns tensors.
"""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike

from unifylens.arguments import numbers
from unifylens.cards import Card
from unifylens.config import (
    CorpusConfig,
    Experiment,
    Intervention,
    LanguageConfig,
    RealConfig,
    TokenizerConfig,
    WorldConfig,
)
from unifylens.corpus import statistics
from unifylens.corpus.exposure import KINDS, Copy, assign
from unifylens.corpus.interventions import apply
from unifylens.corpus.language import Language, make_languages, real_languages
from unifylens.corpus.prompts import Rendered, Rendering, cue_patterns, render
from unifylens.corpus.size import refuse_what_does_not_fit
from unifylens.corpus.tokenization import EOS, PAD, PAD_ID, Tokenizer, language_tag, make_tokenizer
from unifylens.corpus.world import World
from unifylens.errors import suggest
from unifylens.seeds import rng

if TYPE_CHECKING:
    from torch import Tensor

    from unifylens.corpus.meanings import Meanings

KEPT = 64
"""Corpora that a process keeps (about 2 MB each in the default dish)."""


class Corpus(Card):
    """The prompts of every fact in every language, and how often each is seen.

    Row `r = language * n_facts + fact` stands for one fact in one language, seen or held out.
    Build it with `Corpus.build(experiment)`, or read `run.corpus`.
    """

    def __init__(
        self,
        world: World,
        languages: tuple[Language, ...],
        tokenizer: Tokenizer,
        templates: list[list[str]],
        language_token: bool,
        language_cue: str,
        home: Int[np.ndarray, " fact"],
        stages: list[tuple[int, int, Float[np.ndarray, "language fact"]]],
        switched: Int[np.ndarray, "language fact"] | None = None,
        preceded: Int[np.ndarray, "language fact"] | None = None,
    ) -> None:
        """Stages are `(start, stop, exposure)` in order. Raises ValueError where two prompts cannot be told apart.

        `switched` says how many languages on the one lies whose word for the subject takes the place of its own in
        every second example (code-switching); 0 for none. `preceded` says the same of the language in which the fact
        is told first, in every second example (translation pairs in one context).
        """
        self.world = world
        self.languages = languages
        self.tokenizer = tokenizer
        self.templates = templates
        self.language_token = language_token
        self.language_cue = language_cue
        self.home = home
        """Home language of each fact (by the first stage, where the corpus changes)."""
        self.stages = stages
        self.switched = switched
        self.preceded = preceded
        self._refuse_ambiguous_prompts()

    @staticmethod
    def build(experiment: Experiment) -> Corpus:
        """The corpus an experiment trains on: made as its settings say, then changed by its interventions, in order.

        What takes time is kept, for experiments that differ in model or optimiser alone and for later calls; its tables
        are the caller's own.
        Raises ValueError where settings do not fit together, what interventions raise, and MemoryError where prompts
        or words need more memory than is free.

        >>> corpus = ul.Corpus.build(ul.Experiment())
        >>> corpus.n_languages, corpus.n_facts, int(corpus.parallel.sum())
        (2, 4800, 1440)
        """
        refuse_what_does_not_fit(experiment)
        parts = {
            name: getattr(experiment, name) for name in ("world", "language", "tokenizer", "interventions", "real")
        }
        return _build(**parts, stages=tuple(experiment.stages()), seed=experiment.seed)._own()

    def _own(self) -> Corpus:
        """The same with tables of its own, so that nobody writes into what is kept."""
        own, rendered = copy(self), self._rendered
        facts, object_relation = self.world.facts.copy(), self.world.object_relation.copy()
        own.world = replace(self.world, facts=facts, object_relation=object_relation)
        own.home = self.home.copy()
        own.stages = [(start, stop, exposure.copy()) for start, stop, exposure in self.stages]
        ends = [{slot: table.copy() for slot, table in by_slot.items()} for by_slot in rendered.ends]
        own._rendered = Rendered(rendered.tokens.copy(), ends, rendered.n_answer.copy())
        return own

    def replace(self, **parts: Any) -> Corpus:
        """Copy with some parts changed, named as in the constructor. Raises what the constructor raises."""
        names = ("world", "languages", "tokenizer", "templates", "language_token", "language_cue", "home", "stages")
        return Corpus(**{name: getattr(self, name) for name in (*names, "switched", "preceded")} | parts)

    def _card(self) -> tuple[str, dict[str, str]]:
        world, n_parallel = self.world, int(self.parallel.sum())
        return "Corpus", {
            "languages": ", ".join(language.name for language in self.languages),
            "facts": f"{world.n_facts:,}: {world.n_subjects:,} subjects, {world.n_relations:,} relations, "
            f"{world.n_objects:,} objects",
            "parallel": f"{n_parallel:,} facts ({n_parallel / world.n_facts:.1%})",
            "vocabulary": f"{self.d_vocab:,} tokens; up to {self.n_ctx} in a prompt with its answer",
            "example": self.text(0, 0),
        }

    # --- who sees what -------------------------------------------------------------------------------------

    @property
    def n_languages(self) -> int:
        """Number of languages."""
        return len(self.languages)

    @property
    def n_facts(self) -> int:
        """Number of facts."""
        return self.world.n_facts

    @property
    def d_vocab(self) -> int:
        """Size of the vocabulary."""
        return len(self.tokenizer)

    @cached_property
    def exposure(self) -> Float[np.ndarray, "language fact"]:
        """Share of all training examples, over the whole run; sums to one."""
        total = self.stages[-1][1]
        return sum((stop - start) / total * exposure for start, stop, exposure in self.stages)

    @property
    def object_exposure(self) -> Float[np.ndarray, "object language relation"]:
        """Share of training examples that give an object as answer to a relation in a language; sums to 1."""
        world = self.world
        table = np.zeros((world.n_objects, self.n_languages, world.n_relations))
        for language, share in enumerate(self.exposure):
            np.add.at(table[:, language], (world.object, world.relation), share)
        return table

    @cached_property
    def seen(self) -> Bool[np.ndarray, "language fact"]:
        """Facts seen in a language at any time; the others are held out there."""
        return self.exposure > 0

    @cached_property
    def parallel(self) -> Bool[np.ndarray, " fact"]:
        """Facts seen in more than one language."""
        return self.seen.sum(0) > 1

    @cached_property
    def kind(self) -> Int[np.ndarray, "language fact"]:
        """What every fact is in every language: a `Copy`, and its code into `KINDS`."""
        at_home = np.arange(self.n_languages)[:, None] == self.home
        copies = np.where(at_home, Copy.MAJORITY, Copy.MINORITY)
        return np.where(self.seen, np.where(self.parallel, copies, Copy.MONOLINGUAL), Copy.HELD_OUT)

    # --- rows ----------------------------------------------------------------------------------------------

    @property
    def n_rows(self) -> int:
        """Number of (language, fact) pairs."""
        return self.n_languages * self.n_facts

    def fact_numbers(self, facts: ArrayLike | Tensor) -> Int[np.ndarray, " fact"]:
        """Numbers of facts, given as such or as a mask `[n_facts]`. Raises ValueError for what is no fact, or none."""
        return numbers(facts, self.n_facts, "facts", "the corpus")

    def language_number(self, language: int | str, name: str = "language") -> int:
        """Number of a language, given as such or by its name. Raises ValueError for one that does not exist."""
        names = [each.name for each in self.languages]
        if isinstance(language, str):
            if language not in names:
                raise ValueError(f"{name}={language!r} is no language of the corpus.{suggest(language, names)}")
            return names.index(language)
        if not _is_number(language, len(names)):
            raise ValueError(f"{name}={language!r}: allowed are 0 to {len(names) - 1}, or a name: {', '.join(names)}.")
        return int(language)

    def rows(self, facts: ArrayLike | Tensor) -> Int[np.ndarray, " row"]:
        """Rows of these facts in every language, language by language. Raises ValueError as `fact_numbers` does."""
        return (np.arange(self.n_languages)[:, None] * self.n_facts + self.fact_numbers(facts)).ravel()

    @cached_property
    def _rendered(self) -> Rendered:
        """Token IDs, and where each slot of each rendering ends."""
        return render(
            self.world,
            self.languages,
            self.tokenizer,
            self._renderings,
            self.language_token,
            self.language_cue,
        )

    @cached_property
    def _renderings(self) -> list[Rendering]:
        """Every template with every choice among a language's cues, then all again switched or behind another telling
        if there is a table of what is; batches draw among them.
        """
        n_choices = len(cue_patterns(self.language_cue, self.n_languages)[0])
        plain = [Rendering(words, k) for words in self.templates for k in range(n_choices)]
        if self.switched is None and self.preceded is None:
            return plain
        return plain + [one._replace(switched=self.switched, preceded=self.preceded) for one in plain]

    @cached_property
    def sequences(self) -> Int[Tensor, "template row pos"]:
        """Token IDs of prompt, answer and what follows, padded on the right."""
        import torch

        return torch.from_numpy(self._rendered.tokens)

    @property
    def n_ctx(self) -> int:
        """Length of the longest sequence."""
        return self._rendered.tokens.shape[2]

    def positions(self, slot: str = "answer", template: int = 0) -> Int[np.ndarray, " row"]:
        """Where a slot ends in every prompt: `subject` (its last token), `relation`, `language`, or `answer`.

        `answer` is the last prompt token, whose logits predict the answer's first. Raises ValueError for another slot.
        """
        self._check_template(template)
        ends = self._rendered.ends[template]
        if slot not in ends:
            raise ValueError(f"position={slot!r} is not in this template; allowed: {', '.join(ends)}.")
        return ends[slot]

    def _check_template(self, template: int) -> None:
        n = len(self._renderings)
        if not _is_number(template, n):
            raise ValueError(f"template={template}; allowed: 0 to {n - 1}.")

    @property
    def slots(self) -> tuple[str, ...]:
        """Places in a prompt that `positions` knows of."""
        return self.slots_of(0)

    def slots_of(self, template: int = 0) -> tuple[str, ...]:
        """Places in the prompts of a template that `positions` knows of. Raises ValueError for another template."""
        self._check_template(template)
        return tuple(self._rendered.ends[template])

    def position(self, slot: str = "answer", template: int = 0) -> int:
        """Where a slot ends, if it is the same place in all prompts (else `positions`). Raises ValueError if not."""
        ends = self.positions(slot, template)
        if (ends != ends[0]).any():
            raise ValueError(
                f"position={slot!r} differs from prompt to prompt ({ends.min()} to {ends.max()}), as words have "
                "several tokens; allowed: tokenizer.scheme='word', or `positions`."
            )
        return int(ends[0])

    @cached_property
    def answer_positions(self) -> Int[Tensor, "template row answer"]:
        """Positions whose next token is the answer's; where an answer is shorter, its last one is repeated."""
        import torch

        first = np.stack([ends["answer"] for ends in self._rendered.ends])
        n_answer = self._rendered.n_answer
        steps = np.minimum(np.arange(n_answer.max()), n_answer[..., None] - 1)
        return torch.from_numpy(first[..., None] + steps)

    @cached_property
    def due(self) -> Int[Tensor, "template row answer"]:
        """Tokens of the right answers, in the row's language, padded on the right."""
        at = self.answer_positions
        tokens = self.sequences.gather(2, at + 1)
        tokens[..., 1:][at[..., 1:] == at[..., :-1]] = PAD_ID
        return tokens

    def prompts(self, rows: ArrayLike | Tensor | None = None, template: int = 0) -> Int[Tensor, "row pos"]:
        """Token IDs up to and including the last token before the answer, padded on the right where words differ.

        Patching takes the padding off; `ul.crosslingual.prompts` gives them without, and says where roles stand.
        Raises ValueError for rows that are not there: allowed are numbers, or a mask `[n_rows]`.
        """
        import torch

        rows = np.arange(self.n_rows) if rows is None else numbers(rows, self.n_rows, "rows", "the corpus")
        last = torch.from_numpy(self.positions("answer", template)[rows])
        tokens = self.sequences[template, rows, : int(last.max()) + 1]
        return tokens.masked_fill(torch.arange(tokens.shape[1]) > last[:, None], PAD_ID)

    @cached_property
    def answers(self) -> Int[Tensor, " row"]:
        """Token ID of the right answer, in the row's language. Raises ValueError if answers have several tokens."""
        if self.due.shape[2] > 1:
            raise ValueError(
                f"answers have up to {self.due.shape[2]} tokens here; allowed: tokenizer.scheme='word', or `due`."
            )
        return self.due[0, :, 0]

    def text(self, language: int | str, fact: int = 0, template: int = 0, answer: bool = True) -> str:
        """One prompt as text, with its answer behind an arrow; `language` is a number or a name.

        >>> corpus = ul.Corpus.build(ul.Experiment())
        >>> corpus.text(language=1, fact=0)
        '<bos> trivode fafu → koupouba'
        """
        self._check_template(template)
        if isinstance(language, str):
            language = self.language_number(language)
        if not _is_number(language, self.n_languages) or not _is_number(fact, self.n_facts):
            raise ValueError(
                f"language={language}, fact={fact}: allowed are languages 0 to {self.n_languages - 1} and "
                f"facts 0 to {self.n_facts - 1}."
            )
        row = language * self.n_facts + fact
        tokens = self._rendered.tokens[template, row].tolist()
        end = self.positions("answer", template)[row] + 1
        prompt = " ".join(self.tokenizer.decode(tokens[:end]))
        if not answer:
            return prompt
        return " ".join(
            [prompt, "→", *(word for word in self.tokenizer.decode(tokens[end:]) if word not in (PAD, EOS))]
        )

    def block_facts(self, n_relations: int = 4, per_relation: int = 16, seed: int = 0) -> Int[np.ndarray, " fact"]:
        """Some monolingual facts of the first relations, sorted by relation, then object: the order of heatmaps.

        Raises ValueError if a relation has fewer of them.

        >>> corpus = ul.Corpus.build(ul.Experiment())
        >>> facts = corpus.block_facts(n_relations=2, per_relation=3)
        >>> corpus.world.relation[facts].tolist()
        [0, 0, 0, 1, 1, 1]
        """
        world, chosen = self.world, []
        for relation in range(min(n_relations, world.n_relations)):
            facts = np.flatnonzero((world.relation == relation) & ~self.parallel)
            if len(facts) < per_relation:
                raise ValueError(
                    f"per_relation={per_relation}: relation {relation} has {len(facts)} monolingual facts; "
                    f"allowed: at most that many."
                )
            facts = rng(seed, f"facts of relation {relation}").permutation(facts)[:per_relation]
            chosen.append(facts[np.argsort(world.object[facts], kind="stable")])
        return np.concatenate(chosen)

    # --- what tokens mean ----------------------------------------------------------------------------------

    @cached_property
    def _meanings(self) -> Meanings:
        from unifylens.corpus.meanings import Meanings

        return Meanings(self.world, self.languages, self.tokenizer)

    @property
    def possible_answers(self) -> dict[tuple[int, ...], dict[int, int]]:
        """The object that every sequence of an answer's tokens names, by relation, in any language.

        Real languages may have one word for two things, such as a language and its script.
        """
        return self._meanings.possible_answers

    def named(
        self, answers: Int[Tensor, "row answer"], relation: Int[Tensor, " row"]
    ) -> tuple[Int[Tensor, " row"], Int[Tensor, " code"]]:
        """A code for every answer to a relation, and the object, -1 for none, by code: equal codes are equal answers.

        Where an answer names several objects, it is the relation's. What stands behind an answer's end does not count.
        """
        return self._meanings.named(answers, relation)

    @property
    def token_object(self) -> Int[Tensor, " vocab"]:
        """Object that a token names, -1 where it names none. Raises ValueError if answers have several tokens."""
        _ = self.answers  # which says so
        return self._meanings.token_object

    @property
    def object_tokens(self) -> Int[Tensor, "language object"]:
        """The token that names an object in a language. Raises ValueError if answers have several tokens."""
        _ = self.answers  # which says so
        return self._meanings.object_tokens

    @property
    def choices(self) -> Bool[Tensor, "language relation vocab"]:
        """Answers that are possible in a language for a relation. Raises ValueError if they have several tokens."""
        _ = self.answers  # which says so
        return self._meanings.choices

    @cached_property
    def language_revealing(self) -> Bool[np.ndarray, " vocab"]:
        """Tokens that belong to one language only."""
        revealing = self.tokenizer.languages_of() == 1
        revealing[self.tokenizer.encode([language_tag(language) for language in self.languages])] = True
        return revealing

    @cached_property
    def token_language(self) -> Int[np.ndarray, " vocab"]:
        """The one language that a token belongs to; -1 for tokens of several languages, or of none."""
        language = np.where(self.language_revealing, self.tokenizer.used_by().argmax(0), -1)
        language[self.tokenizer.encode([language_tag(each) for each in self.languages])] = np.arange(self.n_languages)
        return language

    def _refuse_ambiguous_prompts(self) -> None:
        """Two languages must never share a prompt: what is due there could not be known."""
        for template, (words, *_) in enumerate(self._renderings):
            tokens, last = self._rendered.tokens[template], self.positions("answer", template)
            prompts = np.where(np.arange(tokens.shape[1]) > last[:, None], PAD_ID, tokens)
            clashes = len(prompts) - len({prompt.tobytes() for prompt in prompts})
            if clashes:
                raise ValueError(
                    f"language.shared_subjects, shared_relations, shared_function_words and lexical_distance make "
                    f"{clashes} of {len(prompts)} prompts the same in two languages (template {' '.join(words)!r}"
                    "); lower one of the shares, raise the distance, or set language.language_token=True or a "
                    "language.language_cue."
                )

    def check_model(self, d_vocab: int, n_ctx: int) -> None:
        """Raise ValueError unless a model of this vocabulary and context can read the corpus."""
        if d_vocab != self.d_vocab:
            raise ValueError(f"the model's d_vocab={d_vocab} must equal the corpus' vocabulary of {self.d_vocab}.")
        if n_ctx < self.n_ctx:
            raise ValueError(f"the model's n_ctx={n_ctx} must be at least the corpus' n_ctx={self.n_ctx}.")

    # --- the table -----------------------------------------------------------------------------------------

    @cached_property
    def baseline(self) -> float:
        """No-knowledge baseline: H(answer | relation, language) in nats per answer token, the loss without any fact."""
        return statistics.no_knowledge_baseline(self)

    def statistics(self) -> pd.DataFrame:
        """Counts, exposure, informativeness and extractability in one table: columns value, unit, meaning.

        >>> corpus = ul.Corpus.build(ul.Experiment())
        >>> corpus.statistics().loc[["facts", "parallel facts", "I(fact; language)"], "value"].round(2).to_dict()
        {'facts': 4800.0, 'parallel facts': 1440.0, 'I(fact; language)': 0.54}
        """
        return statistics.table(self)

    def examples(self, n: int = 2, seed: int = 0) -> pd.DataFrame:
        """A few prompts of every kind as text: columns language, kind, text."""
        draw = np.random.default_rng(seed)
        records = []
        for code, name in enumerate(KINDS):
            places = np.argwhere(self.kind == code)
            for language, fact in places[draw.permutation(len(places))[:n]]:
                text = self.text(int(language), int(fact))
                records.append({"kind": name, "language": self.languages[language].name, "text": text})
        return pd.DataFrame(records)


def _is_number(value: object, n: int) -> bool:
    """Whether it is a whole number from 0 to n - 1."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and 0 <= value < n


@lru_cache(maxsize=KEPT)
def _build(
    *,
    world: WorldConfig,
    language: LanguageConfig,
    tokenizer: TokenizerConfig,
    stages: tuple[tuple[int, int, CorpusConfig], ...],
    interventions: tuple[Intervention, ...],
    real: RealConfig | None,
    seed: int,
) -> Corpus:
    """What `Corpus.build` gives: all that a corpus depends on, and nothing else, is what it is kept by."""
    templates = language.template_words()
    if real is None:
        facts = World.synthetic(world, seed)
        languages = make_languages(facts, language, seed)
    else:
        facts = World.from_cldr(real)
        languages = real_languages(facts, real, templates)
    assigned = [(start, stop, *assign(facts, len(languages), config, seed)) for start, stop, config in stages]
    corpus = Corpus(
        world=facts,
        languages=languages,
        tokenizer=make_tokenizer(facts, languages, tokenizer, language.language_cue, seed),
        templates=templates,
        language_token=language.language_token,
        language_cue=language.language_cue,
        home=assigned[0][2],
        stages=[(start, stop, exposure) for start, stop, _, exposure in assigned],
    )
    for intervention in interventions:
        corpus = apply(corpus, intervention, seed)
    return corpus


build_corpus = Corpus.build
"""Another name, which reads well in a notebook."""
