"""Questions about the same facts in several languages, for models that others trained.

A fact set is a table with one row for each fact in each language: `fact`, `relation`, `language`, `subject`, `prompt`
(text up to the answer), `answer` and `alternatives` (what else could be answered to that relation, in that language).
Sets that come from a hub are read from local files of the same schema, and fetched only by `datasets` if asked to.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from unifylens.config import Relation
from unifylens.corpus import cldr
from unifylens.seeds import rng

COLUMNS = ("fact", "relation", "language", "subject", "prompt", "answer", "alternatives")
SUBJECT, MASK = "<subject>", "<mask>"
HUBS = {
    "eclektic": {"path": "ura-hcmut/ECLeKTic", "data_files": "eclektic_main.jsonl"},
    "mlama": {"path": "atutej/m_lama"},
}
"""Copies that a hub has, as `datasets.load_dataset` takes them."""


def from_cldr(
    languages: Sequence[str],
    relations: Sequence[Relation] = ("continent", "currency", "language"),
    per_relation: int = 40,
    shots: int = 4,
    seed: int = 0,
) -> pd.DataFrame:
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
                    "answer": said[answer],
                    "alternatives": tuple(said[other] for other in answers if other != answer),
                }
                for country, answer in zip(asked["country"], asked["answer"], strict=True)
            ]
    return check(pd.DataFrame(rows, columns=COLUMNS))


def _plain(word: str) -> str:
    return word.replace("_", " ")


def read_klar(folder: str | Path, languages: Sequence[str] | None = None, n_alternatives: int = 3) -> pd.DataFrame:
    """KLAR (Wang et al. 2025): `{language}/{relation}.json` with `prompt_templates` and `samples` (subject, object).

    The first template is used; sample i of a relation is the same fact in every language.
    """
    folder = _there(folder, "KLAR")
    languages = sorted(p.name for p in folder.iterdir() if p.is_dir()) if languages is None else languages
    rows = []
    for language in languages:
        files = sorted((folder / language).glob("*.json"))
        if not files:
            raise ValueError(f"language {language!r}: no {folder / language}/*.json; allowed: languages with files")
        for file in files:
            content = json.loads(file.read_text(encoding="utf-8"))
            template = _field(content, "prompt_templates", file)[0]
            samples = _field(content, "samples", file)
            for number, sample in enumerate(samples):
                subject, answer = _field(sample, "subject", file), _field(sample, "object", file)
                prompt = template.replace(SUBJECT, subject).split(MASK)[0].rstrip()
                rows.append((f"{file.stem} {number}", file.stem, language, subject, prompt, answer))
    return _with_alternatives(rows, n_alternatives)


def read_eclektic(
    file: str | Path | None = None,
    languages: Sequence[str] | None = None,
    *,
    hub: bool = False,
    n_alternatives: int = 3,
) -> pd.DataFrame:
    """ECLeKTic: rows with `q_id`, `original_lang`, and `{language}_q`, `{language}_a` for every language.

    Alternatives are other questions' answers in that language. `original` is where the article was.
    Raises ValueError for a column or language that is not there, and where no fact is there in all languages.
    """
    table = _records(file, "eclektic", hub, ("q_id", "original_lang"))
    known = [name[:-2] for name in table if name.endswith("_q") and f"{name[:-2]}_a" in table]
    original = table.set_index(table["q_id"].astype(str))["original_lang"]
    titles = table["title"] if "title" in table else [""] * len(table)
    rows = [
        (str(fact), "question", language, title, question, answer)
        for language in _chosen(languages, known)
        for fact, title, question, answer in zip(
            table["q_id"], titles, table[f"{language}_q"], table[f"{language}_a"], strict=True
        )
        if question and answer
    ]
    return _with_alternatives(rows, n_alternatives).assign(original=lambda d: d["fact"].map(original))


def read_mlama(
    file: str | Path | None = None,
    languages: Sequence[str] | None = None,
    *,
    hub: bool = False,
    n_alternatives: int = 3,
) -> pd.DataFrame:
    """mLAMA: rows with `language`, `predicate_id`, `lineid`, `template` (`[X]`, `[Y]`), `sub_label`, `obj_label`.

    Only templates that end with the object make prompts for a model that reads from left to right: name `languages` in
    which that is usual, or few facts are there in all.
    Raises ValueError for a column or language that is not there, and where no fact is there in all languages.
    """
    columns = ["language", "predicate_id", "lineid", "template", "sub_label", "obj_label"]
    table = _records(file, "mlama", hub, columns)
    rows = []
    for values in table.loc[table["language"].isin(_chosen(languages, table["language"].unique())), columns].values:
        language, relation, line, template, subject, answer = values
        before, _, after = template.partition("[Y]")
        if not after.strip(" .。।") and "[X]" in before:
            prompt = before.replace("[X]", subject).rstrip()
            rows.append((f"{relation} {line}", relation, language, subject, prompt, answer))
    return _with_alternatives(rows, n_alternatives)


def _chosen(languages: Sequence[str] | None, known: Sequence[str]) -> list[str]:
    if unknown := sorted(set(languages or ()) - set(known)):
        raise ValueError(f"languages: no rows in {', '.join(unknown)}; allowed: {', '.join(sorted(known))}")
    return list(known if languages is None else languages)


def _records(file: str | Path | None, name: str, hub: bool, columns: Sequence[str]) -> pd.DataFrame:
    """Rows of a local file (JSON lines, parquet or CSV), or of the hub's copy; what is missing is an empty text."""
    if file is not None:
        path = _there(file, name)
        read = {".jsonl": _read_jsonl, ".parquet": pd.read_parquet, ".csv": _read_csv}.get(path.suffix)
        if read is None:
            raise ValueError(f"{path}: allowed are .jsonl, .parquet and .csv")
        table = read(path)
    elif hub:
        table = _fetched(**HUBS[name])
    else:
        raise ValueError(f"{name}: give a local file of its schema, or hub=True to download {HUBS[name]['path']}")
    if missing := [column for column in columns if column not in table]:
        raise ValueError(
            f"{name if file is None else file}: a row lacks {missing[0]!r}; it has {', '.join(map(str, table))}"
        )
    return table.astype(object).where(table.notna(), "")


