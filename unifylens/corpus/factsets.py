"""Questions about the same facts in several languages: `FactSet`, and real facts as few-shot prompts (`from_cldr`)."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Self, TypeAlias

import numpy as np
import pandas as pd

from unifylens.arguments import plain
from unifylens.cards import Card, several
from unifylens.config import Relation
from unifylens.corpus import cldr
from unifylens.errors import suggest
from unifylens.seeds import rng

COLUMNS = ("fact", "relation", "language", "subject", "prompt", "answer", "alternatives")
"""What every table of facts has; `separator` and `also_right` may be left out."""
ORDER = ("fact", "relation", "language", "subject", "prompt", "separator", "answer", "also_right", "alternatives")
NO_SPACES = ("THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")
"""Scripts besides Chinese and Japanese that put no blank between words, as Unicode names of letters begin."""
JOINERS = "\u200c\u200d"
"""Invisible, but part of how words are written: in Persian, in scripts of India, in emoji."""


class FactSet(Card):
    """The same facts asked in several languages: one row a fact and language, checked, and ordered by both.

    Columns of `table` (extra ones are kept):

    - `fact`, `relation`, `language`, `subject`: texts; every fact has one relation, and stands once in every language;
    - `prompt`: the text up to the answer, without the blanks at its end; `separator`: what stands between it and the
      answer, blanks or nothing (left out: nothing after Chinese, Japanese, Thai and the like, after `l'` and an opening
      bracket; else one blank). What is scored is prompt + separator + answer;
    - `answer`: the right answer; `also_right`: a tuple of other right ones, which never count as wrong (left out: none);
    - `alternatives`: a tuple of wrong answers, at least one. One that begins with the answer ("Guinea-Bissau" for
      "Guinea"), or the reverse, is kept, but tells nothing: the shorter text is always at least as likely.

    Blanks around texts are taken off, and all is brought into one coding (NFC): a word is one word however it was typed.
    Texts stay as they are else, but are compared without marks that nobody sees and with one kind of blank (`bare`).
    Raises ValueError naming the fact and language where a text is missing or empty, a right answer stands among the
    wrong ones, or a language lacks a fact that another has; TypeError for what is no table.

    Your own facts, from words to a set; `from_answers` takes other facts' answers as the wrong ones:

    >>> said = {
    ...     "en": ("The capital of {} is", {"fr": ("France", "Paris"), "jp": ("Japan", "Tokyo"), "cl": ("Chile", "Santiago")}),
    ...     "de": ("Die Hauptstadt von {} ist", {"fr": ("Frankreich", "Paris"), "jp": ("Japan", "Tokio"), "cl": ("Chile", "Santiago")}),
    ... }
    >>> rows = [
    ...     {"fact": code, "relation": "capital", "language": language, "subject": name, "answer": answer}
    ...     | {"prompt": template.format(name)}
    ...     for language, (template, names) in said.items()
    ...     for code, (name, answer) in names.items()
    ... ]
    >>> facts = ul.FactSet.from_answers(rows)
    >>> facts
    FactSet of 6 questions
      facts        3, in each language
      languages    de, en
      relations    capital
      wrong        2 to a question
      for example  Die Hauptstadt von Chile ist [Santiago]
    >>> facts.select(languages="en").table.loc[0, "alternatives"]
    ('Tokyo', 'Paris')
    """  # noqa: E501

    def __init__(self, table: pd.DataFrame, left_out: Mapping[str, Mapping[str, int]] | None = None):
        """Check a table; `left_out` says how many rows of a file are not in it: by reason, then by language."""
        self._table = _consistent(_cleaned(table, COLUMNS))
        self.left_out = {why: dict(counts) for why, counts in (left_out or {}).items()}

    @classmethod
    def of(cls, facts: FactSet | pd.DataFrame) -> FactSet:
        """A fact set as it is, or a table once it is checked."""
        return facts if isinstance(facts, FactSet) else cls(facts)

    @classmethod
    def from_answers(
        cls,
        rows: pd.DataFrame | Iterable[Mapping[str, Any]],
        n_alternatives: int = 3,
        left_out: Mapping[str, Mapping[str, int]] | None = None,
    ) -> Self:
        """A fact set whose wrong answers are other facts' answers to the same relation in the same language.

        They are drawn: the same facts' answers in every language, different ones, and of facts that have no right
        answer in common with this one, nor one that begins with the other ("Guinea", "Guinea-Bissau"); what another
        fact with the same prompt says is right, too. A row that has `alternatives` keeps those that are not right.
        Raises ValueError as `FactSet` does, and where a relation has too few answers.
        """
        table = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(rows))
        return cls(with_alternatives(table, n_alternatives), left_out)

    @property
    def table(self) -> pd.DataFrame:
        """A copy of the table, ordered by language and fact."""
        return self._table.copy()

    @property
    def languages(self) -> tuple[str, ...]:
        """Names of the languages, in order."""
        return tuple(self._table["language"].unique())

    @property
    def relations(self) -> tuple[str, ...]:
        """Names of the relations, in order."""
        return tuple(sorted(self._table["relation"].unique()))

    @property
    def facts(self) -> tuple[str, ...]:
        """Names of the facts, in order: the order of states' facts (`asking.states`)."""
        return tuple(self._table["fact"].unique())

    def __len__(self) -> int:
        """Questions: facts times languages."""
        return len(self._table)

    def select(
        self,
        languages: str | Sequence[str] | None = None,
        relations: str | Sequence[str] | None = None,
        facts: str | Sequence[str] | None = None,
    ) -> FactSet:
        """The fact set of some languages, relations and facts (None: all).

        Raises ValueError for a name that it does not have, and where nothing is left.
        """
        table = self._table
        for field, given, known in (
            ("languages", languages, self.languages),
            ("relations", relations, self.relations),
            ("facts", facts, self.facts),
        ):
            if given is not None:
                wanted = [given] if isinstance(given, str) else list(given)
                for name in wanted:
                    if name not in known:
                        raise ValueError(f"{field}={name!r}: the fact set has no such name.{suggest(str(name), known)}")
                table = table[table[field.removesuffix("s")].isin(wanted)]
        if table.empty:
            raise ValueError("nothing is left of the fact set; allowed: at least one fact in one language.")
        return FactSet(table, self.left_out)

    def _card(self) -> tuple[str, dict[str, str]]:
        first = self._table.iloc[0]
        numbers = self._table["alternatives"].map(len)
        low, high = numbers.min(), numbers.max()
        lines = {
            "facts": f"{len(self.facts)}, in each language",
            "languages": several(self.languages),
            "relations": several(self.relations),
            "wrong": f"{low} to a question" if low == high else f"{low} to {high} to a question",
        }
        if also := int((self._table["also_right"].map(len) > 0).sum()):
            lines["also right"] = f"other answers to {also} questions"
        if self.left_out:
            lines["left out"] = "; ".join(f"{sum(n.values())} rows {why}" for why, n in self.left_out.items())
        end = first["prompt"].split("\n")[-1]
        return f"FactSet of {len(self)} questions", {
            **lines,
            "for example": f"{'...' * (len(end) > 60)}{end[-60:]}{first['separator']}[{first['answer']}]",
        }


