"""Pairs of languages: how alike their words are, and whether two tables over pairs go together."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.stats import rankdata

from unifylens.corpus import Corpus
from unifylens.language import Language, lexical_distance


def script(language: Language) -> str:
    """The script most letters of a language's words are in, by the first word of their Unicode names (`LATIN`)."""
    letters = "".join(language.subjects + language.objects)
    found = Counter(unicodedata.name(letter, "?").split()[0] for letter in letters if letter.isalpha())
    return found.most_common(1)[0][0]


def language_pairs(corpus: Corpus) -> pd.DataFrame:
    """How alike the words of every two languages are: one row a pair, index `first`, `second` (names).

    Columns: `same script` (0 or 1); `same names`, the share of subjects that are one string in both; `lexical
    distance`, mean normalised edit distance of translations; `shared tokens`, the tokens that a subject's two names
    have in common over those that either has, mean over subjects.
    """
    tokens = [
        [set(corpus.tokenizer.encode(name.split(), index)) for name in language.subjects]
        for index, language in enumerate(corpus.languages)
    ]
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
            }
        )
    return pd.DataFrame(rows).set_index(["first", "second"])


def square(values: pd.Series) -> pd.DataFrame:
    """A symmetric table `[language, language]` of what is given by pair (index of two levels); the diagonal is nan.

    A pair that is given both ways round counts with its mean. Raises ValueError where a pair is missing.
    """
    names = list(dict.fromkeys([*values.index.get_level_values(0), *values.index.get_level_values(1)]))
    table = pd.DataFrame(np.nan, names, names)
    for a, b in combinations(names, 2):
        found = [values[pair] for pair in ((a, b), (b, a)) if pair in values.index]
        if not found:
            raise ValueError(f"values: the pair {a!r}, {b!r} is missing; allowed: every pair of {len(names)} languages")
        table.loc[a, b] = table.loc[b, a] = float(np.mean(found))
    return table


def mantel(
    x: Float[np.ndarray, "language language"],
    y: Float[np.ndarray, "language language"],
    given: Sequence[Float[np.ndarray, "language language"]] = (),
    n_permutations: int = 9999,
    seed: int = 0,
) -> tuple[float, float]:
    """Rank correlation of two symmetric tables over pairs of languages, and its one-sided p-value (positive).

    Pairs share languages, so they are not independent: the p-value comes from renaming the languages of `x` (Mantel
    1967). `given` tables are regressed out of the ranks of both first (partial test, Smouse, Long & Sokal 1986).

    Raises ValueError for tables that are not square and alike, fewer than four languages, and a table without
    variation.
    """
    n = len(x)
    for name, table in {"x": x, "y": y, **{f"given[{i}]": t for i, t in enumerate(given)}}.items():
        if np.shape(table) != (n, n) or n < 4:
            raise ValueError(f"{name} has shape {np.shape(table)}; allowed: [language, language], four or more")
    upper = np.triu_indices(n, 1)
    others = np.stack([np.ones(len(upper[0])), *(rankdata(np.asarray(table)[upper]) for table in given)], 1)

    def left_over(values: np.ndarray) -> np.ndarray:
        """Ranks with the other tables regressed out, of unit length."""
        ranks = rankdata(values)
        rest = ranks - others @ np.linalg.lstsq(others, ranks, rcond=None)[0]
        if (length := np.linalg.norm(rest)) < 1e-9 * len(rest):
            raise ValueError("a table does not vary over pairs (or not beyond what is given): no correlation")
        return rest / length

    x, fixed = np.asarray(x), left_over(np.asarray(y)[upper])
    found = float(left_over(x[upper]) @ fixed)
    draw = np.random.default_rng(seed)
    orders = (draw.permutation(n) for _ in range(n_permutations))
    chance = [float(left_over(x[np.ix_(order, order)][upper]) @ fixed) for order in orders]
    return found, (1 + sum(c >= found - 1e-12 for c in chance)) / (1 + n_permutations)
