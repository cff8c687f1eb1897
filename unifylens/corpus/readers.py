"""Readers of benchmarks: files as their authors publish them become a `FactSet`.

| benchmark | reader | layout |
| --- | --- | --- |
| KLAR (Wang et al. 2025) | `read_klar` | `{language}/{relation}.json` |
| ECLeKTic (Goldman et al. 2025) | `read_eclektic` | one table, a column a language |
| mLAMA (Kassner et al. 2021) | `read_mlama` | `{language}/templates.jsonl` and `{relation}.jsonl`, or one table |
| mParaRel (Fierro and Søgaard 2022) | `read_mpararel` | `patterns/{language}/` and `tuples/{language}/` |
| BMLAMA (Qi et al. 2023) | `read_bmlama` | `{language}.tsv` |
| BMIKE-53 (Nie et al. 2025) | `read_bmike` | JSON, an object a question, by language |
| LRE (Hernandez et al. 2024) | `read_lre` | `{relation}.json`, in English |

Facts that not all languages have, and templates that do not end with the object (no prompts for a model that reads from
left to right), are left out and counted (`FactSet.left_out`). A language of which nothing is left is an error.
"""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from unifylens.arguments import plain
from unifylens.corpus import files
from unifylens.corpus.factsets import FactSet, bare, right_answers, separator_after, with_alternatives

HUBS = {
    "eclektic": {"path": "ura-hcmut/ECLeKTic", "data_files": "eclektic_main.jsonl"},
    "mlama": {"path": "atutej/m_lama"},
}
"""Copies that a hub has, as `datasets.load_dataset` takes them."""
NOT_EVERYWHERE = "of facts that not all languages have"
NO_WRONG = "of facts without a wrong answer"
NOT_LAST = "whose template does not end with the object"
NOT_ASKED = "without question or answer"

Row = dict[str, Any]
LeftOut = dict[str, Counter[str]]
"""Numbers of rows, such as of those that are left out: by reason, then by language."""


def read_klar(
    folder: str | Path, languages: Sequence[str] | None = None, *, template: int = 0, n_alternatives: int = 3
) -> FactSet:
    """KLAR: files with `prompt_templates` (`<subject>`, `<mask>`) and `samples` (`subject`, `object`, `index`).

    `template` is the number of the template; a sample's `index` says which fact it is. Wrong answers are a sample's
    `object_candidates`, all of them; where it has none, `n_alternatives` are drawn.
    Raises ValueError, naming the file, for a template that does not end with `<mask>`, and samples that cannot be
    matched.
    """
    folder = files.there(folder, "KLAR")
    names = _subfolders(folder, languages)
    rows: list[Row] = []
    unnumbered: LeftOut = defaultdict(Counter)  # samples without `index`, by relation and language
    for language in names:
        for file in _inside(folder / language, "*.json"):
            content = files.json_value(file)
            text = _klar_template(_templates(content, "prompt_templates", template, file), template, file)
            samples = files.field(content, "samples", file)
            if not isinstance(samples, list):
                raise ValueError(f"{file}: samples is {samples!r:.60}; allowed: a list of objects.")
            places = [f"{file}, sample {number}" for number in range(len(samples))]
            objects = [
                _answered(files.field(s, "object", where), where) for s, where in zip(samples, places, strict=True)
            ]
            known = {name for said in objects for name in (said["answer"], *said["also_right"])}
            numbers = [_index(sample.get("index"), where) for sample, where in zip(samples, places, strict=True)]
            if lacking := numbers.count(None):
                if lacking < len(samples):
                    raise ValueError(f"{file}: {lacking} samples lack 'index', others have it; allowed: all or none.")
                unnumbered[file.stem][language] = lacking
            for number, (sample, said, where) in enumerate(zip(samples, objects, places, strict=True)):
                subject = _said(files.field(sample, "subject", where), where)
                rows.append(
                    _row(f"{file.stem} {number if lacking else numbers[number]}", file.stem, language, subject)
                    | _filled(text, subject, "<subject>", "<mask>")
                    | said
                    | {"alternatives": _candidates(sample.get("object_candidates"), known, where)}
                )
    for relation, without in unnumbered.items():
        each = Counter(row["language"] for row in rows if row["relation"] == relation)
        if len(set(each.values())) > 1 or set(each) != set(without):
            counts = ", ".join(f"{language}: {n}" for language, n in each.items())
            raise ValueError(
                f"{folder}: samples of {relation!r} have no 'index' in {', '.join(without)}, so they cannot be matched "
                f"({counts}); allowed: an 'index' for each, or none at all and equal numbers in one order."
            )
    return _facts(rows, n_alternatives, {}, names)