Facts: TypeAlias = FactSet | pd.DataFrame
"""What functions on facts take: a fact set, or a table of its columns."""


def check(facts: Facts) -> pd.DataFrame:
    """The table of a fact set, ordered by language and fact. Raises as `FactSet` does if it is none."""
    return FactSet.of(facts).table


def separator_after(prompt: str) -> str:
    """What stands between a prompt and its answer as people write: a blank, or nothing.

    >>> [ul.factsets.separator_after(prompt) for prompt in ("The answer is:", "答えは：", "日本の首都は", "c'est l'")]
    [' ', '', '', '']
    """
    end, before = prompt[-1:], prompt[-2:-1]
    wide = unicodedata.east_asian_width(end or " ") in "WF" and not unicodedata.name(end, "").startswith("HANGUL")
    unspaced = wide or unicodedata.name(end or " ", "").startswith(NO_SPACES)
    opens = unicodedata.category(end or "x") in ("Ps", "Pi")
    joined = end in "'’-‑" and before.isalpha()
    return "" if not end or end.isspace() or unspaced or opens or joined else " "


def bare(text: str) -> str:
    """A text as it is compared: without format marks that nobody sees, and with plain blanks.

    Joiners and non-joiners stay inside words, where they make other words.

    >>> ul.factsets.bare("Ivory\\u00a0Coast\\u200f")
    'Ivory Coast'
    """
    if text.isprintable():  # format marks and blanks of other kinds are not
        return text
    seen = (c for c in text if c in JOINERS or unicodedata.category(c) != "Cf")
    return "".join(" " if unicodedata.category(c) == "Zs" else c for c in seen).strip(f" {JOINERS}")


