"""What models learn from: worlds, languages, tokens, and which fact is said in which language, how often."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import AfterValidator, Field, model_validator

from unifylens import environment
from unifylens.arguments import shown
from unifylens.config.base import Config
from unifylens.config.kinds import MANY, Flag, Number, Ordered, Share, Text, Whole

Syllables = Annotated[Whole, Field(ge=1, le=6)]
Template = Annotated[Text, Field(max_length=10_000)]
Locale = Annotated[Text, Field(max_length=100)]
Rows = Annotated[
    Ordered[tuple[Annotated[Whole, Field(ge=0, lt=MANY)], ...]],
    Field(min_length=1, max_length=MANY),
    AfterValidator(lambda rows: tuple(sorted(set(rows)))),
]
"""A set of them: in whatever order they come, it is one."""
Countries = Annotated[Whole, Field(ge=1, le=1_000)]

WordKind = Literal["subjects", "relations", "objects", "function_words"]

REAL_LANGUAGES = ("en", "fr", "de", "es", "ru", "uk", "ar", "hi", "el", "he", "ko", "ja")
"""Twelve languages in eight scripts; four are written in Latin letters, two in Cyrillic ones."""

Relation = Literal["continent", "subregion", "currency", "language", "script"]
RELATIONS: tuple[Relation, ...] = get_args(Relation)
"""What is known of countries."""

SLOTS = ("subject", "relation", "object")
TEMPLATES = {
    "plain": "{subject} {relation} {object}",
    "of": "the {relation} of {subject} is {object}",
    "has": "{subject} has {relation} {object}",
    "topic": "as-for {subject} the {relation} is {object} indeed",
}


class WorldConfig(Config):
    """The knowledge graph: how many subjects, relations, and objects per relation."""

    n_subjects: Annotated[Whole, Field(ge=2, le=1_000_000)] = 600
    """Number of subjects, the entities that facts are about; every subject has every relation."""
    n_relations: Annotated[Whole, Field(ge=1, le=100_000)] = 8
    """Number of relations, the questions that can be asked of a subject."""
    n_objects: Annotated[Whole, Field(ge=2, le=1_000_000)] = 16
    """Number of objects, the possible answers, of each relation."""

    @model_validator(mode="after")
    def _can_be_counted(self) -> Self:
        for name, number, what, most in (
            ("n_subjects", self.n_subjects, "facts", MANY),
            ("n_objects", self.n_objects, "objects", MANY // 10),
        ):
            if (total := number * self.n_relations) > most:
                raise ValueError(
                    f"{name}={number} times n_relations={self.n_relations} are {total:,} {what}; "
                    f"allowed: up to {most:,}."
                )
        return self


class LanguageConfig(Config):
    """Surface words: how many languages, and which share of their words is the same in all of them."""

    n_languages: Annotated[Whole, Field(ge=2, le=100)] = 2
    """Number of languages."""
    shared_subjects: Share = 1.0
    """Share of subjects that have the same name in all languages."""
    shared_relations: Share = 0.0
    """Share of relations that have the same word in all languages."""
    shared_objects: Share = 0.0
    """Share of objects that have the same word in all languages."""
    shared_function_words: Share = 0.0
    """Share of function words (of templates other than `plain`) that are the same in all languages."""
    subject_words: Annotated[Whole, Field(ge=1, le=4)] = 1
    """Words in a subject's name. With more than one, many subjects share each: only together they tell which."""
    syllables: Ordered[tuple[Syllables, Syllables, Syllables]] = (3, 2, 3)
    """Number of syllables in the words of subjects, relations and objects, in this order."""
    language_token: Flag = False
    """Put a token that names the language in front of every prompt."""
    language_cue: Literal["none", "first", "pair", "vote"] = "none"
    """Symbols in front of every prompt that together tell the language; every example draws among those that do.

    `first`: the first of two. `pair`: only both of two (their sum modulo the number of languages). `vote`: two or
    three of three, so that each alone tells it with noise. The symbols are the same tokens in all languages.
    """
    lexical_distance: Share | None = None
    """Share of letters that regular sound changes replace in every language but the first; None: unrelated words."""
    templates: Annotated[Ordered[tuple[Template, ...]], Field(min_length=1, max_length=1_000)] = ("plain",)
    """Names from `TEMPLATES` or own texts; the first is the default, used for evaluation."""

    @model_validator(mode="after")
    def _one_way_to_tell_the_language(self) -> Self:
        if self.language_token and self.language_cue != "none":
            raise ValueError(
                f"language_token=True conflicts with language_cue={self.language_cue!r}: the token alone gives the "
                "language away; allowed: one of the two."
            )
        return self

    @model_validator(mode="after")
    def _templates_have_their_slots(self) -> Self:
        for name in self.templates:
            words = TEMPLATES.get(name, name).split()
            slots = [word[1:-1] for word in words if word.startswith("{") and word.endswith("}")]
            if sorted(slots) != sorted(SLOTS) or slots[-1] != "object":
                raise ValueError(
                    f"templates: {shown(name)} must hold {{subject}}, {{relation}} and {{object}} once each, with the "
                    "answer {object} after the other two; or be one of " + ", ".join(TEMPLATES) + "."
                )
        return self

    def template_words(self) -> list[list[str]]:
        """The templates, each split into slots such as `{subject}` and function words."""
        return [TEMPLATES.get(name, name).split() for name in self.templates]


