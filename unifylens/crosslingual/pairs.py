"""Pairs of languages: how alike their words, states and answers are, and whether tables over pairs go together."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from unifylens.corpus import cldr
from unifylens.corpus.corpus import Corpus
from unifylens.corpus.factsets import Facts, check
from unifylens.corpus.language import Language, lexical_distance
from unifylens.measures import scores
from unifylens.measures.association import Mantel, mantel, mantel_over_cuts, square
from unifylens.measures.information import conditional_mutual_information
from unifylens.measures.intervals import statistic_interval


def script(language: Language) -> str:
    """The script most letters of a language's words are in, by the first word of their Unicode names (`LATIN`)."""
    letters = "".join(language.subjects + language.objects)
    scripts = Counter(unicodedata.name(letter, "?").split()[0] for letter in letters if letter.isalpha())
    return scripts.most_common(1)[0][0]


def language_pairs(corpus: Corpus) -> pd.DataFrame:
    """How alike the words of every two languages are: one row a pair, index `first`, `second` (names).

    Columns: `same script` (0 or 1); `same names`, the share of subjects that are one string in both; `lexical
    distance`, mean normalised edit distance of translations; `shared tokens`, the tokens that a subject's two names
    have in common over those that either has, mean over subjects; `informativeness`, I(object; language | relation) in
    bits between the two.
    """
    tokens = [
        [set(corpus.tokenizer.encode(name.split(), index)) for name in language.subjects]
        for index, language in enumerate(corpus.languages)
    ]
    objects = corpus.object_exposure
    rows = []
    for (i, a), (j, b) in combinations(enumerate(corpus.languages), 2):
        common = [len(x & y) / len(x | y) for x, y in zip(tokens[i], tokens[j], strict=True)]
        rows.append(
            {
                "first": a.name,
                "second": b.name,
                "same script": float(script(a) == script(b)),
                "same names": float(np.mean([x == y for x, y in zip(a.subjects, b.subjects, strict=True)])),
                "lexical distance": lexical_distance(a, b),
                "shared tokens": float(np.mean(common)),
                "informativeness": conditional_mutual_information(objects[:, [i, j]]),
            }
        )
    return pd.DataFrame(rows).set_index(["first", "second"])


def unification_pairs(
    states: Float[Tensor, "layer language fact d_model"], facts: Facts, seed: int = 0
) -> pd.DataFrame:
    """`scores_by_pair` of a fact set, `facts`, that `states` were read from (`asking.states`).

    Raises ValueError where states and facts do not fit.
    """
    facts = check(facts)
    languages = facts["language"].unique().tolist()
    relations = facts.loc[facts["language"] == languages[0], "relation"].to_numpy()
    return scores_by_pair(states, relations, languages, seed)


def scores_by_pair(
    states: Float[Tensor, "layer language fact d_model"],
    relations: Sequence[str] | np.ndarray,
    languages: Sequence[str],
    seed: int = 0,
) -> pd.DataFrame:
    """Unification scores of every two languages by layer: columns layer, first, second, and the scores.

    `unification`, `centred` and `retrieval_at_1` are those of `measures.unification_variants`, taken within each
    relation (few-shot prompts of two relations differ in everything) and averaged over relations of two facts or more.
    `centred_shuffled` is `centred` with every fact paired with a random other one of its relation, drawn for each pair
    of languages. Layer 0 is the embedding, layer k the residual stream after block k - 1.
    Raises ValueError where states do not fit the relations of facts and the names of languages.
    """
    if states.shape[1:3] != (len(languages), len(relations)):
        allowed = f"[layer, {len(languages)}, {len(relations)}, d_model]"
        raise ValueError(f"states has shape {list(states.shape)}; allowed: {allowed}")
    draw = np.random.default_rng(seed)
    groups = [np.flatnonzero(np.asarray(relations) == relation) for relation in np.unique(relations)]
    groups = [group for group in groups if len(group) > 1]
    others = [_partners(draw, len(languages), len(group)) for group in groups]
    rows = []
    for layer, by_language in enumerate(states):
        tables = [
            scores.of_all_pairs(by_language[:, group], partner) for group, partner in zip(groups, others, strict=True)
        ]
        mean = {name: torch.stack([table[name] for table in tables]).mean(0) for name in tables[0]}
        for (i, a), (j, b) in combinations(enumerate(languages), 2):
            row = {name: float(table[i, j]) for name, table in mean.items()}
            rows.append({"layer": layer, "first": a, "second": b, **row})
    return pd.DataFrame(rows)


