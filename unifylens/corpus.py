"""Which fact is said in which language, how often: exposure, held-out facts, prompts, statistics."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unifylens.config import CorpusChange, CorpusConfig, Experiment, TokenizerConfig, rng
from unifylens.information import conditional_entropy, conditional_mutual_information, mutual_information
from unifylens.language import Language, lexical_distance, make_languages, real_languages
from unifylens.prompts import Rendered, cue_patterns, render, word_counts
from unifylens.tokenization import EOS, PAD, Tokenizer, language_tag
from unifylens.world import World

KINDS = ("monolingual", "majority", "minority", "held-out")
NATS_PER_BIT = float(np.log(2.0))


def assign(
    world: World, n_languages: int, config: CorpusConfig, seed: int
) -> tuple[Int[np.ndarray, " fact"], Float[np.ndarray, "language fact"]]:
    """Home language of every fact, and its exposure in every language, summing to one: what the dials mean.

    Every random order is drawn before a dial cuts it, so that moving one dial moves only the facts it must.
    """
    n = world.n_facts
    if config.parallel_unit == "fact":
        order = rng(seed, "parallel facts").permutation(n)
    else:
        rank = rng(seed, "parallel subjects").permutation(world.n_subjects)
        order = np.argsort(rank[world.subject], kind="stable")
    n_parallel = round(config.parallel * n) if config.n_parallel is None else config.n_parallel
    if n_parallel > n:
        raise ValueError(f"corpus.n_parallel={n_parallel} is more than the world's {n} facts; allowed: 0 to {n}.")
    parallel = np.zeros(n, dtype=bool)
    parallel[order[:n_parallel]] = True

    home = rng(seed, "home").permutation(n) % n_languages
    subject_home = rng(seed, "subject home").permutation(world.n_subjects) % n_languages
    relation_home = rng(seed, "relation home").permutation(world.n_relations) % n_languages
    by_relation = rng(seed, "decided by relation").random(n) < config.relation_bias
    by_subject = rng(seed, "decided by subject").random(n) < config.home_bias
    by_object = (rng(seed, "decided by object").random(n) < config.object_skew) & ~parallel
    home = np.where(by_relation, relation_home[world.relation], home)
    home = np.where(by_subject, subject_home[world.subject], home)
    home = np.where(by_object, object_homes(world, n_languages, seed)[world.object], home)

    at_home = np.arange(n_languages)[:, None] == home
    balance = config.exposure_balance
    copies = balance + (1 - balance) * n_languages * at_home  # a parallel fact weighs one unit per language
    copies *= np.where(at_home, 1.0, config.copy_exposure)
    weights = np.where(parallel, copies * config.parallel_exposure, at_home)
    return home, weights / weights.sum()


def object_homes(world: World, n_languages: int, seed: int) -> Int[np.ndarray, " object"]:
    """The language that each object is tied to by a skew: every relation's objects are dealt out evenly."""
    homes = np.empty(world.n_objects, dtype=int)
    for relation in range(world.n_relations):
        objects = np.flatnonzero(world.object_relation == relation)
        homes[objects] = rng(seed, f"object home {relation}").permutation(len(objects)) % n_languages
    return homes


def make_tokenizer(
    world: World, languages: Sequence[Language], config: TokenizerConfig, language_cue: str, seed: int
) -> Tokenizer:
    """The tokenizer of these languages, trained on the words of all facts."""
    n_cues = 0 if language_cue == "none" else len(languages)
    return Tokenizer.for_languages(languages, config, seed, word_counts(world, languages), n_cues)


