"""Facts edited in one language and asked in all: does the edit hold, spare other facts, and cross?

An edit is of one fact in one language: another object of its relation, in that language. Every edit is judged alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from torch import Tensor

from unifylens import edits, measures
from unifylens.arguments import shown
from unifylens.corpus.corpus import Corpus
from unifylens.crosslingual.evaluate import model_and_corpus
from unifylens.crosslingual.roles import prompts
from unifylens.edits.changes import Change
from unifylens.errors import suggest
from unifylens.patching.prompts import Prompts
from unifylens.patching.stream import Model, run_prompts
from unifylens.patching.tensors import is_whole
from unifylens.seeds import rng

METHODS = ("closed form", "gradient", "state")
"""A rank-one change of weights that leaves other keys alone (ROME), fine-tuning on the prompt, a shifted state."""
SPARED = ("edited", "all")
"""Languages whose prompts an edit in closed form leaves alone."""


@dataclass(frozen=True)
class Wanted:
    """Edits that are wanted: of facts, each in a language, to another object. Make them with `facts_to_edit`."""

    corpus: Corpus
    fact: Int[np.ndarray, " edit"]
    language: Int[np.ndarray, " edit"]
    new: Int[np.ndarray, " edit"]
    """Objects, numbered over all relations."""

    def __len__(self) -> int:
        """Number of edits."""
        return len(self.fact)

    @property
    def relation(self) -> Int[np.ndarray, " edit"]:
        """Relations of the facts."""
        return self.corpus.world.relation[self.fact]

    def prompts(self) -> Prompts:
        """The facts asked in their languages."""
        return prompts(self.corpus, self.language * self.corpus.n_facts + self.fact)

    def answers(self) -> Int[Tensor, " edit"]:
        """Tokens of the new objects in their languages."""
        return self.corpus.object_tokens[self.language, self.new]

    def same_subject(self) -> tuple[Int[np.ndarray, " row"], Int[np.ndarray, " row"]]:
        """The subjects' other facts, and the edit that each belongs to."""
        subject = self.corpus.world.subject
        edit, fact = np.nonzero(subject[self.fact][:, None] == subject)
        other = fact != self.fact[edit]
        return fact[other], edit[other]

    def neighbours(self, n: int, seed: int = 0) -> tuple[Int[np.ndarray, " row"], Int[np.ndarray, " row"]]:
        """Up to `n` random facts of each edit's relation, of other subjects and other objects than the new one."""
        draw, world, found = rng(seed, "neighbours of edits"), self.corpus.world, []
        for fact, new in zip(self.fact, self.new, strict=True):
            same = (world.relation == world.relation[fact]) & (world.subject != world.subject[fact])
            found.append(draw.permutation(np.flatnonzero(same & (world.object != new)))[:n])
        return np.concatenate(found), np.repeat(np.arange(len(self)), [len(each) for each in found])

    def moved(self, by: int) -> Wanted:
        """The same edits made in the language so many on."""
        return replace(self, language=(self.language + by) % self.corpus.n_languages)

    def of_others(self, seed: int = 0) -> Wanted:
        """For each edit one of another subject's fact, of the same relation and to the same object: a control.

        Raises ValueError where a relation has no such fact.
        """
        fact, edit = self.neighbours(1, seed)
        if len(edit) < len(self):
            alone = int(np.setdiff1d(np.arange(len(self)), edit)[0])
            raise ValueError(f"relation {self.relation[alone]} has no fact beside fact {self.fact[alone]} to compare.")
        return replace(self, fact=fact)


def facts_to_edit(
    corpus: Corpus,
    n: int = 100,
    *,
    facts: ArrayLike | Tensor | None = None,
    language: int | str | None = None,
    seed: int = 0,
) -> Wanted:
    """Up to `n` random facts, each to be edited to another object of its relation, drawn at random.

    Of `facts` (None: those of one language alone), in a `language` (None: each fact's home).
    Raises ValueError for facts or a language that do not exist, none to choose from, and a relation of one object.

    >>> some = ul.crosslingual.editing.facts_to_edit(run.corpus, n=5)
    >>> len(some), some.prompts()
    (5, Prompts: 5 rows of 3 tokens; roles: subject, relation, answer, last)
    """
    if not is_whole(n) or n < 1:
        raise ValueError(f"n={shown(n)}; allowed: a whole number, 1 or more.")
    chosen = np.flatnonzero(~corpus.parallel) if facts is None else corpus.fact_numbers(facts)
    if not len(chosen):
        raise ValueError("facts=None: every fact is told in several languages; allowed: facts=..., some of them.")
    draw, world = rng(seed, "edited facts"), corpus.world
    chosen = draw.permutation(chosen)[:n]
    new = []
    for fact in chosen:
        others = np.flatnonzero(world.object_relation == world.relation[fact])
        others = others[others != world.object[fact]]
        if not len(others):
            raise ValueError(f"relation {world.relation[fact]} has one object; allowed: relations of two or more.")
        new.append(draw.choice(others))
    where = corpus.home[chosen] if language is None else np.full(len(chosen), corpus.language_number(language))
    return Wanted(corpus, chosen, where, np.array(new))