def _partners(draw: np.random.Generator, n_languages: int, n_facts: int) -> Int[Tensor, "language language fact"]:
    """Another fact for each one, along a random cycle, for each pair of languages."""
    partners = torch.empty(n_languages, n_languages, n_facts, dtype=torch.long)
    for pair in partners.flatten(0, 1):
        cycle = torch.from_numpy(draw.permutation(n_facts))
        pair[cycle] = cycle.roll(1)
    return partners


def answer_pairs(answers: pd.DataFrame) -> pd.DataFrame:
    """What every two languages know in common: one row a pair, index `first`, `second`.

    `answers` is a fact set with a column `right`. Columns, as ECLeKTic defines them: `overall`, the share of facts
    that are right in both; `transfer`, the share right in the other language of those right in one (mean of both
    directions). And `jaccard`: facts right in both over facts right in either. nan where nothing is right.
    Where the fact set says which language a fact is from (`original`, as ECLeKTic's do), a pair counts facts from its
    own two languages, and transfer starts in the one that a fact is from.
    """
    answers = check(answers)
    known = answers.pivot(index="fact", columns="language", values="right").astype(bool)
    starts = {language: known for language in known}  # facts whose transfer starts in the language
    if "original" in answers:
        original = answers.groupby("fact")["original"].first()
        starts = {language: known[original == language] for language in known}
    rows = []
    for a, b in combinations(known, 2):
        asked = known.loc[starts[a].index.union(starts[b].index)]
        both, either = (asked[a] & asked[b]).sum(), (asked[a] | asked[b]).sum()
        there = pd.concat([starts[x].loc[starts[x][x], y] for x, y in ((a, b), (b, a))])
        rows.append(
            {
                "first": a,
                "second": b,
                "overall": both / len(asked) if len(asked) else np.nan,
                "transfer": float(there.mean()) if len(there) else np.nan,
                "jaccard": both / either if either else np.nan,
            }
        )
    return pd.DataFrame(rows).set_index(["first", "second"])