def _index(value: Any, where: str) -> str | None:
    """The number of a fact; None where there is none, as pandas writes NaN, and with it other numbers as floats."""
    if value is None or value != value:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return _said(value, f"{where}, index")


def _templates(content: Any, field: str, number: int, file: Path) -> list[str]:
    """Templates of a file, if there are so many."""
    templates = files.field(content, field, file)
    if not isinstance(templates, list) or not all(isinstance(text, str) for text in templates):
        raise ValueError(f"{file}: {field} is {templates!r:.80}; allowed: a list of texts.")
    if type(plain(number)) is not int or not 0 <= number < len(templates):
        allowed = f"0 to {len(templates) - 1}" if templates else "files with some"
        raise ValueError(f"template={number!r}: {file} has {len(templates)} in {field}; allowed: {allowed}.")
    return templates


def _klar_template(templates: list[str], number: int, file: Path) -> str:
    text = templates[number]
    if not _ends_with(text, "<subject>", "<mask>"):
        fine = [str(i) for i, other in enumerate(templates) if _ends_with(other, "<subject>", "<mask>")]
        raise ValueError(
            f"{file}: template {number} is {text!r}; allowed: one <subject>, then one <mask>, and nothing but "
            f"punctuation after it (of this file: {', '.join(fine) or 'none'}). Files with {{}} are LRE's (read_lre), "
            "with [X] and [Y] mLAMA's (read_mlama)."
        )
    return text


def read_eclektic(
    file: str | Path | None = None,
    languages: Sequence[str] | None = None,
    *,
    hub: bool = False,
    n_alternatives: int = 3,
) -> FactSet:
    """ECLeKTic: rows with `q_id`, `original_lang`, and `{language}_q`, `{language}_a` for every language.

    Alternatives are other questions' answers in that language. `original` is where the article was.
    Raises ValueError for a column or language that is not there, and where no fact is there in all languages.
    """
    table = _records(file, "eclektic", hub, ("q_id", "original_lang"))
    known = [name[:-2] for name in table if name.endswith("_q") and f"{name[:-2]}_a" in table]
    titles = table["title"] if "title" in table else [None] * len(table)
    rows: list[Row] = []
    left_out: LeftOut = defaultdict(Counter)
    names = _chosen(languages, known, file or "ECLeKTic")
    for language in names:
        for fact, original, title, question, answer in zip(
            table["q_id"], table["original_lang"], titles, table[f"{language}_q"], table[f"{language}_a"], strict=True
        ):
            if question is None or answer is None or not str(question).strip() or not str(answer).strip():
                left_out[NOT_ASKED][language] += 1
                continue
            where = f"{file or 'ECLeKTic'}, q_id {fact}, {language}"
            rows.append(
                _row(str(fact), "question", language, _said(title if title else question, where))
                | {"prompt": _said(question, where), "original": original}
                | _answered(answer, where)
            )
    return _facts(rows, n_alternatives, left_out, names)