def _cleaned(table: pd.DataFrame, needed: Sequence[str]) -> pd.DataFrame:
    """The table with texts where texts are due, in order of columns; raises for a row that has none."""
    if not isinstance(table, pd.DataFrame):
        raise TypeError(
            f"facts is of type {type(table).__name__}; allowed: a FactSet, or a pandas table with the columns "
            f"{', '.join(needed)}."
        )
    if len(twice := table.columns[table.columns.duplicated()]):
        raise ValueError(f"the table of facts has two columns {twice[0]!r}; allowed: one of each name.")
    if missing := [name for name in needed if name not in table]:
        hint = " (FactSet.from_answers draws them)" * ("alternatives" in missing)
        raise ValueError(f"a fact set needs the columns {', '.join(needed)}; missing: {', '.join(missing)}{hint}.")
    if table.empty:
        raise ValueError("the table of facts has no rows; allowed: at least one fact in one language.")
    out = table.reset_index(drop=True)
    where = [f"row {row}" for row in out.index]
    for name in ("fact", "language"):
        out[name] = [_text(value, name, place) for value, place in zip(out[name], where, strict=True)]
    where = [f"fact {fact!r} in {lang!r}" for fact, lang in zip(out["fact"], out["language"], strict=True)]

    def cleaned(name: str, clean: Callable[[Any, str, str], Any]) -> pd.Series:
        values = [clean(value, name, place) for value, place in zip(out[name], where, strict=True)]
        return pd.Series(values, dtype=object if clean is _tuple else None)

    for name in ("relation", "subject", "answer"):
        out[name] = cleaned(name, _text)
    prompts = cleaned("prompt", _prompt)
    if "separator" not in out:
        out["separator"] = prompts.map(separator_after)
    joints = cleaned("separator", _separator)
    out["prompt"] = prompts.map(str.rstrip)
    out["separator"] = [
        _joint(prompt[len(stem) :] + joint) for prompt, stem, joint in zip(prompts, out["prompt"], joints, strict=True)
    ]
    if "also_right" not in out:
        out["also_right"] = [()] * len(out)
    rights = zip(cleaned("also_right", _tuple), out["answer"], strict=True)
    out["also_right"] = pd.Series([tuple(t for t in texts if t != answer) for texts, answer in rights], dtype=object)
    if "alternatives" in out:
        out["alternatives"] = cleaned("alternatives", _tuple)
    names = [name for name in ORDER if name in out]
    return out[[*names, *(name for name in out if name not in names)]]


def _text(value: Any, name: str, where: str) -> str:
    if not isinstance(value, str):
        missing = value is None or value is pd.NA or value != value
        what = "missing" if missing else f"{value!r}, of type {type(value).__name__}"
        raise ValueError(f"{name} of {where} is {what}; allowed: text.")
    text = unicodedata.normalize("NFC", value).strip()
    if not bare(text):
        raise ValueError(f"{name} of {where} is empty: {value!r}; allowed: text.")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name} of {where} is {value!r}, which holds half a character; allowed: text.") from None
    return text


def _prompt(value: Any, name: str, where: str) -> str:
    _text(value, name, where)
    return unicodedata.normalize("NFC", value).lstrip(" ")


def _separator(value: Any, name: str, where: str) -> str:
    if not isinstance(value, str) or value.strip():
        raise ValueError(f"{name} of {where} is {value!r}; allowed: blanks, or nothing ('').")
    return value


def _joint(blanks: str) -> str:
    """Several blanks in a row are a slip; line breaks and other blanks are meant."""
    return blanks if blanks.strip(" ") else blanks[:1]