class Corpus:
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
    ) -> None:
        """Stages are `(start, stop, exposure)` in order. Raises ValueError where two prompts cannot be told apart.

        `switched` says how many languages on the one lies whose word for the subject takes the place of its own in
        every second example (code-switching); 0 for none.
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
        self._refuse_ambiguous_prompts()

    @classmethod
    def build(cls, experiment: Experiment) -> Corpus:
        """Make world, languages, tokens and exposures of an experiment. Raises ValueError if it has interventions."""
        if experiment.interventions:
            names = [intervention.name for intervention in experiment.interventions]
            raise ValueError(f"interventions={names}: Corpus.build knows of none; allowed: unifylens.build_corpus.")
        config, seed = experiment.language, experiment.seed
        if experiment.real is None:
            world = World.synthetic(experiment.world, seed)
            languages = make_languages(world, config, seed)
        else:
            world = World.from_cldr(experiment.real)
            languages = real_languages(world, experiment.real, config.template_words())
        assigned = [
            (start, stop, *assign(world, len(languages), corpus, seed)) for start, stop, corpus in experiment.stages()
        ]
        return cls(
            world=world,
            languages=languages,
            tokenizer=make_tokenizer(world, languages, experiment.tokenizer, config.language_cue, seed),
            templates=config.template_words(),
            language_token=config.language_token,
            language_cue=config.language_cue,
            home=assigned[0][2],
            stages=[(start, stop, exposure) for start, stop, _, exposure in assigned],
        )

    def replace(self, **parts: Any) -> Corpus:
        """Copy with some parts changed, named as in the constructor. Raises what the constructor raises."""
        names = ("world", "languages", "tokenizer", "templates", "language_token", "language_cue", "home", "stages")
        return Corpus(**{name: getattr(self, name) for name in (*names, "switched")} | parts)

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
        """Code into `KINDS` of every fact in every language."""
        at_home = np.arange(self.n_languages)[:, None] == self.home
        seen_kind = np.where(self.parallel, np.where(at_home, 1, 2), 0)
        return np.where(self.seen, seen_kind, 3)

    # --- rows ----------------------------------------------------------------------------------------------

    @property
    def n_rows(self) -> int:
        """Number of (language, fact) pairs."""
        return self.n_languages * self.n_facts

    def rows(self, facts: Int[np.ndarray, " fact"]) -> Int[np.ndarray, " row"]:
        """Rows of these facts in every language, language by language."""
        return (np.arange(self.n_languages)[:, None] * self.n_facts + np.asarray(facts)).ravel()

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
            self.switched,
        )

    @cached_property
    def _renderings(self) -> list[tuple[list[str], int, bool]]:
        """Every template with every choice among a language's cues, then all again switched if there is a table of what
        is; batches draw among them.
        """
        n_choices = len(cue_patterns(self.language_cue, self.n_languages)[0])
        once_or_twice = (False,) if self.switched is None else (False, True)
        return [(words, k, switch) for switch in once_or_twice for words in self.templates for k in range(n_choices)]

    @cached_property
    def sequences(self) -> Int[Tensor, "template row pos"]:
        """Token IDs of prompt, answer and what follows, padded on the right."""
        return self._rendered.tokens

    @property
    def n_ctx(self) -> int:
        """Length of the longest sequence."""
        return self.sequences.shape[2]

    def positions(self, slot: str = "answer", template: int = 0) -> Int[np.ndarray, " row"]:
        """Where a slot ends in every prompt: `subject` (its last token), `relation`, `language`, or `answer`.

        `answer` is the last prompt token, whose logits predict the answer's first. Raises ValueError for another slot.
        """
        ends = self._rendered.ends[template]
        known = {**{k: v for k, v in ends.items() if k != "before answer"}, "answer": ends["before answer"]}
        if slot not in known:
            raise ValueError(f"position={slot!r} is not in this template; allowed: {', '.join(known)}.")
        return known[slot]

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
        first = np.stack([ends["before answer"] for ends in self._rendered.ends])
        n_answer = self._rendered.n_answer
        steps = np.minimum(np.arange(n_answer.max()), n_answer[..., None] - 1)
        return torch.from_numpy(first[..., None] + steps)

    @cached_property
    def due(self) -> Int[Tensor, "template row answer"]:
        """Tokens of the right answers, in the row's language, padded on the right."""
        at = self.answer_positions
        tokens = self.sequences.gather(2, at + 1)
        tokens[..., 1:][at[..., 1:] == at[..., :-1]] = 0
        return tokens

    def prompts(self, rows: Int[np.ndarray, " row"] | None = None, template: int = 0) -> Int[Tensor, "row pos"]:
        """Token IDs up to and including the last token before the answer, padded on the right."""
        rows = np.arange(self.n_rows) if rows is None else np.asarray(rows)
        last = torch.from_numpy(self.positions("answer", template)[rows])
        tokens = self.sequences[template, rows, : int(last.max()) + 1]
        return tokens.masked_fill(torch.arange(tokens.shape[1]) > last[:, None], 0)

    @cached_property
    def answers(self) -> Int[Tensor, " row"]:
        """Token ID of the right answer, in the row's language. Raises ValueError if answers have several tokens."""
        if self.due.shape[2] > 1:
            raise ValueError(
                f"answers have up to {self.due.shape[2]} tokens here; allowed: tokenizer.scheme='word', or `due`."
            )
        return self.due[0, :, 0]

    def text(self, language: int, fact: int, template: int = 0, answer: bool = True) -> str:
        """One prompt as text, with its answer behind an arrow."""
        if not 0 <= language < self.n_languages or not 0 <= fact < self.n_facts:
            raise ValueError(
                f"language={language}, fact={fact}: allowed are languages 0 to {self.n_languages - 1} and "
                f"facts 0 to {self.n_facts - 1}."
            )
        row = language * self.n_facts + fact
        tokens = self.sequences[template, row].tolist()
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
    def possible_answers(self) -> dict[tuple[int, ...], dict[int, int]]:
        """The object that every sequence of an answer's tokens names, by relation, in any language.

        Real languages may have one word for two things, such as a language and its script.
        """
        end = [self.tokenizer.special[EOS]] if EOS in self.tokenizer.special else []
        found: dict[tuple[int, ...], dict[int, int]] = {}
        for index, language in enumerate(self.languages):
            for number, name in enumerate(language.objects):
                tokens = tuple(self.tokenizer.encode(name.split(), index) + end)
                found.setdefault(tokens, {})[int(self.world.object_relation[number])] = number
        return found

    def named(
        self, answers: Int[Tensor, "row answer"], relation: Int[Tensor, " row"]
    ) -> tuple[Int[Tensor, " row"], Int[Tensor, " code"]]:
        """A code for every answer to a relation, and the object, -1 for none, by code: equal codes are equal answers.

        Where an answer names several objects, it is the relation's. What stands behind an answer's end does not count.
        """
        objects: list[int] = []
        codes: dict[tuple[int, ...], list[int]] = {}
        for tokens, by_relation in self.possible_answers.items():
            numbers = {r: len(objects) + i for i, r in enumerate(by_relation)}
            other = len(objects)
            codes[tokens] = [numbers.get(r, other) for r in range(self.world.n_relations)]
            objects += by_relation.values()
        none = [len(objects)] * self.world.n_relations
        by_code = torch.tensor([*objects, -1])
        if answers.shape[1] == 1:
            table = torch.tensor([none]).repeat(self.d_vocab, 1)
            table[[token for (token,) in codes]] = torch.tensor([*codes.values()])
            return table[answers[:, 0], relation], by_code
        end = self.tokenizer.special.get(EOS)
        cut = (row[: row.index(end) + 1] if end in row else [i for i in row if i] for row in answers.tolist())
        found = [codes.get(tuple(row), none)[r] for row, r in zip(cut, relation.tolist(), strict=True)]
        return torch.tensor(found, dtype=torch.long), by_code

    @cached_property
    def token_object(self) -> Int[Tensor, " vocab"]:
        """Object that a token names, -1 where it names none. Raises ValueError if answers have several tokens."""
        table = torch.full((self.d_vocab,), -1)
        for index in range(self.n_languages):
            table[self._object_tokens(index)] = torch.arange(self.world.n_objects)
        return table

    @cached_property
    def choices(self) -> Bool[Tensor, "language relation vocab"]:
        """Answers that are possible in a language for a relation. Raises ValueError if they have several tokens."""
        table = torch.zeros(self.n_languages, self.world.n_relations, self.d_vocab, dtype=torch.bool)
        for index in range(self.n_languages):
            table[index, self.world.object_relation, self._object_tokens(index)] = True
        return table

    def _object_tokens(self, language: int) -> list[int]:
        _ = self.answers  # which says so where answers have several tokens
        return self.tokenizer.encode(self.languages[language].objects, language)

    @cached_property
    def language_revealing(self) -> Bool[np.ndarray, " vocab"]:
        """Tokens that belong to one language only."""
        revealing = self.tokenizer.languages_of() == 1
        revealing[self.tokenizer.encode([language_tag(language) for language in self.languages])] = True
        return revealing

    def _refuse_ambiguous_prompts(self) -> None:
        """Two languages must never share a prompt: what is due there could not be known."""
        for template, (words, *_) in enumerate(self._renderings):
            prompts = self.prompts(template=template).numpy()
            clashes = len(prompts) - len(np.unique(prompts, axis=0))
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
        world = self.world
        joint = np.zeros((world.n_objects, world.n_relations * self.n_languages))
        for language in range(self.n_languages):
            np.add.at(joint, (world.object, world.relation * self.n_languages + language), self.exposure[language])
        n_tokens = self.exposure.ravel() @ (self.due[0].numpy() > 0).sum(1)
        return conditional_entropy(joint) * NATS_PER_BIT / float(n_tokens)

    def statistics(self) -> pd.DataFrame:
        """Counts, exposure, informativeness and extractability in one table: columns value, unit, meaning."""
        world, exposure, kind = self.world, self.exposure, self.kind
        by_subject = np.zeros((world.n_subjects, self.n_languages))
        by_relation = np.zeros((world.n_relations, self.n_languages))
        for language in range(self.n_languages):
            np.add.at(by_subject[:, language], world.subject, exposure[language])
            np.add.at(by_relation[:, language], world.relation, exposure[language])
        rows: list[tuple[str, float, str, str]] = [
            ("subjects", world.n_subjects, "count", "entities that facts are about"),
            ("relations", world.n_relations, "count", "questions that can be asked of a subject"),
            ("objects", world.n_objects, "count", "possible answers, over all relations"),
            ("languages", self.n_languages, "count", "languages"),
            ("vocabulary", self.d_vocab, "tokens", "distinct tokens, special ones included"),
            ("facts", world.n_facts, "count", "subject-relation-object triples"),
            ("parallel facts", int(self.parallel.sum()), "count", "facts seen in more than one language"),
        ]
        for code, name in enumerate(KINDS):
            rows.append((f"{name} copies", int((kind == code).sum()), "count", f"(fact, language) pairs: {name}"))
        for code, name in enumerate(KINDS[:3]):
            share = float(exposure[kind == code].sum())
            rows.append((f"exposure of {name} copies", share, "share", "of all training examples"))
        for language, name in zip(range(self.n_languages), (lang.name for lang in self.languages), strict=True):
            rows.append((f"exposure of language {name}", float(exposure[language].sum()), "share", "of all examples"))
        rows += [
            (
                "I(fact; language)",
                mutual_information(exposure.T),
                "bits",
                "what a fact tells about its language",
            ),
            (
                "I(object; language | relation)",
                conditional_mutual_information(self.object_exposure),
                "bits",
                "what an answer tells about the language, the relation given",
            ),
            (
                "I(subject; language)",
                mutual_information(by_subject),
                "bits",
                "what a subject tells about the language",
            ),
            (
                "I(relation; language)",
                mutual_information(by_relation),
                "bits",
                "what a relation tells about the language",
            ),
            (
                "no-knowledge baseline",
                self.baseline,
                "nats",
                "H(answer | relation, language) per answer token: loss without facts",
            ),
        ]
        rows += self._extractability() + self._token_costs()
        return pd.DataFrame(rows, columns=["quantity", "value", "unit", "meaning"]).set_index("quantity")

    def _extractability(self) -> list[tuple[str, float, str, str]]:
        """Rows of the table: how far tokens give the language away."""
        weights = self.exposure.ravel()
        tokens = self.prompts().numpy()
        revealing = self.language_revealing
        share = weights @ (revealing[tokens[:, 1:]].sum(1) / (tokens[:, 1:] > 0).sum(1))
        known = "belonging to one language only"
        rows = [
            ("language-revealing prompt tokens", share, "share", f"prompt tokens after <bos>, {known}"),
            (
                "language information of a prompt token",
                self._token_information(),
                "bits",
                "I(token; language | its position), mean over prompt tokens",
            ),
        ]
        for slot in self._rendered.ends[0]:
            at = self.positions("answer" if slot == "before answer" else slot)
            if slot != "before answer":
                share = weights @ revealing[tokens[np.arange(len(tokens)), at]]
                rows.append((f"language-revealing {slot} tokens", share, "share", known))
        due = self.due[0].numpy()
        share = weights @ (revealing[due].sum(1) / (due > 0).sum(1))
        rows.append(("language-revealing answer tokens", share, "share", known))
        used = self.tokenizer.languages_of()
        rows.append(
            ("bridge tokens", (used > 1).sum() / (used > 0).sum(), "share", "tokens of several languages' words")
        )
        distances = [lexical_distance(self.languages[0], other) for other in self.languages[1:]]
        rows.append(
            ("lexical distance", np.mean(distances), "share", "edits from the first language's words, by letter")
        )
        return [(name, float(value), unit, meaning) for name, value, unit, meaning in rows]

    def _token_information(self) -> float:
        """Bits about the language in a prompt token of known position, mean over all after `<bos>`."""
        total = share = 0.0
        prompts = [self.prompts(template=template).numpy() for template in range(len(self._renderings))]
        language = np.repeat(np.arange(self.n_languages), self.n_facts)
        for at in range(1, max(tokens.shape[1] for tokens in prompts)):
            joint = np.zeros((self.d_vocab, self.n_languages))
            for tokens in prompts:
                if at < tokens.shape[1]:
                    np.add.at(joint, (tokens[:, at], language), self.exposure.ravel())
            joint[0] = 0  # padding: the prompt has ended
            if joint.any():  # the longest prompts may all be held out
                total += joint.sum() * mutual_information(joint)
                share += joint.sum()
        return total / share

    def _token_costs(self) -> list[tuple[str, float, str, str]]:
        """Rows of the table: how many tokens things take."""
        weights = self.exposure.ravel()
        n_prompt = (self.prompts().numpy()[:, 1:] > 0).sum(1)
        n_answer = (self.due[0].numpy() > 0).sum(1)
        rows = [
            ("tokens per prompt", weights @ n_prompt, "tokens", "mean, after <bos>"),
            ("tokens per answer", weights @ n_answer, "tokens", "mean, with the end of the answer where it has one"),
        ]
        lengths = [np.mean([len(ids) for ids in table.values()]) for table in self.tokenizer.words]
        for language, length in zip(self.languages, lengths, strict=True):
            premium = f"token premium: {length / lengths[0]:.2f} times language {self.languages[0].name}"
            rows.append((f"tokens per word of language {language.name}", length, "tokens", premium))
        return [(name, float(value), unit, meaning) for name, value, unit, meaning in rows]

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