def read_mlama(
    path: str | Path | None = None,
    languages: Sequence[str] | None = None,
    *,
    hub: bool = False,
    n_alternatives: int = 3,
) -> FactSet:
    """mLAMA: the folder of its archive, or one table.

    Columns of the table: `language`, `predicate_id`, `lineid`, `template` (`[X]`, `[Y]`), `sub_label`, `obj_label`; in
    the archive `{language}/templates.jsonl` has `relation` and `template`, and `{language}/{relation}.jsonl` the rest.
    Facts are matched by `sub_uri` and `obj_uri`, where rows have them, else by `lineid`. Name `languages` in which
    templates end with the object, or few facts are there in all.
    Raises ValueError for a column or language that is not there, languages no template of which ends with the object,
    and a relation that has URIs in some languages only.
    """
    if path is not None and Path(path).expanduser().is_dir():
        return _mlama_archive(Path(path).expanduser(), languages, n_alternatives)
    table = _records(path, "mlama", hub, ("language", "predicate_id", "lineid", "template", "sub_label", "obj_label"))
    for column in ("language", "predicate_id"):
        if lacking := int(table[column].isna().sum()):
            raise ValueError(f"{path or 'mLAMA'}: {lacking} rows have no {column!r}; allowed: a text.")
    names = _chosen(languages, table["language"].unique(), path or "mLAMA")
    rows = table[table["language"].isin(names)].to_dict("records")
    triples = ((row["language"], str(row["predicate_id"]), row["template"], row) for row in rows)
    return _from_templates(triples, names, n_alternatives, str(path or "mLAMA"))


def _mlama_archive(folder: Path, languages: Sequence[str] | None, n_alternatives: int) -> FactSet:
    names = _subfolders(folder, languages)
    triples = []
    for language in names:
        file = _inside(folder / language, "templates.jsonl")[0]
        for relation, text in files.records(file, ("relation", "template"))[["relation", "template"]].values:
            if (facts := folder / language / f"{relation}.jsonl").exists():
                rows = files.records(facts, ("sub_label", "obj_label", "lineid")).to_dict("records")
                triples += [(language, relation, text, row) for row in rows]
    return _from_templates(triples, names, n_alternatives, str(folder))


def read_mpararel(
    folder: str | Path, languages: Sequence[str] | None = None, *, template: int = 0, n_alternatives: int = 3
) -> FactSet:
    """mParaRel: `patterns/{language}/{relation}.jsonl` (`pattern` with `[X]`, `[Y]`) and `tuples/` (as mLAMA's rows).

    `template` counts those patterns of a relation that end with the object; where there are fewer, the relation is left
    out. Raises ValueError as `read_mlama` does.
    """
    folder = files.there(folder, "mParaRel")
    if type(plain(template)) is not int or template < 0:
        raise ValueError(f"template={template!r}: allowed: 0 or more.")
    names = _subfolders(_folder(folder / "patterns", "mParaRel"), languages)
    triples = []
    for language in names:
        for file in _inside(folder / "tuples" / language, "*.jsonl"):
            patterns = folder / "patterns" / language / file.name
            if not patterns.exists():
                continue
            texts = files.records(patterns, ("pattern",))["pattern"].tolist()
            last = [text for text in texts if _ends_with(text, "[X]", "[Y]")]
            text = last[template] if template < len(last) else None
            rows = files.records(file, ("sub_label", "obj_label", "lineid")).to_dict("records")
            triples += [(language, file.stem, text, row) for row in rows]
    return _from_templates(triples, names, n_alternatives, str(folder))


def _from_templates(
    triples: Iterable[tuple[str, str, Any, Mapping[str, Any]]], languages: Sequence[str], n: int, where: str
) -> FactSet:
    """Facts from (language, relation, template, row) of mLAMA's kind."""
    rows: dict[tuple[str, str], Row] = {}
    left_out: LeftOut = defaultdict(Counter)
    named: LeftOut = defaultdict(Counter)  # rows with URIs, by relation and language
    for language, relation, text, row in triples:
        if not isinstance(text, str) or not _ends_with(text, "[X]", "[Y]"):
            left_out[NOT_LAST][language] += 1
            continue
        uris = [row.get("sub_uri"), row.get("obj_uri")]
        named[relation][language] += all(uris)
        key = " ".join(map(str, [relation, *uris] if all(uris) else [relation, row["lineid"]]))
        place = f"{where}: {language}, {relation}, lineid {row['lineid']}"
        subject = _said(row["sub_label"], place)
        new = (
            _row(key, relation, language, subject)
            | _filled(text, subject, "[X]", "[Y]")
            | _answered(row["obj_label"], place)
        )
        if rows.setdefault((key, language), new) != new:
            raise ValueError(f"{where}: fact {key!r} stands twice in {language!r}; allowed: once.")
    for relation, counts in named.items():
        if (without := [language for language, n in counts.items() if not n]) and any(counts.values()):
            others = ", ".join(language for language in counts if language not in without)
            raise ValueError(
                f"{where}: rows of {relation!r} have 'sub_uri' and 'obj_uri' in {others}, not in {', '.join(without)}, "
                "so they cannot be matched; allowed: both in all languages, or in none (then 'lineid' matches)."
            )
    return _facts(list(rows.values()), n, left_out, languages)