class RealConfig(Config):
    """Countries, and what is true of them, in languages that people speak: takes the place of invented words.

    Names come from Unicode CLDR; a name is one word, and relations are the same symbols in all languages, as CLDR
    has no names for them. The world is what all chosen languages have names for.
    """

    locales: Annotated[Ordered[tuple[Locale, ...]], Field(min_length=2, max_length=100)] = REAL_LANGUAGES
    """CLDR codes of the languages."""
    relations: Annotated[Ordered[tuple[Relation, ...]], Field(min_length=1, max_length=5)] = RELATIONS
    """What is asked of countries."""
    min_countries: Countries = 3
    """Number of countries that must share an answer, else it is left out: other facts would teach nothing of it."""
    max_letters: Annotated[Whole, Field(ge=1, le=1_000)] | None = None
    """Number of letters: countries with a longer name in any language are left out; None leaves none out.

    Every row is padded to the longest.
    """
    max_countries: Countries | None = None
    """Number of countries that may share an answer; others are left out, which evens out answers; None: none is."""
    leaks: Flag = True
    """Keep facts whose answer holds the beginning of the country's name, as in "Swiss franc"."""
    romanised: Flag = False
    """Write all names in Latin letters."""
    sources: Text = Field(default_factory=environment.sources)
    """Packages that facts and names come from, with their versions."""

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        for field in ("locales", "relations"):
            names = getattr(self, field)
            if len(set(names)) < len(names):
                raise ValueError(f"{field}={shown(names)}: each may stand there once.")
        return self


class TokenizerConfig(Config):
    """How words become tokens, and which tokens languages share."""

    scheme: Literal["word", "character", "bpe", "unigram"] = "word"
    """What a token is: a whole word, a letter, or a piece that byte-pair encoding or a Unigram model learns."""
    vocab_size: Annotated[Whole, Field(ge=1, le=1_000_000)] | None = None
    """Number of pieces that a `bpe` or `unigram` tokenizer is trained to; with `training="separate"`, in each language.

    None for the schemes that are not trained.
    """
    training: Literal["joint", "separate"] = "joint"
    """One tokenizer trained on the words of all languages, or one for each."""
    shared_tokens: Share = 1.0
    """Share of the pieces used by several languages that are the same token in all; 0 marks every token by language."""

    @model_validator(mode="after")
    def _trained_schemes_have_a_size(self) -> Self:
        trained = self.scheme in ("bpe", "unigram")
        if trained and self.vocab_size is None:
            raise ValueError(f"vocab_size must be given for scheme={self.scheme!r}, such as 150.")
        if not trained and self.vocab_size is not None:
            raise ValueError(
                f"vocab_size={self.vocab_size} conflicts with scheme={self.scheme!r}, which is not trained; allowed: "
                "None, or scheme 'bpe' or 'unigram'."
            )
        if not trained and self.training == "separate":
            raise ValueError(
                f"training='separate' conflicts with scheme={self.scheme!r}, which is not trained; allowed: 'joint', "
                "or scheme 'bpe' or 'unigram'."
            )
        return self