def halves(facts: Facts, seed: int = 0) -> tuple[list[str], list[str]]:
    """Two random halves of a fact set, each with half of every relation's facts: choose on one, report on the other."""
    drawn = _in_random_order(facts, seed)
    return (
        [fact for order in drawn.values() for fact in order[: len(order) // 2]],
        [fact for order in drawn.values() for fact in order[len(order) // 2 :]],
    )


def _in_random_order(facts: Facts, seed: int) -> dict[str, list[str]]:
    """The facts of every relation."""
    draw, table = np.random.default_rng(seed), check(facts)
    return {r: draw.permutation(sorted(rows["fact"].unique())).tolist() for r, rows in table.groupby("relation")}


def cuts(facts: Facts, n: int, seed: int = 0) -> tuple[list[str], list[list[str]]]:
    """A third of a fact set to choose on, and the rest in `n` parts to report on: no fact is in two of them.

    Each has its share of every relation's facts. Raises ValueError where a relation has too few to give one to each.
    """
    drawn = _in_random_order(facts, seed)
    few = [r for r, order in drawn.items() if len(order) - len(order) // 3 < n or len(order) < 3]
    if n < 1 or few:
        told = f"n is {n}" if n < 1 else f"{few[0]!r} has {len(drawn[few[0]])} facts for n={n}"
        raise ValueError(f"{told}; allowed: one part or more, and facts for each")
    chosen = [fact for order in drawn.values() for fact in order[: len(order) // 3]]
    return chosen, [[f for order in drawn.values() for f in order[len(order) // 3 :][part::n]] for part in range(n)]


def correlation_over_cuts(
    tables: Sequence[pd.DataFrame],
    x: str,
    y: str,
    given: Sequence[Sequence[pd.Series]] = (),
    *,
    ranks: bool = True,
    languages_out: bool = False,
    n_permutations: int = 9999,
) -> Mantel:
    """`mantel_over_cuts` of two columns of `states_and_answers`: a table of one layer for each cut.

    `given` are numbers by pair to regress out, a list for each cut.
    """
    squares = _squares(tables, x, y, given)
    return mantel_over_cuts(squares, ranks=ranks, languages_out=languages_out, n_permutations=n_permutations)


def interval_over_cuts(
    tables: Sequence[pd.DataFrame],
    x: str,
    y: str,
    given: Sequence[Sequence[pd.Series]] = (),
    *,
    ranks: bool = True,
    languages_out: bool = False,
) -> tuple[float, float, float]:
    """Mean correlation of `correlation_over_cuts` and its 95 % interval: every language is left out once, in all cuts.

    Cuts are no repeats of languages, so languages and not cuts are what the interval is over.
    """
    squares = _squares(tables, x, y, given)

    def mean(kept: Int[np.ndarray, " language"]) -> float:
        some = [(_of(x, kept), _of(y, kept), [_of(other, kept) for other in others]) for x, y, others in squares]
        return mantel_over_cuts(some, ranks=ranks, languages_out=languages_out, n_permutations=0).r

    return statistic_interval(mean, np.arange(len(squares[0][0])), within=(-1, 1))


def _of(table: np.ndarray, kept: np.ndarray) -> np.ndarray:
    return table[np.ix_(kept, kept)]


def _squares(
    tables: Sequence[pd.DataFrame], x: str, y: str, given: Sequence[Sequence[pd.Series]]
) -> list[tuple[np.ndarray, np.ndarray, list[np.ndarray]]]:
    cuts = []
    for table, others in zip(tables, given or [()] * len(tables), strict=True):
        by_pair = table.set_index(["first", "second"])
        first = square(by_pair[x])
        names = first.index
        rest = [square(values).loc[names, names].to_numpy() for values in (by_pair[y], *others)]
        cuts.append((first.to_numpy(), rest[0], rest[1:]))
    return cuts


def states_and_answers(
    states: Float[Tensor, "layer language fact d_model"], answers: pd.DataFrame, facts: Sequence[str] | None = None
) -> pd.DataFrame:
    """`unification_pairs` by layer beside `answer_pairs`, on some of the facts (None: all).

    `answers` is the fact set that `states` were read from, with a column `right`.
    """
    answers = check(answers)
    names = answers.loc[answers["language"] == answers["language"].iloc[0], "fact"]
    wanted = names if facts is None else pd.Series(facts)
    if not len(wanted) or not wanted.isin(names).all():
        strange = "nothing" if not len(wanted) else repr(wanted[~wanted.isin(names)].tolist()[0])
        raise ValueError(f"facts holds {strange}; allowed: names in the column `fact`, at least one.")
    chosen = names.isin(wanted).to_numpy(copy=True)  # torch wants to own it
    kept = answers[answers["fact"].isin(names[chosen])]
    alike = unification_pairs(states[:, :, torch.from_numpy(chosen)], kept)
    return alike.join(answer_pairs(kept), on=["first", "second"])


def correlation_by_layer(
    table: pd.DataFrame, x: str, y: str, given: Sequence[pd.Series] = (), n_permutations: int = 999
) -> pd.DataFrame:
    """Mantel's test of two columns of `states_and_answers` at each layer: columns `r`, `p`; index `layer`.

    `given` are numbers by pair to regress out. A layer where a pair has no score, such as the embedding of a token that
    all prompts end with, has nan.
    """
    others = [square(values) for values in given]
    rows = {}
    for layer, part in table.groupby("layer"):
        part = part.set_index(["first", "second"])
        first = square(part[x])
        names = first.index
        if part[x].isna().any():
            rows[layer] = (np.nan, np.nan)
            continue
        rows[layer] = mantel(
            first.to_numpy(),
            square(part[y]).loc[names, names].to_numpy(),
            [other.loc[names, names].to_numpy() for other in others],
            n_permutations,
        )
    return pd.DataFrame.from_dict(rows, orient="index", columns=["r", "p"]).rename_axis("layer")


def covariates(facts: Facts, tokens_per_character: pd.Series) -> pd.DataFrame:
    """What else two languages of a fact set may share: one row a pair, index `first`, `second`.

    Columns: `same script` (0 or 1); `same names`, the share of subjects that are one string in both; `rarity`, mean
    tokens per character of the two (`asking.encodable`): tokenizers cut what they have seen little of into small
    pieces, so it stands for how rare the languages were in training, which is not public.
    """
    subjects = check(facts).pivot(index="fact", columns="language", values="subject")
    rows = [
        {
            "first": a,
            "second": b,
            "same script": float(cldr.script(a) == cldr.script(b)),
            "same names": float((subjects[a] == subjects[b]).mean()),
            "rarity": float(tokens_per_character[[a, b]].mean()),
        }
        for a, b in combinations(subjects.columns, 2)
    ]
    return pd.DataFrame(rows).set_index(["first", "second"])