def made(
    model: Model,
    wanted: Wanted,
    method: str = "closed form",
    *,
    blocks: ArrayLike | Tensor = 0,
    role: str = "answer",
    spared: str = "edited",
    weight: float = 0.0,
    **settings: float,
) -> Change:
    """Edits made as one of `METHODS` does, each as if it were the only one.

    `gradient` trains the output weights of the MLPs of `blocks`. The others start with the state after the last of
    them, where the `role` stands, that gives the new answer (`edits.targets`): `state` puts it in, `closed form` writes
    it into the blocks' weights (`edits.closed_form`, with its `weight`). It leaves alone what MLPs read in the prompts
    of the `edited` language, or of `all`, as `spared` says: of all, the same fact in another language is spared, too,
    so that no edit crosses.
    The last token before the answer is where dishes of few blocks look facts up. With `role="subject"`, as ROME has
    it, the state also keeps the answers to the subject's other relations; in few dishes does that change answers.
    `settings` are those of `edits.gradient` or `edits.targets`.
    Raises ValueError for another method or `spared`, and as they do.

    >>> some = ul.crosslingual.editing.facts_to_edit(run.corpus, n=5)
    >>> ul.crosslingual.editing.made(run.model, some).writes.shape
    torch.Size([1, 5, 16])
    """
    if method not in METHODS:
        raise ValueError(f"method={method!r} is none.{suggest(str(method), METHODS)}")
    if spared not in SPARED:
        raise ValueError(f"spared={spared!r}; allowed: {', '.join(SPARED)}.")
    model, corpus = model_and_corpus(model, wanted.corpus)
    asked, new, n_facts = wanted.prompts(), wanted.answers(), corpus.n_facts
    if method == "gradient":
        return edits.gradient(model, asked, new, blocks, **settings)
    last, (fact, of) = int(np.max(edits.mlps.checked_blocks(model, blocks))), wanted.same_subject()
    others = {}
    if role == "subject" and len(of):
        others = {"kept": prompts(corpus, wanted.language[of] * n_facts + fact), "of": of}
    change = edits.targets(model, asked, new, last, role=role, **others, **settings)
    if method == "state":
        return edits.Shift(last, change, role)
    if spared == "all":
        spread = edits.covariance(model, prompts(corpus), blocks)
        return edits.closed_form(model, asked, change, spread, blocks, role=role, weight=weight)
    parts, order = [], []
    for language in np.unique(wanted.language):
        some = torch.from_numpy(np.flatnonzero(wanted.language == language))
        spread = edits.covariance(model, prompts(corpus, language * n_facts + np.arange(n_facts)), blocks)
        parts.append(edits.closed_form(model, asked[some], change[some], spread, blocks, role=role, weight=weight))
        order.append(some)
    back = torch.cat(order).argsort()
    reads, writes = (torch.cat([getattr(part, name) for part in parts], 1)[:, back] for name in ("reads", "writes"))
    return edits.RankOne(parts[0].blocks, reads, writes)