def parallel_window(experiment: Experiment, start: int, stop: int) -> Experiment:
    """The same experiment with its parallel copies only in steps `[start, stop)`, at equal total exposure.

    Outside the window every fact is seen in its home language only. Inside, copies in other languages are seen
    more often, so that over the run every copy (and every home copy) is expected as often as in `experiment`.
    Raises ValueError if the window is too short for that, is empty, or the parallel facts are not balanced.
    """
    corpus, steps = experiment.corpus, experiment.train.steps
    if experiment.real is not None:
        raise ValueError("parallel_window cannot count the facts of a real world; allowed: experiments with real=None.")
    if not 0 <= start < stop <= steps:
        raise ValueError(f"start={start}, stop={stop}: allowed is 0 <= start < stop <= train.steps={steps}.")
    factors = {name: getattr(corpus, name) for name in ("exposure_balance", "copy_exposure", "parallel_exposure")}
    if any(factor != 1.0 for factor in factors.values()) or experiment.changes:
        raise ValueError(
            f"{', '.join(f'{name}={factor}' for name, factor in factors.items())}, changes at steps "
            f"{[change.step for change in experiment.changes]}: parallel_window cannot keep every copy's exposure; "
            "allowed: exposure_balance=1, copy_exposure=1, parallel_exposure=1 and no changes."
        )
    n_facts = experiment.world.n_subjects * experiment.world.n_relations
    n_parallel = round(corpus.parallel * n_facts) if corpus.n_parallel is None else corpus.n_parallel
    if not n_parallel:
        raise ValueError("corpus.parallel=0: there are no parallel copies to move; allowed: more than 0.")
    copies = n_parallel * (experiment.language.n_languages - 1) / n_facts  # in units of the home copies
    inside = copies / (1 + copies) * steps / (stop - start)  # share of the window's examples
    if inside >= 1:
        raise ValueError(
            f"start={start}, stop={stop}: the copies are {copies / (1 + copies):.3f} of all examples and do not fit "
            f"into {stop - start} of {steps} steps; allowed: more than {copies / (1 + copies) * steps:.0f} steps."
        )
    window = corpus.model_copy(update={"copy_exposure": inside / (1 - inside) / copies})
    alone = corpus.model_copy(update={"copy_exposure": 0.0})
    pieces = [(0, start, alone), (start, stop, window), (stop, steps, alone)]
    stages = [(begin, piece) for begin, end, piece in pieces if begin < end]
    changes = tuple(CorpusChange(step=step, corpus=piece) for step, piece in stages[1:])
    return Experiment.model_validate({**dict(experiment), "corpus": stages[0][1], "changes": changes})
