"""Facts of a pretrained model edited in one language and asked in all: does an edit reach the other languages?

The dish's twin is `crosslingual.editing`. Answers are told apart by their first tokens, so facts whose answers begin
alike are not edited into each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from unifylens import edits
from unifylens.arguments import shown
from unifylens.corpus.factsets import Facts, check
from unifylens.edits.changes import RankOne
from unifylens.patching.prompts import Prompts
from unifylens.patching.stream import run_prompts
from unifylens.patching.tensors import is_whole
from unifylens.pretrained.asking import first_tokens
from unifylens.pretrained.models import Pretrained
from unifylens.pretrained.roles import prompts
from unifylens.seeds import rng


@dataclass(frozen=True)
class Wanted:
    """Edits that are wanted: of a fact each, to another fact's answer. Make them with `facts_to_edit`."""

    pretrained: Pretrained
    facts: pd.DataFrame
    """The checked fact set of one relation."""
    first: Int[np.ndarray, "language fact"]
    """First tokens of answers, languages and facts in order of their names; -1 for none of its own."""
    old: Int[np.ndarray, " edit"]
    """Numbers of the facts to edit."""
    new: Int[np.ndarray, " edit"]
    """Numbers of the facts whose answers they are to have."""

    def __len__(self) -> int:
        """Number of edits."""
        return len(self.old)

    @property
    def languages(self) -> list[str]:
        """Names of all languages, in order."""
        return sorted(set(self.facts["language"]))

    def number(self, language: str) -> int:
        """Which language a name is. Raises ValueError for one that the fact set lacks."""
        if language not in self.languages:
            raise ValueError(f"language={language!r}: the fact set has {', '.join(self.languages)}.")
        return self.languages.index(language)

    def prompts(self, language: str) -> Prompts:
        """All facts of the relation asked in a language, with their roles."""
        self.number(language)
        return prompts(self.pretrained, self.facts, language)

    def neighbours(self, n: int, seed: int = 0) -> tuple[Int[np.ndarray, " row"], Int[np.ndarray, " row"]]:
        """Up to `n` random facts for each edit whose answers are in no language the new one; and their edits."""
        draw, found = rng(seed, "neighbours of edits"), []
        for old, new in zip(self.old, self.new, strict=True):
            apart = ((self.first != self.first[:, [new]]) & (self.first >= 0)).all(0)
            apart[old] = False
            found.append(draw.permutation(np.flatnonzero(apart))[:n])
        return np.concatenate(found), np.repeat(np.arange(len(self)), [len(each) for each in found])


def facts_to_edit(
    pretrained: Pretrained,
    facts: Facts,
    relation: str,
    n: int = 4,
    *,
    among: Sequence[str] | None = None,
    seed: int = 0,
) -> Wanted:
    """Up to `n` random facts of a relation, each to be edited to the answer of a random other fact.

    The two answers begin with different tokens in every language. `among` names the facts to choose from, such as those
    that the model knows (None: all of the relation).
    Raises ValueError for a relation or facts that the set lacks, and where no two answers are apart in all languages.
    """
    facts = check(facts)
    if relation not in set(facts["relation"]):
        raise ValueError(f"relation={relation!r}: the fact set has {', '.join(sorted(set(facts['relation'])))}.")
    if not is_whole(n) or n < 1:
        raise ValueError(f"n={shown(n)}; allowed: a whole number, 1 or more.")
    facts = facts[facts["relation"] == relation].reset_index(drop=True)
    first = first_tokens(pretrained, facts).unstack("fact")
    names, begins = first.columns.tolist(), first.to_numpy(copy=True)
    if among is not None and (strange := [fact for fact in among if fact not in names]):
        raise ValueError(f"among holds {strange[0]!r}; allowed: facts of {relation!r}, such as {', '.join(names[:3])}.")
    own = (begins >= 0).all(0)
    apart = (begins[:, :, None] != begins[:, None]).all(0) & own & own[:, None]
    draw = rng(seed, "edited facts")
    chosen = [i for i in range(len(names)) if apart[i].any() and (among is None or names[i] in set(among))]
    if not chosen:
        raise ValueError(
            f"{relation!r}: no fact's answer begins with a token of its own in every language beside another fact's; "
            "allowed: relations of two such answers or more, fewer languages, or other facts in among."
        )
    old = draw.permutation(chosen)[:n]
    return Wanted(pretrained, facts, begins, old, np.array([draw.choice(np.flatnonzero(apart[i])) for i in old]))


def covariance(wanted: Wanted, facts: Facts, block: int) -> Float[Tensor, "block d_mlp d_mlp"]:
    """`edits.covariance` of a block, at every position of the prompts of `facts` that name no subject to edit.

    These are what edits leave alone. Were the same subjects asked in other languages among them, no edit could cross;
    and they must have many times more tokens than the MLP has neurons, or nearly every other prompt is free of edits.
    Raises ValueError where no such prompt has a language of the edits.
    """
    facts, rows = check(facts), []
    for language, own in wanted.facts.groupby("language"):
        edited = own.drop_duplicates("fact")["subject"].iloc[wanted.old]
        others = facts[(facts["language"] == language) & ~facts["subject"].isin(edited)]
        rows += [wanted.pretrained.ids(prompt) for prompt in others["prompt"]]
    if not rows:
        raise ValueError("facts has no prompt without the edited subjects; allowed: facts of others, too.")
    return edits.covariance(wanted.pretrained.model, Prompts(rows), [block])


