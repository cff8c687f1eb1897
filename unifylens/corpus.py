"""Which fact is said in which language, how often: exposure, held-out facts, prompts, statistics."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unifylens.config import CorpusChange, CorpusConfig, Experiment, rng
from unifylens.information import conditional_entropy, conditional_mutual_information, mutual_information
from unifylens.language import Language, make_languages
from unifylens.tokenization import BOS, PAD, WordTokenizer, language_tag
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
    parallel = np.zeros(n, dtype=bool)
    parallel[order[:n_parallel]] = True

    home = rng(seed, "home").permutation(n) % n_languages
    subject_home = rng(seed, "subject home").permutation(world.n_subjects) % n_languages
    object_home = np.empty(world.n_objects, dtype=int)
    for relation in range(world.n_relations):
        objects = np.flatnonzero(world.object_relation == relation)
        object_home[objects] = rng(seed, f"object home {relation}").permutation(len(objects)) % n_languages
    relation_home = rng(seed, "relation home").permutation(world.n_relations) % n_languages
    by_relation = rng(seed, "decided by relation").random(n) < config.relation_bias
    by_subject = rng(seed, "decided by subject").random(n) < config.home_bias
    by_object = (rng(seed, "decided by object").random(n) < config.object_skew) & ~parallel
    home = np.where(by_relation, relation_home[world.relation], home)
    home = np.where(by_subject, subject_home[world.subject], home)
    home = np.where(by_object, object_home[world.object], home)

    at_home = np.arange(n_languages)[:, None] == home
    balance = config.exposure_balance
    copies = balance + (1 - balance) * n_languages * at_home  # a parallel fact weighs one unit per language
    copies *= np.where(at_home, 1.0, config.copy_exposure)
    weights = np.where(parallel, copies * config.parallel_exposure, at_home)
    return home, weights / weights.sum()


class Corpus:
    """The prompts of every fact in every language, and how often each is seen.

    Row `r = language * n_facts + fact` stands for one fact in one language, seen or held out.
    Build it with `Corpus.build(experiment)`, or read `run.corpus`.
    """

    def __init__(
        self,
        world: World,
        languages: tuple[Language, ...],
        tokenizer: WordTokenizer,
        templates: list[list[str]],
        language_token: bool,
        home: Int[np.ndarray, " fact"],
        stages: list[tuple[int, int, Float[np.ndarray, "language fact"]]],
    ) -> None:
        """Stages are `(start, stop, exposure)` in order. Raises ValueError where two prompts cannot be told apart."""
        self.world = world
        self.languages = languages
        self.tokenizer = tokenizer
        self.templates = templates
        self.language_token = language_token
        self.home = home
        """Home language of each fact (by the first stage, where the corpus changes)."""
        self.stages = stages
        self._refuse_ambiguous_prompts()

    @classmethod
    def build(cls, experiment: Experiment) -> Corpus:
        """Make world, languages, tokens and exposures of an experiment."""
        config, seed = experiment.language, experiment.seed
        world = World.synthetic(experiment.world, seed)
        languages = make_languages(world, config, seed)
        assigned = [
            (start, stop, *assign(world, config.n_languages, corpus, seed))
            for start, stop, corpus in experiment.stages()
        ]
        return cls(
            world=world,
            languages=languages,
            tokenizer=WordTokenizer.for_languages(languages),
            templates=config.template_words(),
            language_token=config.language_token,
            home=assigned[0][2],
            stages=[(start, stop, exposure) for start, stop, _, exposure in assigned],
        )

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
    def _rendered(self) -> tuple[Int[Tensor, "template row pos"], list[dict[str, int]]]:
        """Token IDs, and where each slot of each template stands."""
        encode, world = self.tokenizer.encode, self.world
        blocks, positions = [], []
        for words in self.templates:
            per_language, slots = [], {}
            for language in self.languages:
                columns = [np.full(world.n_facts, encode([BOS])[0])]
                if self.language_token:
                    slots["language"] = len(columns)
                    columns.append(np.full(world.n_facts, encode([language_tag(language)])[0]))
                named = {
                    "{subject}": (language.subjects, world.subject),
                    "{relation}": (language.relations, world.relation),
                    "{object}": (language.objects, world.object),
                }
                for word in words:
                    if word in named:
                        names, which = named[word]
                        tokens = np.array([encode(name.split()) for name in names])[which]
                        columns += list(tokens.T)
                        slots[word[1:-1]] = len(columns) - 1
                    else:
                        columns.append(np.full(world.n_facts, encode([language.function_words[word]])[0]))
                per_language.append(np.stack(columns, 1))
            blocks.append(np.concatenate(per_language))
            positions.append(slots)
        length = max(block.shape[1] for block in blocks)
        pad = encode([PAD])[0]
        padded = [np.pad(b, ((0, 0), (0, length - b.shape[1])), constant_values=pad) for b in blocks]
        return torch.from_numpy(np.stack(padded)), positions

    @property
    def sequences(self) -> Int[Tensor, "template row pos"]:
        """Token IDs of prompt, answer and what follows, padded on the right."""
        return self._rendered[0]

    @property
    def n_ctx(self) -> int:
        """Length of the longest sequence."""
        return self.sequences.shape[2]

    def position(self, slot: str = "answer", template: int = 0) -> int:
        """Where a slot stands in a prompt: `subject` (its last word), `relation`, `language`, or `answer`.

        `answer` is the last prompt token, whose logits predict the object. Raises ValueError for another slot.
        """
        slots = self._rendered[1][template]
        known = {**{k: v for k, v in slots.items() if k != "object"}, "answer": slots["object"] - 1}
        if slot not in known:
            raise ValueError(f"position={slot!r} is not in this template; allowed: {', '.join(known)}.")
        return known[slot]

    @cached_property
    def answer_positions(self) -> Int[Tensor, "template row answer"]:
        """Positions whose next token is the answer's; padded with the last one, behind which nothing is due."""
        last = torch.tensor([self.position("answer", template) for template in range(len(self.templates))])
        return last[:, None, None].expand(-1, self.n_rows, 1)

    def prompts(self, rows: Int[np.ndarray, " row"] | None = None, template: int = 0) -> Int[Tensor, "row pos"]:
        """Token IDs up to and including the last token before the answer."""
        tokens = self.sequences[template, :, : self.position("answer", template) + 1]
        return tokens if rows is None else tokens[torch.as_tensor(rows)]

    @cached_property
    def answers(self) -> Int[Tensor, " row"]:
        """Token ID of the right answer, in the row's language."""
        return self.sequences[0, :, self.position("answer") + 1]

    def text(self, language: int, fact: int, template: int = 0, answer: bool = True) -> str:
        """One prompt as text, with its answer behind an arrow."""
        if not 0 <= language < self.n_languages or not 0 <= fact < self.n_facts:
            raise ValueError(
                f"language={language}, fact={fact}: allowed are languages 0 to {self.n_languages - 1} and "
                f"facts 0 to {self.n_facts - 1}."
            )
        row = language * self.n_facts + fact
        words = self.tokenizer.decode(self.sequences[template, row].tolist())
        end = self.position("answer", template) + 1
        prompt = " ".join(words[:end])
        if not answer:
            return prompt
        return " ".join([prompt, "→", *(word for word in words[end:] if word != PAD)])

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
    def token_object(self) -> Int[Tensor, " vocab"]:
        """Object that a token names, -1 where it names none."""
        table = torch.full((self.d_vocab,), -1)
        for language in self.languages:
            table[self.tokenizer.encode(language.objects)] = torch.arange(self.world.n_objects)
        return table

    @cached_property
    def token_relation(self) -> Int[Tensor, " vocab"]:
        """Relation whose object a token names, -1 where it names none."""
        relation = torch.from_numpy(self.world.object_relation)
        return torch.where(self.token_object >= 0, relation[self.token_object.clamp(min=0)], -1)

    @cached_property
    def choices(self) -> Bool[Tensor, "language relation vocab"]:
        """Answers that are possible in a language for a relation."""
        table = torch.zeros(self.n_languages, self.world.n_relations, self.d_vocab, dtype=torch.bool)
        for index, language in enumerate(self.languages):
            table[index, self.world.object_relation, self.tokenizer.encode(language.objects)] = True
        return table

    @cached_property
    def language_revealing(self) -> Bool[np.ndarray, " vocab"]:
        """Tokens that belong to one language only."""
        owners = np.zeros(self.d_vocab, dtype=int)
        for language in self.languages:
            owners[self.tokenizer.encode([language_tag(language), *language.words()])] += 1
        return owners == 1

    def _refuse_ambiguous_prompts(self) -> None:
        """Two languages must never share a prompt: what is due there could not be known."""
        for template in range(len(self.templates)):
            prompts = self.prompts(template=template).numpy()
            clashes = len(prompts) - len(np.unique(prompts, axis=0))
            if clashes:
                raise ValueError(
                    f"language.shared_subjects, shared_relations and shared_function_words make {clashes} of "
                    f"{len(prompts)} prompts the same in two languages (template {' '.join(self.templates[template])!r}"
                    "); lower one of the shares or set language.language_token=True."
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
        """No-knowledge baseline in nats: H(answer | relation, language), the loss of a model that knows no fact."""
        world = self.world
        joint = np.zeros((world.n_objects, world.n_relations * self.n_languages))
        for language in range(self.n_languages):
            np.add.at(joint, (world.object, world.relation * self.n_languages + language), self.exposure[language])
        return conditional_entropy(joint) * NATS_PER_BIT

    def statistics(self) -> pd.DataFrame:
        """Counts, exposure, informativeness and extractability in one table: columns value, unit, meaning."""
        world, exposure, kind = self.world, self.exposure, self.kind
        by_object = np.zeros((world.n_objects, self.n_languages, world.n_relations))
        by_subject = np.zeros((world.n_subjects, self.n_languages))
        by_relation = np.zeros((world.n_relations, self.n_languages))
        for language in range(self.n_languages):
            np.add.at(by_object[:, language], (world.object, world.relation), exposure[language])
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
                conditional_mutual_information(by_object),
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
                "H(answer | relation, language): loss without facts",
            ),
        ]
        weights = exposure.ravel()
        per_slot = {slot: self.position(slot) for slot in self._rendered[1][0] if slot != "object"}
        tokens = self.prompts().numpy()[:, 1:]
        revealing = self.language_revealing[tokens]
        rows.append(
            (
                "language-revealing prompt tokens",
                float(weights @ revealing.mean(1)),
                "share",
                "prompt tokens after <bos> that belong to one language only",
            )
        )
        for slot, position in per_slot.items():
            share = float(weights @ revealing[:, position - 1])
            rows.append((f"language-revealing {slot} tokens", share, "share", "belonging to one language only"))
        share = float(weights @ self.language_revealing[self.answers.numpy()])
        rows.append(("language-revealing answer tokens", share, "share", "belonging to one language only"))
        return pd.DataFrame(rows, columns=["quantity", "value", "unit", "meaning"]).set_index("quantity")

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