def judged(model: Model, wanted: Wanted, change: Change, *, n_neighbours: int = 8, seed: int = 0) -> pd.DataFrame:
    """How each edit does in each language: a row an edit and language asked.

    Columns:
    - `edit` (its number), `fact`, `relation`, `edited` and `asked` (names of languages), `old` and `new` (objects);
    - `answered`: is the new object, in the language asked, the answer? Where `asked` is `edited` that is efficacy,
      elsewhere carry-over. `chosen`: the same among the relation's objects in that language;
    - `gain`: by how many nats the new object gains on the old one through the edit, in the language asked;
    - `paraphrase`: `answered` in the corpus' second template; nan where it has one;
    - `neighbours`, `relations`: specificity, the share of answers that stay as they were, of `n_neighbours` other
      subjects' facts of the relation, and of the subject's other relations (nan without any);
    - `control`, `control_chosen`, `control_gain`: `answered`, `chosen` and `gain` of the neighbours, none of which has
      the new object. An edit that puts its object into every prompt of the relation scores there what it scores
      elsewhere;
    - `known`, `before`: whether the answer without the edit is right, and whether it is the new one already;
    - `shared_subject`, `shared_object`: whether the words of subject and new object are the same in both languages.
      An edit whose object has one word seems to cross: those that have not are the test.

    Raises ValueError for as many edits as are not wanted, and for answers of several tokens.

    >>> some = ul.crosslingual.editing.facts_to_edit(run.corpus, n=5)
    >>> table = ul.crosslingual.editing.judged(run.model, some, ul.crosslingual.editing.made(run.model, some))
    >>> len(table), bool(table[table["asked"] == table["edited"]]["answered"].mean() > 0.5)
    (10, True)
    """
    model, corpus = model_and_corpus(model, wanted.corpus)
    if len(change) != len(wanted):
        raise ValueError(f"change has {len(change)} edits, wanted {len(wanted)}; allowed: as many.")
    if not is_whole(n_neighbours) or n_neighbours < 1:
        raise ValueError(f"n_neighbours={shown(n_neighbours)}; allowed: a whole number, 1 or more.")
    n, world = len(wanted), corpus.world
    own, near, same = (wanted.fact, np.arange(n)), wanted.neighbours(n_neighbours, seed), wanted.same_subject()
    fact, edit = (np.concatenate(parts) for parts in zip(own, near, same, strict=True))
    kind = np.repeat([0, 1, 2], [n, len(near[0]), len(same[0])])
    names = np.array([language.name for language in corpus.languages])
    tables = []
    for asked in range(corpus.n_languages):
        rows = asked * corpus.n_facts + fact
        plain, which = np.unique(rows, return_inverse=True)
        unedited = run_prompts(model, prompts(corpus, plain))[0]
        before = unedited.argmax(-1)[which].numpy()
        logits = edits.logits(model, change, prompts(corpus, rows), edit)
        after, new = logits.argmax(-1).numpy(), corpus.object_tokens[asked, wanted.new].numpy()
        allowed = corpus.choices[asked, torch.from_numpy(world.relation[fact])]
        choice = measures.object_choice(logits, allowed).numpy()

        def mean(values: np.ndarray, of: int) -> Float[np.ndarray, " edit"]:
            mine = kind == of
            with np.errstate(invalid="ignore"):
                return np.bincount(edit[mine], values[mine], n) / np.bincount(edit[mine], minlength=n)

        pair = corpus.object_tokens[asked, torch.from_numpy(np.stack([wanted.new, world.object[wanted.fact]], 1))[edit]]
        new_and_old = logits.gather(1, pair) - unedited[torch.from_numpy(which)[:, None], pair]
        gain = (new_and_old[:, 0] - new_and_old[:, 1]).double().numpy()
        hit, picked, stays = after == new[edit], choice == new[edit], after == before
        paraphrase = np.full(n, np.nan)
        if len(corpus.templates) > 1:
            again = prompts(corpus, rows[:n], corpus.sequences.shape[0] // len(corpus.templates))
            paraphrase = (edits.logits(model, change, again, np.arange(n)).argmax(-1).numpy() == new).astype(float)
        tables.append(
            pd.DataFrame(
                {
                    "edit": np.arange(n),
                    "fact": wanted.fact,
                    "relation": wanted.relation,
                    "edited": names[wanted.language],
                    "asked": names[asked],
                    "old": world.object[wanted.fact],
                    "new": wanted.new,
                    "answered": hit[:n],
                    "chosen": picked[:n],
                    "gain": gain[:n],
                    "paraphrase": paraphrase,
                    "neighbours": mean(stays, 1),
                    "relations": mean(stays, 2),
                    "control": mean(hit, 1),
                    "control_chosen": mean(picked, 1),
                    "control_gain": mean(gain, 1),
                    "known": before[:n] == corpus.answers[rows[:n]].numpy(),
                    "before": before[:n] == new,
                    "shared_subject": _shared(wanted, asked, "subjects", world.subject[wanted.fact]),
                    "shared_object": _shared(wanted, asked, "objects", wanted.new),
                }
            )
        )
    return pd.concat(tables, ignore_index=True)


def _shared(wanted: Wanted, asked: int, kind: str, number: Int[np.ndarray, " edit"]) -> list[bool]:
    """Whether words have the same tokens in the language asked and in the edit's."""
    corpus = wanted.corpus
    words = [getattr(language, kind) for language in corpus.languages]
    return [
        corpus.tokenizer.encode(words[asked][i].split(), asked) == corpus.tokenizer.encode(words[home][i].split(), home)
        for i, home in zip(number, wanted.language, strict=True)
    ]


def angles(model: Model, wanted: Wanted, make: Callable[[Model, Wanted], Change] = made, seed: int = 0) -> pd.DataFrame:
    """Cosine between the changes that two languages would make for the same fact and new object.

    A row an edit and other language: edit, fact, edited, other (names), `cosine`, and `control`: the cosine with the
    other language's change for another fact of the same relation, to the same object. `make` makes edits, as `made`.
    Raises ValueError for a corpus of one language, and as `make` does.

    >>> some = ul.crosslingual.editing.facts_to_edit(run.corpus, n=5)
    >>> list(ul.crosslingual.editing.angles(run.model, some))
    ['edit', 'fact', 'edited', 'other', 'cosine', 'control']
    """
    model, corpus = model_and_corpus(model, wanted.corpus)
    if corpus.n_languages < 2:
        raise ValueError("the corpus has one language; allowed: two or more, whose edits are compared.")
    names = np.array([language.name for language in corpus.languages])
    here, others, tables = make(model, wanted), wanted.of_others(seed), []
    for step in range(1, corpus.n_languages):
        there = wanted.moved(step)
        tables.append(
            pd.DataFrame(
                {
                    "edit": np.arange(len(wanted)),
                    "fact": wanted.fact,
                    "edited": names[wanted.language],
                    "other": names[there.language],
                    "cosine": edits.cosines(here, make(model, there)).double().numpy(),
                    "control": edits.cosines(here, make(model, others.moved(step))).double().numpy(),
                }
            )
        )
    return pd.concat(tables, ignore_index=True)
