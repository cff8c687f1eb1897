"""Facts about countries, and what people call them: Unicode CLDR (through `babel`) and the UN's M49 regions.

Needs the extra `real`: `pip install "unifylens[real]"`. Nothing is downloaded.
"""

from __future__ import annotations

import importlib.util
import unicodedata
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from unifylens import environment
from unifylens.config import Relation

_CONTINENTS = {
    "Africa": "002",
    "North America": "003",
    "South America": "005",
    "Oceania": "009",
    "Asia": "142",
    "Europe": "150",
}
_SUBREGIONS = {
    "Western Africa": "011",
    "Central America": "013",
    "Eastern Africa": "014",
    "Northern Africa": "015",
    "Middle Africa": "017",
    "Southern Africa": "018",
    "Northern America": "021",
    "Caribbean": "029",
    "Eastern Asia": "030",
    "Southern Asia": "034",
    "South-eastern Asia": "035",
    "Southern Europe": "039",
    "Australia and New Zealand": "053",
    "Melanesia": "054",
    "Micronesia": "057",
    "Polynesia": "061",
    "Central Asia": "143",
    "Western Asia": "145",
    "Eastern Europe": "151",
    "Northern Europe": "154",
    "Western Europe": "155",
    "South America": "005",
}
"""UN M49 codes, under which CLDR names the regions in every language."""
LEAK_LETTERS, LEAK_CHARACTERS = 4, 2
"""A shared stem: as many letters of an alphabet, or characters of a script that writes syllables or words."""
_DENSE_SCRIPTS = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL")


@cache
def _need_sources() -> None:
    environment.require("real", "facts and names in real languages", *environment.SOURCES)


@cache
def _locale(code: str) -> Any:  # a `babel.Locale`, but babel is optional
    _need_sources()
    from babel import Locale, UnknownLocaleError

    try:
        return Locale.parse(code)
    except (UnknownLocaleError, ValueError):
        known = _known_locales()
        raise ValueError(
            f"real.locales: CLDR has no data for {code!r}; allowed: {len(known)} languages, {', '.join(known[:8])}, ..."
        ) from None


@cache
def _known_locales() -> list[str]:
    from babel.localedata import locale_identifiers

    return sorted(code for code in locale_identifiers() if "_" not in code)


@cache
def _countries() -> pd.DataFrame:
    """Countries by ISO code with their regions; read as text, since the package takes Namibia's NA for a gap."""
    _need_sources()
    spec = importlib.util.find_spec("country_converter")
    path = Path(spec.submodule_search_locations[0]) / "country_data.tsv"
    table = pd.read_csv(path, sep="\t", keep_default_na=False, dtype=str)
    table["ISO2"] = table["ISO2"].str.extract("([A-Z]{2})", expand=False)  # also of patterns: "^GB$|^UK$" is GB
    people_live_there = table["Continent_7"].isin(_CONTINENTS) & table["UNregion"].isin(_SUBREGIONS)
    return table[people_live_there & table["ISO2"].notna()].set_index("ISO2")


def un_members() -> frozenset[str]:
    """Codes of the countries that are members of the United Nations, which people write more about than territories."""
    countries = _countries()
    return frozenset(countries.index[countries["UNmember"] != ""])


@cache
def _answers(relation: Relation) -> dict[str, str]:
    """The one answer that each country has to a relation, as a code; countries with none or several are left out."""
    countries = _countries()
    from babel.core import get_global
    from babel.languages import get_official_languages
    from babel.numbers import get_territory_currencies

    if relation in ("continent", "subregion"):
        column, codes = ("Continent_7", _CONTINENTS) if relation == "continent" else ("UNregion", _SUBREGIONS)
        return {code: codes[name] for code, name in countries[column].items()}
    if relation == "script":
        likely = get_global("likely_subtags")
        return {code: likely.get(f"und_{code}", likely["und"]).split("_")[1] for code in countries.index}
    current = {
        "currency": get_territory_currencies,
        "language": lambda code: get_official_languages(code, de_facto=True),
    }[relation]
    several = {code: current(code) for code in countries.index}
    return {code: options[0] for code, options in several.items() if len(options) == 1}


@cache
def name(locale: str, kind: Literal["country"] | Relation, code: str) -> str | None:
    """What a language calls a country or an answer, in one word (spaces become `_`); None where CLDR has no name."""
    tables = {
        "country": "territories",
        "continent": "territories",
        "subregion": "territories",
        "currency": "currencies",
        "language": "languages",
        "script": "scripts",
    }
    called = getattr(_locale(locale), tables[kind]).get(code)
    return None if called is None else "_".join(unicodedata.normalize("NFC", called).split())