def _read_jsonl(path: Path) -> pd.DataFrame:
    lines = path.read_text(encoding="utf-8").splitlines()
    return pd.DataFrame([json.loads(line) for line in lines if line.strip()])


def _read_csv(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype=str, keep_default_na=False)  # years stay texts, and so does the code of Namibia


def _fetched(**where: str) -> pd.DataFrame:
    try:
        import datasets

        splits = datasets.load_dataset(**where)
    except ImportError:
        raise ImportError("datasets is not installed: pip install 'unifylens[models]'") from None
    except Exception as error:
        raise ConnectionError(
            f"{where['path']} could not be fetched ({error}); allowed: a local file of its schema"
        ) from error
    return pd.concat([split.to_pandas() for split in splits.values()], ignore_index=True)


def _there(path: str | Path, name: str) -> Path:
    path = Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"{name}: {path} does not exist")
    return path


def _field(row: dict[str, Any], name: str, where: object) -> Any:
    if name not in row:
        raise ValueError(f"{where}: a row lacks {name!r}; it has {', '.join(map(str, row))}")
    return row[name]


def _with_alternatives(rows: list[tuple], n: int) -> pd.DataFrame:
    """Add other answers to the same relation in the same language, the same facts' answers in every language."""
    table = _once(pd.DataFrame(rows, columns=COLUMNS[:-1]))
    counts = table.groupby("fact")["language"].nunique()
    table = table[table["fact"].map(counts) == table["language"].nunique()]  # what all languages have
    if table.empty:
        raise ValueError("no fact is there in all languages; allowed: fewer languages")
    alternatives: dict[tuple[str, str], tuple[str, ...]] = {}
    for _, same in table.groupby("relation"):
        said = same.pivot(index="fact", columns="language", values="answer")
        columns = {language: said[language].tolist() for language in said}
        for row, fact in enumerate(said.index):
            others = rng(0, f"alternatives to {fact}").permutation(len(said))
            for language, answers in columns.items():
                alternatives[fact, language] = _other_answers((answers[i] for i in others), answers[row], n)
    keys = zip(table["fact"], table["language"], strict=True)
    return check(table.assign(alternatives=[alternatives[key] for key in keys]).reset_index(drop=True))


def _other_answers(answers: Iterable[str], right: str, n: int) -> tuple[str, ...]:
    """The first `n` different ones that are not right."""
    answers_in_order: dict[str, None] = {}
    for answer in answers:
        if len(answers_in_order) == n:
            break
        if answer != right:
            answers_in_order[answer] = None
    return tuple(answers_in_order)


def _once(table: pd.DataFrame) -> pd.DataFrame:
    twice = table[table.duplicated(["fact", "language"])]
    if len(twice):
        raise ValueError(f"fact {twice['fact'].iloc[0]!r} stands twice in {twice['language'].iloc[0]!r}; allowed: once")
    return table


def check(table: pd.DataFrame) -> pd.DataFrame:
    """The table, ordered by language and fact. Raises ValueError, naming what is wrong, if it is no fact set."""
    missing = [name for name in COLUMNS if name not in table]
    if missing:
        raise ValueError(f"a fact set needs the columns {', '.join(COLUMNS)}; missing: {', '.join(missing)}")
    by_language = _once(table).groupby("language")["fact"].agg(frozenset)
    if by_language.nunique() > 1:
        raise ValueError(f"languages {list(by_language.index)} have different facts; allowed: the same in all")
    if (alone := table[table["alternatives"].map(len) == 0]).size:
        fact = alone.iloc[0]
        raise ValueError(f"fact {fact['fact']!r} has no alternative in {fact['language']!r}: too few answers")
    return table.sort_values(["language", "fact"]).reset_index(drop=True)