def made(
    wanted: Wanted,
    language: str,
    block: int,
    spread: Float[Tensor, "block d_mlp d_mlp"],
    *,
    role: str = "subject",
    **settings: float,
) -> RankOne:
    """The edits made in a language, in closed form, each as if it were the only one (ROME, arXiv 2202.05262).

    In the MLP of a `block`, by what it reads where the `role` stands; `spread` is its `covariance`. `settings` are
    those of `edits.targets`. Raises ValueError for a language that the facts lack, and as `edits.closed_form` does.
    """
    model, asked = wanted.pretrained.model, wanted.prompts(language)[wanted.old]
    new = wanted.first[wanted.number(language), wanted.new]
    target = edits.targets(model, asked, new, block, role=role, **settings)
    return edits.closed_form(model, asked, target, spread, [block], role=role)


def judged(wanted: Wanted, language: str, change: RankOne, *, n_neighbours: int = 4, seed: int = 0) -> pd.DataFrame:
    """How edits made in a `language` do in each language: a row an edit and language asked.

    Columns:
    - `edit` (its number), `relation`, `fact`, `edited` and `asked` (languages), `old` and `new` (answers as `asked`
      writes them); `same_token`, `same_subject`: whether the new answer begins alike in both languages, and whether the
      subject is one word in both. Where either is, an edit may seem to cross: those that have neither are the test;
    - `answered`: is the new answer's first token the likeliest of all? `chosen`: of the relation's answers' alone?
      `gain`: by how many nats the new answer's first token gains on the old one's through the edit;
    - `control_chosen`, `control_gain`: the same of up to `n_neighbours` other facts, whose answers are others;
    - `neighbours`: the share of these whose choice stays as it was;
    - `known`: whether the old answer was chosen before the edit.

    Raises ValueError for as many edits as are not wanted, and for a language that the facts lack.
    """
    if len(change) != len(wanted):
        raise ValueError(f"change has {len(change)} edits, wanted {len(wanted)}; allowed: as many.")
    if not is_whole(n_neighbours) or n_neighbours < 1:
        raise ValueError(f"n_neighbours={shown(n_neighbours)}; allowed: a whole number, 1 or more.")
    home, model, n = wanted.number(language), wanted.pretrained.model, len(wanted)
    near, of = wanted.neighbours(n_neighbours, seed)
    fact, edit, tables = np.concatenate([wanted.old, near]), np.concatenate([np.arange(n), of]), []
    plain, which = np.unique(fact, return_inverse=True)
    words = wanted.facts.set_index(["language", "fact"])
    names = words.index.unique("fact").to_numpy()
    for number, asked in enumerate(wanted.languages):
        rows, first = wanted.prompts(asked), wanted.first[number]
        choices = torch.from_numpy(np.unique(first[first >= 0]))
        pair = torch.from_numpy(np.stack([first[wanted.new], first[wanted.old]], 1)[edit])
        before = run_prompts(model, rows[plain])[0]
        unedited = before[:, choices].argmax(1)[which]
        less = before[torch.from_numpy(which)[:, None], pair]
        after = edits.logits(model, change, rows[fact], edit)
        gain = after.gather(1, pair) - less
        gain = (gain[:, 0] - gain[:, 1]).double().numpy()
        choice = after[:, choices].argmax(1)
        picked = (choices[choice] == pair[:, 0]).numpy()
        stays = (choice == unedited).numpy()
        answers, subjects = (words[name].loc[asked].to_numpy() for name in ("answer", "subject"))

        def mean(values: np.ndarray) -> Float[np.ndarray, " edit"]:
            with np.errstate(invalid="ignore"):
                return np.bincount(of, values[n:], n) / np.bincount(of, minlength=n)

        tables.append(
            pd.DataFrame(
                {
                    "edit": np.arange(n),
                    "relation": wanted.facts["relation"].iloc[0],
                    "fact": names[wanted.old],
                    "edited": language,
                    "asked": asked,
                    "old": answers[wanted.old],
                    "new": answers[wanted.new],
                    "same_token": first[wanted.new] == wanted.first[home, wanted.new],
                    "same_subject": (subjects == words["subject"].loc[language].to_numpy())[wanted.old],
                    "answered": (after.argmax(1) == pair[:, 0]).numpy()[:n],
                    "chosen": picked[:n],
                    "gain": gain[:n],
                    "control_chosen": mean(picked),
                    "control_gain": mean(gain),
                    "neighbours": mean(stays),
                    "known": (choices[unedited[:n]] == pair[:n, 1]).numpy(),
                }
            )
        )
    return pd.concat(tables, ignore_index=True)