class LateLanguages(Config):
    """The last languages come late: no fact has its home there, and all that they are told is told in others as well.

    Homes and parallel facts among the first languages are those of a corpus of these languages alone, so that an
    experiment with such a corpus may begin with its weights (`Start`). Before `language_exposure`, each late language
    is told as much as the mean of the first ones, evenly over its facts.

    >>> corpus = ul.CorpusConfig(late=ul.LateLanguages(share=0.2), language_exposure=(0.25, 0.25, 0.5))
    >>> exp = ul.Experiment(language=ul.LanguageConfig(n_languages=3), corpus=corpus)
    >>> [int(facts.sum()) for facts in ul.build_corpus(exp).seen]
    [3120, 3120, 960]
    """

    n: Annotated[Whole, Field(ge=1, lt=100)] = 1
    """Number of languages, the last ones, that come late; fewer than there are."""
    share: Annotated[Number, Field(gt=0.0, le=1.0)] = 0.3
    """Share of facts (of those whose home is `of`) told in every late language; all others are held out there."""
    of: Annotated[Whole, Field(ge=0, lt=100)] | None = None
    """Number of the first language whose home facts they are drawn from, parallel ones among them; None: all facts."""


class CorpusConfig(Config):
    """Which fact is said in which language, how often: the dials of the data distribution."""

    parallel: Share = 0.3
    """Share of facts seen in every language that is not `late`; every other fact is seen in its home language only."""
    n_parallel: Annotated[Whole, Field(ge=0, le=MANY)] | None = None
    """Number of parallel facts instead of a share."""
    parallel_unit: Literal["fact", "subject"] = "fact"
    """Parallel facts are drawn one by one, or whole subjects at a time."""
    exposure_balance: Share = 1.0
    """Share of a parallel fact's exposure spread evenly over the languages; the rest goes to its home."""
    copy_exposure: Annotated[Number, Field(ge=0.0, le=1e6)] = 1.0
    """Factor on the exposure of parallel facts' copies away from home; 0 leaves the home copies alone.

    What is not 0 is 0.000001 or more: less is never drawn.
    """
    parallel_exposure: Annotated[Number, Field(ge=1e-6, le=1e6)] = 1.0
    """Factor on the exposure of every copy of parallel facts, beside that of monolingual facts."""
    language_exposure: (
        Annotated[Ordered[tuple[Annotated[Number, Field(ge=0.0, le=1e6)], ...]], Field(min_length=2, max_length=100)]
        | None
    ) = None
    """Factor on the exposure of all that is said in a language, one for each; 0 leaves a language out for as long as
    this corpus is drawn from, so that `changes` can tell languages in order; None for 1 everywhere."""
    late: LateLanguages | None = None
    """The last languages, if they are told nothing but copies of facts of the first ones; None: all are alike."""
    object_skew: Share = 0.0
    """Share of monolingual facts whose home language is decided by their object (value-language link)."""
    home_bias: Share = 0.0
    """Share of facts, among those the object does not decide, whose home is their subject's language."""
    relation_bias: Share = 0.0
    """Share of facts, among those object and subject do not decide, whose home is their relation's language."""

    @model_validator(mode="after")
    def _dials_do_not_conflict(self) -> Self:
        if self.language_exposure is not None and not any(self.language_exposure):
            raise ValueError(
                f"language_exposure={self.language_exposure} leaves nothing to learn; allowed: one above 0."
            )
        if 0 < self.copy_exposure < 1e-6:
            raise ValueError(f"copy_exposure={self.copy_exposure}; allowed: 0, or a number from 1e-06 to 1e+06.")
        for name, other, why in self._conflicts():
            values = f"{name}={getattr(self, name)} and {other}={getattr(self, other)}"
            default = type(self).model_fields[name].default
            raise ValueError(f"{values} conflict: {why}; allowed with this {other}: {name}={default}.")
        return self

    def _conflicts(self) -> Iterator[tuple[str, str, str]]:
        """Dials that are moved though another one leaves them nothing to decide: (dial, the other one, why)."""
        moved = {name for name, field in type(self).model_fields.items() if getattr(self, name) != field.default}
        if {"parallel", "n_parallel"} <= moved:
            yield "parallel", "n_parallel", "both say how many facts are parallel"
        if self.exposure_balance == 0 and "copy_exposure" in moved:
            yield "copy_exposure", "exposure_balance", "there is no copy away from home to weigh"
        if self.home_bias == 1 and "relation_bias" in moved:
            yield "relation_bias", "home_bias", "the subject decides every home"
        alike = not moved & {"exposure_balance", "copy_exposure"}  # parallel facts, at home and away
        for name in ("home_bias", "relation_bias"):
            if self.object_skew == 1 and name in moved and alike:
                yield name, "object_skew", "the object decides every home that counts"