def read_bmlama(folder: str | Path, languages: Sequence[str] | None = None) -> FactSet:
    """BMLAMA: `{language}.tsv` with a prompt that holds `<mask>`, the answer, candidates and the subject.

    Line i is the same fact in every language. Wrong answers are a line's candidates, all of them. A relation is named
    by its prompt in English (else in the first language), with `[X]` for the subject and `[Y]`
    for the answer.
    Raises ValueError for files of different length, and languages no prompt of which ends with the object.
    """
    folder = files.there(folder, "BMLAMA")
    known = [file.stem for file in _inside(folder, "*.tsv")]
    names = _chosen(languages, known, folder)
    lines = {language: files.separated(folder / f"{language}.tsv", "\t")[1:] for language in names}
    if len({len(rows) for rows in lines.values()}) > 1:
        counts = ", ".join(f"{language}: {len(rows)}" for language, rows in lines.items())
        raise ValueError(f"{folder}: line i is one fact, and files have different lengths ({counts}); allowed: equal.")
    rows: list[Row] = []
    left_out: LeftOut = defaultdict(Counter)
    relations = [
        row[0].replace(row[-1], "[X]").replace("<mask>", "[Y]") for row in lines["en" if "en" in lines else names[0]]
    ]
    for language, table in lines.items():
        file = folder / f"{language}.tsv"
        for number, row in enumerate(table):
            if len(row) != 4:
                raise ValueError(f"{file}, line {number + 2} has {len(row)} fields; allowed: 4.")
            prompt, answer, candidates, subject = row
            if not _ends_with(prompt, None, "<mask>"):
                left_out[NOT_LAST][language] += 1
                continue
            right = _answers(answer, file)
            rows.append(
                _row(f"line {number}", relations[number], language, subject)
                | _filled(prompt, "", None, "<mask>")
                | _answered(answer, file)
                | {"alternatives": _candidates(candidates, set(right), f"{file}, line {number + 2}")}
            )
    return _facts(rows, 3, left_out, names)


def read_bmike(
    paths: str | Path | Sequence[str | Path],
    languages: Sequence[str] | None = None,
    *,
    answer: Literal["old", "alt"] = "old",
    n_alternatives: int = 3,
) -> FactSet:
    """BMIKE-53: files of objects that hold a question by language (`case_id`, `subject`, `src`, `old`, `alt`).

    `answer` is the field that is right: `old`, before the edit (zsRE has none), or `alt`. The first alternative is the
    other of the two (in WikiFactDiff `alt` is what became true later), the others are other questions' answers.
    Raises ValueError for a language or answer that is not there.
    """
    if answer not in ("old", "alt"):
        raise ValueError(f"answer={answer!r}: allowed: 'old', 'alt'.")
    if isinstance(languages, str):
        languages = [languages]
    rows: dict[tuple[str, str], Row] = {}
    known: set[str] = set()
    for path in [paths] if isinstance(paths, (str, Path)) else paths:
        file = files.there(path, "BMIKE-53")
        entries = files.json_value(file)
        for number, entry in enumerate(entries if isinstance(entries, list) else [entries], 1):
            where = f"{file}, entry {number}"
            if not isinstance(entry, dict):
                raise ValueError(f"{where} is no object of questions by language.")
            known.update(entry)
            for language, question in entry.items():
                if languages is not None and language not in languages:
                    continue
                place = f"{where}, {language}"
                values = {name: files.field(question, name, place) for name in ("case_id", "subject", "src", answer)}
                other = question.get("alt" if answer == "old" else "old")
                new = (
                    _row(str(values["case_id"]), "question", language, _said(values["subject"], place))
                    | {"prompt": _said(values["src"], place), "other": "" if other is None else _said(other, place)}
                    | _answered(values[answer], place)
                )
                if rows.setdefault((new["fact"], language), new) != new:
                    raise ValueError(f"{place}: case_id {new['fact']} stands twice, with other words; allowed: once.")
    names = _chosen(languages, sorted(known), "BMIKE-53")
    facts = _facts(list(rows.values()), n_alternatives, {}, names)
    table = facts.table
    table["alternatives"] = [
        wrong if bare(other) in map(bare, ("", said, *also)) else (other, *(t for t in wrong if bare(t) != bare(other)))
        for wrong, other, said, also in table[["alternatives", "other", "answer", "also_right"]].values
    ]
    return FactSet(table.drop(columns="other"), facts.left_out)