def _tuple(values: Any, name: str, where: str) -> tuple[str, ...]:
    """Different texts, in order."""
    if hasattr(values, "tolist"):  # an array, as parquet gives lists
        values = plain(values)
    if not isinstance(values, (tuple, list)):
        raise ValueError(f"{name} of {where} is {values!r}; allowed: a tuple of texts.")
    texts: dict[str, str] = {}
    for value in values:
        text = _text(value, name, where)
        texts.setdefault(bare(text), text)
    return tuple(texts.values())


def right_answers(table: pd.DataFrame) -> pd.Series:
    """Tuples of the right answers of every row, its own first: those of all rows that ask the same."""
    questions = list(zip(table["language"], table["relation"], table["prompt"].map(bare), strict=True))
    own = [(answer, *also) for answer, also in zip(table["answer"], table["also_right"], strict=True)]
    of_question: dict[tuple[str, str, str], tuple[str, ...]] = {}
    for question, texts in zip(questions, own, strict=True):
        of_question[question] = of_question.get(question, ()) + texts
    right = [
        tuple(dict.fromkeys(texts + of_question[question])) for question, texts in zip(questions, own, strict=True)
    ]
    return pd.Series(right, table.index, dtype=object)


def _same_facts(table: pd.DataFrame) -> pd.DataFrame:
    """The table, if every fact stands once in every language, with one relation."""
    twice = table[table.duplicated(["fact", "language"])]
    if len(twice):
        fact, language = twice.iloc[0][["fact", "language"]]
        raise ValueError(f"fact {fact!r} stands twice in {language!r}; allowed: once.")
    by_language = table.groupby("language")["fact"].agg(set)
    everywhere = set().union(*by_language)
    for language, facts in by_language.items():
        if lacking := sorted(everywhere - facts):
            raise ValueError(
                f"languages {list(by_language.index)} have different facts: {language!r} lacks {len(lacking)} of "
                f"{len(everywhere)}, such as {lacking[0]!r}; allowed: the same in all."
            )
    pairs = table[["fact", "relation"]].drop_duplicates()
    if len(several_of := pairs[pairs["fact"].duplicated()]):
        fact = several_of["fact"].iloc[0]
        raise ValueError(
            f"fact {fact!r} has the relations {pairs.loc[pairs['fact'] == fact, 'relation'].tolist()}; allowed: one."
        )
    return table


def _consistent(table: pd.DataFrame) -> pd.DataFrame:
    """The table in order, if it is that of one set of facts and no right answer is among the wrong ones."""
    rows = zip(table["fact"], table["language"], right_answers(_same_facts(table)), table["alternatives"], strict=True)
    for fact, language, right, wrong in rows:
        if not wrong:
            raise ValueError(
                f"fact {fact!r} has no alternative in {language!r}: too few answers; allowed: one or more."
            )
        if both := _common(wrong, right):
            raise ValueError(
                f"fact {fact!r} in {language!r}: {min(both)!r} is right, and stands among the alternatives; allowed: "
                "wrong answers (what is right, too, belongs in `also_right`)."
            )
    return table.sort_values(["language", "fact"]).reset_index(drop=True)


def _common(wrong: Sequence[str], right: Sequence[str]) -> list[str]:
    """Wrong answers that are right."""
    known = set(map(bare, right))
    return [text for text in wrong if bare(text) in known]


def with_alternatives(table: pd.DataFrame, n_alternatives: int) -> pd.DataFrame:
    """A table of facts with wrong answers, as `FactSet.from_answers` says; those of a fact may be none."""
    if n_alternatives < 1:
        raise ValueError(f"n_alternatives={n_alternatives}: allowed: 1 or more.")
    table = _same_facts(_cleaned(table, COLUMNS[:-1]))
    right = right_answers(table)
    given = table["alternatives"] if "alternatives" in table else [()] * len(table)
    drawn = _drawn(table, n_alternatives)
    rows = zip(table["fact"], table["language"], given, right, strict=True)
    kept = [
        tuple(text for text in wrong if text not in _common(wrong, texts)) or drawn[fact, language]
        for fact, language, wrong, texts in rows
    ]
    return table.assign(
        also_right=right.map(lambda texts: texts[1:]), alternatives=pd.Series(kept, table.index, dtype=object)
    )


