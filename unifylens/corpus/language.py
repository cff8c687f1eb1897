"""Surface words: what each language calls subjects, relations and objects. It knows nothing of frequencies."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from unifylens.config import LanguageConfig, RealConfig
from unifylens.corpus import cldr
from unifylens.corpus.world import World
from unifylens.seeds import rng

ONSETS = [*"bdfgklmnprstvz", "ch", "sh", "tr", "kl"]
VOWELS = ["a", "e", "i", "o", "u", "ai", "ou"]
PATIENCE = 10_000
"""Words drawn in a row that are taken already, until none is left for all we know."""
CONSONANTS = "bcdfghklmnprstvz"


@dataclass(frozen=True)
class Language:
    """A name and the words for every subject, relation, object and function word."""

    name: str
    subjects: tuple[str, ...]
    relations: tuple[str, ...]
    objects: tuple[str, ...]
    function_words: dict[str, str]

    def words(self) -> list[str]:
        """All words of the language, each once, those of several-word names one by one."""
        named = [*self.subjects, *self.relations, *self.objects, *self.function_words.values()]
        return list(dict.fromkeys(word for name in named for word in name.split()))


SoundChange = dict[int, int]
"""Which letter every letter becomes, as `str.translate` takes it."""


def sound_changes(distance: float, seed: int, index: int) -> SoundChange:
    """Regular sound changes that replace about this share of the letters in words, 0 to 1, in language `index`.

    Letters change places in pairs (and three vowels in a ring), consonants with consonants, so that no two words
    become one; a larger share keeps the smaller one's changes.
    """
    draw = rng(seed, f"sound changes of language {index}")
    consonants, vowels = draw.permutation([*CONSONANTS]).tolist(), draw.permutation([*"aeiou"]).tolist()
    rings = [consonants[i : i + 2] for i in range(0, len(consonants), 2)] + [vowels[:2], vowels[2:]]
    table: SoundChange = {}
    wanted, changed = distance * sum(map(_frequency, [*CONSONANTS, *"aeiou"])), 0.0
    for ring in (rings[i] for i in draw.permutation(len(rings))):
        more = sum(map(_frequency, ring))
        if changed + more / 2 > wanted:  # nearer without this ring
            break
        changed += more
        table |= {ord(old): ord(new) for old, new in zip(ring, ring[1:] + ring[:1], strict=True)}
    return table


def _frequency(letter: str) -> float:
    """How often a letter stands in a random syllable."""
    return sum(letter in onset for onset in ONSETS) / len(ONSETS) + sum(letter in v for v in VOWELS) / len(VOWELS)


def lexical_distance(first: Language, other: Language) -> float:
    """Mean edit distance between translations over the longer one's letters: 0 the same words, near 1 unrelated.

    Normalised Levenshtein distance, as lexicostatistics uses it; subjects, relations and objects count alike.
    """
    kinds = ("subjects", "relations", "objects")
    pairs = [p for kind in kinds for p in zip(getattr(first, kind), getattr(other, kind), strict=True)]
    return float(np.mean([_edits(a, b) / max(len(a), len(b)) for a, b in pairs]))


def _edits(a: str, b: str) -> int:
    """Levenshtein distance: fewest insertions, deletions and replacements."""
    row = list(range(len(b) + 1))
    for i, letter in enumerate(a, start=1):
        before, row[0] = row[0], i
        for j, other in enumerate(b, start=1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (letter != other))
    return row[-1]


def _invent_words(
    n: int, draw: np.random.Generator, taken: set[str], syllables: int, changes: list[SoundChange]
) -> list[str]:
    """`n` pronounceable words that nothing else is called yet, nor what sound changes make of them.

    Raises ValueError where words of so many syllables run out.
    """
    words: list[str] = []
    refused = 0
    while len(words) < n:
        if refused == PATIENCE or n > (len(ONSETS) * len(VOWELS)) ** syllables:
            raise ValueError(
                f"language.syllables: {n} words of {syllables} syllables are due, and hardly any is left after "
                f"{len(words)}; allowed: more syllables, or fewer languages, subjects, relations or objects."
            )
        word = "".join(draw.choice(ONSETS) + draw.choice(VOWELS) for _ in range(syllables))
        forms = {word, *(word.translate(change) for change in changes)}
        refused += 1
        if not forms & taken:
            taken |= forms
            words.append(word)
            refused = 0
    return words


def _invent_names(
    n: int, n_words: int, draw: np.random.Generator, taken: set[str], syllables: int, changes: list[SoundChange]
) -> list[str]:
    """`n` names of several words, each from the inventory of its place: half of all combinations are used."""
    if n_words == 1:
        return _invent_words(n, draw, taken, syllables, changes)
    size = math.ceil((2 * n) ** (1 / n_words))
    places = [_invent_words(size, draw, taken, syllables, changes) for _ in range(n_words)]
    chosen = draw.permutation(size**n_words)[:n]
    indices = np.unravel_index(chosen, [size] * n_words)
    columns = [[place[i] for i in index] for place, index in zip(places, indices, strict=True)]
    return [" ".join(words) for words in zip(*columns, strict=True)]


def _share(own: list[str], first: list[str], share: float, draw: np.random.Generator) -> list[str]:
    """Replace a share of the own words by the first language's; a larger share keeps the smaller one's words."""
    shared = set(draw.permutation(len(own))[: round(share * len(own))].tolist())
    return [first[i] if i in shared else word for i, word in enumerate(own)]


def make_languages(world: World, config: LanguageConfig, seed: int = 0) -> tuple[Language, ...]:
    """Languages with invented words, no two of which are alike unless `config` shares or derives them.

    Words are invented before any are shared, so that a dial of sharing changes nothing else.
    """
    inventory = sorted({w for words in config.template_words() for w in words if not w.startswith("{")})
    kinds = {
        "subjects": (world.n_subjects, config.shared_subjects, config.syllables[0]),
        "relations": (world.n_relations, config.shared_relations, config.syllables[1]),
        "objects": (world.n_objects, config.shared_objects, config.syllables[2]),
        "function_words": (len(inventory), config.shared_function_words, 1),
    }
    taken: set[str] = set()
    languages: list[Language] = []
    first: dict[str, list[str]] = {}
    distance, others = config.lexical_distance, range(1, config.n_languages)
    changes = [] if distance is None else [sound_changes(distance, seed, index) for index in others]
    for index in range(config.n_languages):
        words: dict[str, list[str]] = {}
        for kind, (n, share, syllables) in kinds.items():
            # short words run out with many languages; then they grow
            room = (len(ONSETS) * len(VOWELS)) ** syllables
            syllables += room < 4 * n * config.n_languages
            n_words = config.subject_words if kind == "subjects" else 1
            if index and changes:
                own = [word.translate(changes[index - 1]) for word in first[kind]]
            else:
                draw = rng(seed, f"{kind} of language {index}")
                own = _invent_names(n, n_words, draw, taken, syllables, changes)
            words[kind] = _share(own, first[kind], share, rng(seed, f"shared {kind}")) if index else own
        first = first or words
        languages.append(
            Language(
                name=language_name(index),
                subjects=tuple(words["subjects"]),
                relations=tuple(words["relations"]),
                objects=tuple(words["objects"]),
                function_words=dict(zip(inventory, words["function_words"], strict=True)),
            )
        )
    return tuple(languages)


def real_languages(world: World, config: RealConfig, templates: list[list[str]]) -> tuple[Language, ...]:
    """The names that people give to a world made by `World.from_cldr`; relations and function words are symbols."""
    countries, relations, answers = world.codes
    kinds = [relations[i] for i in world.object_relation]
    symbols = sorted({w for words in templates for w in words if not w.startswith("{")})

    def called(locale: str, *what: str) -> str:
        word = cldr.name(locale, *what)
        return cldr.romanise(word) if config.romanised else word

    return tuple(
        Language(
            name=locale,
            subjects=tuple(called(locale, "country", code) for code in countries),
            relations=relations,
            objects=tuple(called(locale, *what) for what in zip(kinds, answers, strict=True)),
            function_words=dict(zip(symbols, symbols, strict=True)),
        )
        for locale in config.locales
    )


def language_name(index: int) -> str:
    """Names a, b, ..., z, l26, l27, ..."""
    return chr(ord("a") + index) if index < 26 else f"l{index}"