def read_lre(
    path: str | Path,
    *,
    template: int = 0,
    zero_shot: bool = False,
    language: str = "en",
    n_alternatives: int = 3,
) -> FactSet:
    """LRE: a file, or a folder of files, with `prompt_templates` (`{}`; the object follows) and `samples`.

    `template` is the number of the template, whose blanks at the end stand before the object (one blank where it has
    none); `zero_shot` takes those of `prompt_templates_zs`.
    Raises ValueError, naming the file, for a template without one `{}`.
    """
    path, field = files.there(path, "LRE"), "prompt_templates_zs" if zero_shot else "prompt_templates"
    rows: list[Row] = []
    for file in [path] if path.is_file() else _inside(path, "**/*.json"):
        name = (file.relative_to(path) if path.is_dir() else Path(file.name)).with_suffix("").as_posix()
        content = files.json_value(file)
        relation = str(content.get("name", file.stem)) if isinstance(content, dict) else file.stem
        if (text := _templates(content, field, template, file)[template]).count("{}") != 1:
            raise ValueError(f"{file}: template {template} is {text!r}; allowed: one {{}} (KLAR's files: read_klar).")
        for number, sample in enumerate(files.field(content, "samples", file)):
            where = f"{file}, sample {number}"
            subject = _said(files.field(sample, "subject", where), where)
            prompt = text.replace("{}", subject)
            stem = prompt.rstrip()
            rows.append(
                _row(f"{name} {number}", relation, language, subject)
                | {"prompt": stem, "separator": prompt[len(stem) :] or separator_after(stem)}
                | _answered(files.field(sample, "object", where), where)
            )
    return _facts(rows, n_alternatives, {}, [language])


# --- what readers share --------------------------------------------------------------------------------------


def _row(fact: str, relation: str, language: str, subject: str) -> Row:
    return {"fact": fact, "relation": relation, "language": language, "subject": subject}