class CorpusChange(Config):
    """From `step` on, batches are drawn by `corpus` instead."""

    step: Annotated[Whole, Field(ge=1, lt=MANY)]
    """Number of optimiser steps taken with the corpus before; less than `train.steps`."""
    corpus: CorpusConfig
    """What takes its place, over the same world and languages."""


InterventionName = Literal[
    "balance_objects",
    "tie_objects",
    "add_parallel",
    "remove_parallel",
    "rebalance_exposure",
    "code_switch",
    "translate_in_context",
    "share_words",
    "pivot_answers",
    "retokenize",
    "mark_language",
    "merge_vocabularies",
    "add_language_token",
    "remove_language_token",
    "leave_out",
]
INTERVENTIONS: dict[InterventionName, tuple[str, ...]] = {
    "balance_objects": ("share",),
    "tie_objects": ("share",),
    "add_parallel": ("share",),
    "remove_parallel": ("share",),
    "rebalance_exposure": ("balance",),
    "code_switch": ("share",),
    "translate_in_context": ("share",),
    "share_words": ("share", "kind"),
    "pivot_answers": (),
    "retokenize": ("tokenizer",),
    "mark_language": (),
    "merge_vocabularies": ("share",),
    "add_language_token": (),
    "remove_language_token": (),
    "leave_out": ("rows",),
}
"""Functions of `interventions` and what each must be told."""


class Intervention(Config):
    """A change of the corpus that was built by the other settings: a function of `interventions`."""

    name: InterventionName
    """The function; `INTERVENTIONS` says what else each is told."""
    share: Share | None = None
    """Share of what the function would change, such as of the facts to be moved; None where it is not told any."""
    balance: Share | None = None
    """Takes the place of `exposure_balance`, for `rebalance_exposure`; None for all others."""
    kind: WordKind | None = None
    """Which words are shared, for `share_words`; None for all others."""
    tokenizer: TokenizerConfig | None = None
    """How words become tokens, for `retokenize`; None for all others."""
    rows: Rows | None = None
    """Rows of the corpus (`language * n_facts + fact`) that are not told, for `leave_out`; None for all others."""

    @model_validator(mode="after")
    def _is_told_what_it_needs(self) -> Self:
        needed, given = INTERVENTIONS[self.name], tuple(self.parameters())
        if set(given) != set(needed):
            raise ValueError(
                f"name={self.name!r} is told {', '.join(given) or 'nothing'}; "
                f"allowed: {', '.join(needed) or 'nothing'}, no less and no more."
            )
        return self

    def parameters(self) -> dict[str, Any]:
        """What the function is told besides the corpus."""
        values = {name: getattr(self, name) for name in type(self).model_fields if name != "name"}
        return {name: value for name, value in values.items() if value is not None}