def romanise(word: str) -> str:
    """The word in Latin letters (`anyascii`)."""
    _need_sources()
    from anyascii import anyascii

    return "_".join(anyascii(word).split())


def facts(
    locales: Iterable[str],
    relations: Iterable[Relation],
    min_countries: int,
    romanised: bool,
    leaks: bool,
    max_letters: int | None = None,
    max_countries: int | None = None,
) -> pd.DataFrame:
    """Facts that all `locales` have names for: columns country, relation, answer (codes), one row a fact.

    Left out are answers that fewer than `min_countries` countries share; with `leaks=False` facts whose answer shares a
    stem with the country's name in any of the languages; and countries with a name of more than `max_letters`
    characters in any of them (before they are romanised). Of an answer with more than `max_countries` countries as many
    are drawn, always the same, so that no answer is much more frequent than others.

    Raises ValueError for a language without data, a relation with fewer than two answers, and two countries (or two
    answers to a relation) with one name in a language.
    """
    locales, relations = tuple(locales), tuple(relations)
    rows = [(country, relation, answer) for relation in relations for country, answer in _answers(relation).items()]
    table = pd.DataFrame(rows, columns=["country", "relation", "answer"])
    called = (lambda *what: _romanised(name(*what))) if romanised else name
    table = _named_in_all(table, locales, called)
    if max_letters is not None:
        longest = {code: max(len(name(locale, "country", code)) for locale in locales) for code in table["country"]}
        table = table[table["country"].map(longest) <= max_letters]
    if not leaks:
        leaking = [any(leaks_in(locale, *fact) for locale in locales) for fact in table.itertuples(index=False)]
        table = table[~pd.Series(leaking, index=table.index)]
    shared = table.groupby(["relation", "answer"])["country"].transform("size")
    table = table[shared >= min_countries]
    if max_countries is not None:
        drawn = table.iloc[np.random.default_rng(0).permutation(len(table))]
        table = drawn[drawn.groupby(["relation", "answer"]).cumcount() < max_countries]
    table = table.sort_values(["country", "relation"]).reset_index(drop=True)
    _refuse_too_few_answers(table, relations, min_countries, len(locales))
    _refuse_one_name_for_two(table, locales, called)
    return table


def _named_in_all(table: pd.DataFrame, locales: Iterable[str], called: Callable) -> pd.DataFrame:
    """The facts that all languages have names for."""
    for locale in locales:
        unnamed = [
            called(locale, "country", country) is None or called(locale, relation, answer) is None
            for country, relation, answer in table.itertuples(index=False)
        ]
        relations = " or ".join(table["relation"].unique())
        table = table[~pd.Series(unnamed, index=table.index)]
        if table.empty:
            raise ValueError(f"real.locales: CLDR names no country with its {relations} in {locale!r}.")
    return table


def _refuse_too_few_answers(
    table: pd.DataFrame, relations: Iterable[Relation], min_countries: int, n_languages: int
) -> None:
    for relation in relations:
        n_answers = table.loc[table["relation"] == relation, "answer"].nunique()
        if n_answers < 2:
            raise ValueError(
                f"real.relations: {relation!r} has {n_answers} answers that {min_countries} countries share and all "
                f"{n_languages} languages name; allowed: relations with at least two (lower real.min_countries)."
            )


def _refuse_one_name_for_two(table: pd.DataFrame, locales: Iterable[str], called: Callable) -> None:
    for locale in locales:
        for kind, codes in [("country", table["country"]), *table.groupby("relation")["answer"]]:
            names = pd.Series({code: called(locale, kind, code) for code in codes.unique()})
            twice = names[names.duplicated(keep=False)]
            if len(twice):
                raise ValueError(
                    f"{locale!r} has one name for two of kind {kind!r}: {twice.iloc[0]!r} ({', '.join(twice.index)})."
                )


def _romanised(word: str | None) -> str | None:
    return None if word is None else romanise(word)


def leaks_in(locale: str, country: str, relation: Relation, answer: str) -> bool:
    """Whether the answer's name holds the beginning of a word of the country's name, as in "Swiss franc"."""
    subject, said = name(locale, "country", country), name(locale, relation, answer)
    for word in subject.casefold().replace("-", "_").split("_"):
        dense = any(unicodedata.name(letter, "").startswith(_DENSE_SCRIPTS) for letter in word[:1])
        n = LEAK_CHARACTERS if dense else LEAK_LETTERS
        if len(word) >= n and word[:n] in said.casefold():
            return True
    return False


def script(locale: str) -> str:
    """The script a language is usually written in, such as `Latn`."""
    code = _locale(locale)
    from babel.core import get_global

    return code.script or get_global("likely_subtags").get(code.language, f"{code.language}_Latn_ZZ").split("_")[1]