def _drawn(table: pd.DataFrame, n: int) -> dict[tuple[str, str], tuple[str, ...]]:
    """Wrong answers by fact and language: up to `n` other facts of the relation, the same in every language."""
    drawn: dict[tuple[str, str], tuple[str, ...]] = {}
    for _, same in table.groupby("relation"):
        said = same.pivot(index="fact", columns="language", values="answer")
        right = same.assign(right=right_answers(same)).pivot(index="fact", columns="language", values="right")
        answers = list(said.itertuples(index=False, name=None))
        words = [tuple(map(bare, row)) for row in answers]
        rights = [[frozenset(map(bare, texts)) for texts in row] for row in right.itertuples(index=False, name=None)]
        for number, fact in enumerate(said.index):
            others: list[int] = []
            for i in rng(0, f"alternatives to {fact}").permutation(len(answers)):
                if len(others) == n:
                    break
                new = all(words[i][k] != words[other][k] for other in others for k in range(len(words[i])))
                wrong = all(a.isdisjoint(b) for a, b in zip(rights[number], rights[i], strict=True))
                if new and wrong and not _begins(words[number], rights[number], words[i]):
                    others.append(i)
            for k, language in enumerate(said.columns):
                drawn[fact, language] = tuple(answers[i][k] for i in others)
    return drawn


def _begins(answers: Sequence[str], rights: Sequence[Iterable[str]], others: Sequence[str]) -> bool:
    """Whether in some language another answer begins with a right one, or the answer with the other."""
    return any(
        answer.startswith(other) or other.startswith(tuple(texts))
        for answer, texts, other in zip(answers, rights, others, strict=True)
    )


def from_cldr(
    languages: Sequence[str],
    relations: Sequence[Relation] = ("continent", "currency", "language"),
    per_relation: int = 40,
    shots: int = 4,
    seed: int = 0,
) -> FactSet:
    """Countries and what is true of them as few-shot prompts: `shots` lines of country and answer, then a country.

    Countries are members of the United Nations. The examples of a relation are the same facts in all languages, have
    different answers, and are not asked. At most `per_relation` facts are drawn, as evenly over answers as there are.
    Raises ValueError for a language without data, and a relation with too few facts or answers.
    """
    table = cldr.facts(languages, relations, min_countries=3, romanised=False, leaks=True)
    table = table[table["country"].isin(cldr.un_members())]
    rows: list[dict[str, Any]] = []
    for relation in relations:
        of_relation = table[table["relation"] == relation]
        of_relation = of_relation.iloc[rng(seed, f"order of {relation}").permutation(len(of_relation))]
        turn = of_relation.groupby("answer").cumcount()  # one of every answer first
        of_relation = of_relation.iloc[np.argsort(turn, kind="stable")]
        examples, asked = of_relation.iloc[:shots], of_relation.iloc[shots : shots + per_relation]
        answers = sorted(of_relation["answer"].unique())
        if examples["answer"].nunique() < shots or len(asked) < 2:
            raise ValueError(
                f"relation {relation!r} has {len(of_relation)} facts and {len(answers)} answers; allowed: more than "
                f"shots={shots} of both"
            )
        for language in languages:
            said = {answer: _plain(cldr.name(language, relation, answer)) for answer in answers}
            called = {code: _plain(cldr.name(language, "country", code)) for code in of_relation["country"]}
            before = "".join(
                f"{called[c]}: {said[a]}\n" for c, a in zip(*examples[["country", "answer"]].values.T, strict=True)
            )
            rows += [
                {
                    "fact": f"{relation} {country}",
                    "relation": relation,
                    "language": language,
                    "subject": called[country],
                    "prompt": f"{before}{called[country]}:",
                    "separator": " ",
                    "answer": said[answer],
                    "alternatives": tuple(said[other] for other in answers if other != answer),
                }
                for country, answer in zip(asked["country"], asked["answer"], strict=True)
            ]
    return FactSet(pd.DataFrame(rows))


def _plain(word: str) -> str:
    return word.replace("_", " ")