def _said(value: Any, where: object) -> str:
    """A text, one word in one coding; a whole number is its digits. Raises ValueError for anything else."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{where}: {value!r} stands where a text is due.")
    return unicodedata.normalize("NFC", value).strip()


def _answers(value: Any, where: object) -> list[str]:
    """The right answers, the one to ask for first. Raises ValueError where there is none."""
    value = plain(value) if hasattr(value, "tolist") else value
    if isinstance(value, (list, tuple)) and not value:
        raise ValueError(f"{where}: the list of answers is empty; allowed: a text, or a list of texts.")
    return [_said(text, where) for text in (value if isinstance(value, (list, tuple)) else [value])]


def _answered(value: Any, where: object) -> Row:
    first, *others = _answers(value, where)
    return {"answer": first, "also_right": tuple(others)}


def _candidates(value: Any, known: set[str], where: object) -> tuple[str, ...]:
    """Candidates as a list, or as one text with commas; `known` names keep the commas that are theirs."""
    if value is None:
        return ()
    if not isinstance(value, str):
        return tuple(_answers(value, where))
    parts, names = [_said(part, where) for part in value.split(", ") if part.strip()], []
    while parts:
        n = next((n for n in range(len(parts), 1, -1) if ", ".join(parts[:n]) in known), 1)
        names.append(", ".join(parts[:n]))
        parts = parts[n:]
    return tuple(names)


def _ends_with(template: str, subject: str | None, mask: str) -> bool:
    """Whether a template holds the subject (None: it is filled in) and then the object, and ends with it."""
    before, _, after = template.partition(mask)
    one = template.count(mask) == 1 and (subject is None or template.count(subject) == before.count(subject) == 1)
    return one and bool(before.strip()) and not any(c.isalnum() for c in after)


def _filled(template: str, subject: str, hole: str | None, mask: str) -> Row:
    """The prompt, and what the template has between it and the answer."""
    before = template.partition(mask)[0]
    stem = before.rstrip()
    return {
        "prompt": stem.replace(hole, subject) if hole else stem,
        "separator": before[len(stem) :],
    }


def _folder(path: Path, what: str) -> Path:
    if not files.there(path, what).is_dir():
        raise ValueError(f"{what}: {path} is a file; allowed: a folder.")
    return path


def _subfolders(folder: Path, languages: Sequence[str] | None) -> list[str]:
    known = sorted(path.name for path in _folder(folder, "languages").iterdir() if path.is_dir())
    return _chosen(languages, [name for name in known if not name.startswith(".")], folder)


def _inside(folder: Path, pattern: str) -> list[Path]:
    found = sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))
    if not found:
        raise ValueError(f"{folder}: no {pattern} there; allowed: a folder that has some.")
    return found


def _chosen(languages: Sequence[str] | None, known: Sequence[str], where: object) -> list[str]:
    if isinstance(languages, str):
        languages = [languages]
    if unknown := sorted(set(languages or ()) - set(known)):
        raise ValueError(f"languages: {where} has no {', '.join(unknown)}; allowed: {', '.join(sorted(known))}.")
    names = list(dict.fromkeys(known if languages is None else languages))
    if not names:
        raise ValueError(f"languages: {where} has none." if languages is None else "languages is empty.")
    return names


def _facts(rows: list[Row], n_alternatives: int, left_out: LeftOut, languages: Sequence[str]) -> FactSet:
    """The fact set of what all languages have."""
    table = pd.DataFrame(rows, columns=None if rows else ["language"])
    there = sorted(set(table["language"]))
    if nothing := [language for language in languages if language not in there]:
        reasons = "; ".join(
            f"{counts[nothing[0]]} rows {why}" for why, counts in left_out.items() if nothing[0] in counts
        )
        raise ValueError(
            f"languages: nothing is left of {', '.join(nothing)} ({nothing[0]}: {reasons or 'no rows'}); allowed: "
            f"{', '.join(there) or 'none of these'}."
        )
    twice = table[table.duplicated(["fact", "language"])]
    if len(twice):
        fact, language = twice.iloc[0][["fact", "language"]]
        raise ValueError(f"fact {fact!r} stands twice in {language!r}; allowed: once.")
    # before facts are left out: what they say of the same question is right all the same
    table["also_right"] = right_answers(table).map(lambda texts: texts[1:])
    counts = table["fact"].map(table.groupby("fact")["language"].nunique())
    everywhere = counts == len(there)
    if not everywhere.any():
        each = ", ".join(f"{language}: {n}" for language, n in table["language"].value_counts().sort_index().items())
        raise ValueError(f"no fact is there in all languages ({each}); allowed: fewer languages.")
    left_out = dict(left_out)
    if not everywhere.all():
        left_out[NOT_EVERYWHERE] = Counter(table.loc[~everywhere, "language"])
    table = with_alternatives(table[everywhere], n_alternatives)
    alone = table["fact"].isin(table.loc[table["alternatives"].map(len) == 0, "fact"])
    if alone.all():
        raise ValueError("no fact has a wrong answer: every relation has too few answers; allowed: two or more.")
    if alone.any():
        left_out[NO_WRONG] = Counter(table.loc[alone, "language"])
    return FactSet(table[~alone], left_out)


def _records(file: str | Path | None, name: str, hub: bool, columns: Sequence[str]) -> pd.DataFrame:
    """Rows of a local file, or of the hub's copy."""
    if file is not None:
        return files.records(files.there(file, name), columns)
    if not hub:
        raise ValueError(f"{name}: give a local file of its schema, or hub=True to download {HUBS[name]['path']}")
    table = _fetched(**HUBS[name])
    if missing := [column for column in columns if column not in table]:
        raise ValueError(f"{name}: a row lacks {missing[0]!r}; it has {', '.join(map(str, table))}.")
    return table.astype(object).where(table.notna(), None)


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
