"""What an experiment is: frozen, validated, hashable settings with a JSON round trip."""

from __future__ import annotations

import hashlib
import inspect
import json
import textwrap
from collections.abc import Iterable, Iterator
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from unifylens import cards, environment
from unifylens.arguments import plain
from unifylens.errors import suggest

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=1)]
Syllables = Annotated[int, Field(ge=1, le=6)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]

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


def _setting(name: str, field: FieldInfo) -> str:
    """One setting in a docstring: its name, default, what is allowed, and its sentence."""
    made = field.default_factory or (type(field.default) if isinstance(field.default, Config) else None)
    default = "" if field.is_required() else f" = {f'{made.__name__}()' if made else repr(field.default)}"
    head = f"{name}{default} ({_allowed(field.annotation, field.metadata)})"
    indents = ((head, "", " " * 8), (" ".join((field.description or "").split()), " " * 4, " " * 4))
    return "\n".join(textwrap.fill(text, 110, initial_indent=a, subsequent_indent=b) for text, a, b in indents)


def _allowed(hint: Any, bounds: Iterable[Any] = ()) -> str:
    """What a type with its bounds allows, in words."""
    kind, inner = get_origin(hint), get_args(hint)
    if kind is Annotated:
        return _allowed(inner[0], [bound for field in inner[1:] for bound in field.metadata])
    if kind is Literal:
        return " or ".join(map(repr, inner))
    if kind is UnionType or kind is Union:
        return " or ".join(map(_allowed, inner))
    limits = {name: getattr(bound, name) for bound in bounds for name in _LIMITS if hasattr(bound, name)}
    if kind is tuple:
        number = f"{len(inner)} of" if inner[-1] is not Ellipsis else "any number of"
        number = f"{limits['min_length']} or more of" if limits else number
        return f"tuple, {number}: {_allowed(inner[0])}"
    named = {int: "whole number", float: "number", bool: "True or False", str: "text", NoneType: "None"}
    shown = [f"{_LIMITS[name]} {limit if hint is int else format(limit, 'g')}" for name, limit in limits.items()]
    return " ".join([named.get(hint) or hint.__name__, *shown])


_LIMITS = {"ge": "from", "gt": "above", "le": "to", "lt": "below", "min_length": "at least"}


class Config(BaseModel):
    """Frozen settings that refuse unknown fields by name."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Let the class's docstring, which `help()` and Shift+Tab show, list its settings."""
        settings = "\n".join(_setting(name, field) for name, field in cls.model_fields.items())
        cls.__doc__ = f"{inspect.cleandoc(cls.__doc__ or '')}\n\nSettings:\n\n{settings}"

    @model_validator(mode="before")
    @classmethod
    def _name_unknown_fields(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        for name in data:
            if name not in cls.model_fields:
                leaf = str(name).rpartition(".")[2]
                parts = [(part, of) for part, of in cls.parts().items() if leaf in of.model_fields]
                inside = [f"{part}={of.__name__}({leaf}=...)" for part, of in parts]
                hint = f" Write {inside[0]}." if inside else ""
                raise ValueError(
                    f"{cls.__name__} has no field {name!r}.{hint}{suggest(str(name), list(cls.model_fields))}"
                )
        return {name: plain(value) for name, value in data.items()}

    @classmethod
    def parts(cls) -> dict[str, type[Config]]:
        """Fields that hold settings of their own."""
        kinds = {name: field.annotation for name, field in cls.model_fields.items()}
        return {name: kind for name, kind in kinds.items() if isinstance(kind, type) and issubclass(kind, Config)}

    def differences(self) -> dict[str, Any]:
        """What differs from the defaults, by the names that `replace` takes."""
        values: dict[str, Any] = {}
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if name in self.parts():
                values |= {f"{name}.{inner}": v for inner, v in value.differences().items()}
            elif value != field.default:
                values[name] = value
        return values

    def __repr_args__(self) -> Iterator[tuple[str, Any]]:
        yield from self.differences().items()

    def __str__(self) -> str:
        return repr(self)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in type(self).model_fields:
            return super().__setattr__(name, value)
        part = next((f"{part}." for part, of in Experiment.parts().items() if of is type(self)), "")
        if isinstance(self, Experiment):
            copy = f"experiment.replace({name}={value!r})"
        else:
            copy = f"experiment.replace(**{{{part + name!r}: {value!r}}})" if part else f"a new {type(self).__name__}"
        text = f"settings are frozen; make a changed copy: {copy}."
        error = {"type": PydanticCustomError("frozen", "{text}", {"text": text}), "loc": (name,), "input": value}
        raise ValidationError.from_exception_data(type(self).__name__, [error])


class WorldConfig(Config):
    """The knowledge graph: how many subjects, relations, and objects per relation."""

    n_subjects: Annotated[int, Field(ge=2)] = 600
    """Number of subjects, the entities that facts are about; every subject has every relation."""
    n_relations: Count = 8
    """Number of relations, the questions that can be asked of a subject."""
    n_objects: Annotated[int, Field(ge=2)] = 16
    """Number of objects, the possible answers, of each relation."""


class LanguageConfig(Config):
    """Surface words: how many languages, and which share of their words is the same in all of them."""

    n_languages: Annotated[int, Field(ge=2)] = 2
    """Number of languages."""
    shared_subjects: Share = 1.0
    """Share of subjects that have the same name in all languages."""
    shared_relations: Share = 0.0
    """Share of relations that have the same word in all languages."""
    shared_objects: Share = 0.0
    """Share of objects that have the same word in all languages."""
    shared_function_words: Share = 0.0
    """Share of function words (of templates other than `plain`) that are the same in all languages."""
    subject_words: Annotated[int, Field(ge=1, le=4)] = 1
    """Words in a subject's name. With more than one, many subjects share each: only together they tell which."""
    syllables: tuple[Syllables, Syllables, Syllables] = (3, 2, 3)
    """Number of syllables in the words of subjects, relations and objects, in this order."""
    language_token: bool = False
    """Put a token that names the language in front of every prompt."""
    language_cue: Literal["none", "first", "pair", "vote"] = "none"
    """Symbols in front of every prompt that together tell the language; every example draws among those that do.

    `first`: the first of two. `pair`: only both of two (their sum modulo the number of languages). `vote`: two or
    three of three, so that each alone tells it with noise. The symbols are the same tokens in all languages.
    """
    lexical_distance: Share | None = None
    """Share of letters that regular sound changes replace in every language but the first; None: unrelated words."""
    templates: Annotated[tuple[str, ...], Field(min_length=1)] = ("plain",)
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
                    f"templates: {name!r} must hold {{subject}}, {{relation}} and {{object}} once each, with the "
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

    locales: Annotated[tuple[str, ...], Field(min_length=2)] = REAL_LANGUAGES
    """CLDR codes of the languages."""
    relations: Annotated[tuple[Relation, ...], Field(min_length=1)] = RELATIONS
    """What is asked of countries."""
    min_countries: Annotated[int, Field(ge=1)] = 3
    """Number of countries that must share an answer, else it is left out: other facts would teach nothing of it."""
    max_letters: Count | None = None
    """Number of letters: countries with a longer name in any language are left out; None leaves none out.

    Every row is padded to the longest.
    """
    max_countries: Count | None = None
    """Number of countries that may share an answer; others are left out, which evens out answers; None: none is."""
    leaks: bool = True
    """Keep facts whose answer holds the beginning of the country's name, as in "Swiss franc"."""
    romanised: bool = False
    """Write all names in Latin letters."""
    sources: str = Field(default_factory=environment.sources)
    """Packages that facts and names come from, with their versions."""

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        for field in ("locales", "relations"):
            names = getattr(self, field)
            if len(set(names)) < len(names):
                raise ValueError(f"{field}={names}: each may stand there once.")
        return self


class TokenizerConfig(Config):
    """How words become tokens, and which tokens languages share."""

    scheme: Literal["word", "character", "bpe", "unigram"] = "word"
    """What a token is: a whole word, a letter, or a piece that byte-pair encoding or a Unigram model learns."""
    vocab_size: Count | None = None
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


class CorpusConfig(Config):
    """Which fact is said in which language, how often: the dials of the data distribution."""

    parallel: Share = 0.3
    """Share of facts seen in every language; every other fact is seen in its home language only."""
    n_parallel: Annotated[int, Field(ge=0)] | None = None
    """Number of parallel facts instead of a share."""
    parallel_unit: Literal["fact", "subject"] = "fact"
    """Parallel facts are drawn one by one, or whole subjects at a time."""
    exposure_balance: Share = 1.0
    """Share of a parallel fact's exposure spread evenly over the languages; the rest goes to its home."""
    copy_exposure: Annotated[float, Field(ge=0.0)] = 1.0
    """Factor on the exposure of parallel facts' copies away from home; 0 leaves the home copies alone."""
    parallel_exposure: Annotated[float, Field(gt=0.0)] = 1.0
    """Factor on the exposure of every copy of parallel facts, beside that of monolingual facts."""
    object_skew: Share = 0.0
    """Share of monolingual facts whose home language is decided by their object (value-language link)."""
    home_bias: Share = 0.0
    """Share of facts, among those the object does not decide, whose home is their subject's language."""
    relation_bias: Share = 0.0
    """Share of facts, among those object and subject do not decide, whose home is their relation's language."""

    @model_validator(mode="after")
    def _dials_do_not_conflict(self) -> Self:
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

    step: Count
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
    "share_words",
    "retokenize",
    "mark_language",
    "merge_vocabularies",
    "add_language_token",
    "remove_language_token",
]
INTERVENTIONS: dict[InterventionName, tuple[str, ...]] = {
    "balance_objects": ("share",),
    "tie_objects": ("share",),
    "add_parallel": ("share",),
    "remove_parallel": ("share",),
    "rebalance_exposure": ("balance",),
    "code_switch": ("share",),
    "share_words": ("share", "kind"),
    "retokenize": ("tokenizer",),
    "mark_language": (),
    "merge_vocabularies": ("share",),
    "add_language_token": (),
    "remove_language_token": (),
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


class ModelConfig(Config):
    """Shape of the decoder-only Transformer."""

    d_model: Count = 64
    """Dimensions of the residual stream; a multiple of `n_heads`."""
    n_layers: Count = 2
    """Number of blocks."""
    n_heads: Count = 4
    """Number of attention heads in each block, of `d_model / n_heads` dimensions."""
    d_mlp: Count = 256
    """Number of neurons in each block's MLP."""
    act_fn: Literal["gelu", "relu", "gelu_new", "gelu_fast", "silu"] = "gelu"
    """Activation function of the MLPs, as TransformerLens names it; only `gelu` and `relu` train as a stack."""
    normalization: Literal["LN", "LNPre", "RMS", "RMSPre"] | None = "LN"
    """Layer norm or RMS norm, with learned weights or (`Pre`) without; None for no normalisation."""
    positional_embedding_type: Literal["standard", "rotary"] = "standard"
    """Learned embeddings of absolute positions, or rotations of queries and keys (needs an even head dimension)."""
    local_blocks: Annotated[int, Field(ge=0)] = 0
    """Number of blocks, from the first, where a token attends to itself and the one before it; less than `n_layers`."""
    attn_only: bool = False
    """Blocks of attention alone, without an MLP."""
    gated_mlp: bool = False
    """MLPs whose neurons are multiplied by a learned gate."""
    parallel_attn_mlp: bool = False
    """Attention and MLP of a block read the same state, instead of one after the other."""

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.d_model % self.n_heads:
            raise ValueError(f"n_heads={self.n_heads} must divide d_model={self.d_model}.")
        if self.local_blocks >= self.n_layers:
            raise ValueError(f"local_blocks={self.local_blocks} must stay below n_layers={self.n_layers}.")
        if self.positional_embedding_type == "rotary" and self.d_model // self.n_heads % 2:
            raise ValueError(
                f"positional_embedding_type='rotary' turns pairs of dimensions; d_model={self.d_model} over "
                f"n_heads={self.n_heads} must be even."
            )
        return self


class TrainConfig(Config):
    """Optimisation, and how often the model is evaluated and saved."""

    steps: Count = 900
    """Number of optimiser steps; more than `warmup` times `cycles`."""
    batch_size: Count = 256
    """Number of examples in a step, drawn anew from the corpus each time."""
    lr: Annotated[float, Field(gt=0.0)] = 3e-3
    """Learning rate of AdamW after the warm-up."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 2.0
    """Decoupled decay (AdamW) of embeddings and weight matrices; biases and normalisation are left alone."""
    betas: tuple[Annotated[float, Field(ge=0.0, lt=1.0)], Annotated[float, Field(ge=0.0, lt=1.0)]] = (
        0.9,
        0.98,
    )
    """AdamW's decay of the running means of gradients and of their squares, per step."""
    warmup: Annotated[int, Field(ge=0)] = 50
    """Number of steps in which the learning rate rises linearly to `lr`."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """What the learning rate does after the warm-up."""
    final_lr: Share = 0.1
    """Learning rate at the end of the cosine, as a share of `lr`."""
    cycles: Count = 1
    """Number of times that the schedule, warm-up included, runs over (cosine with warm restarts)."""
    loss: Literal["answer", "full"] = "answer"
    """Cross-entropy on the answer's tokens alone, or on every token after the first."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Number format in which matrices are multiplied; weights, gradients and everything else stay float32."""
    n_evaluations: Annotated[int, Field(ge=2)] = 32
    """Number of evaluations, rows of `run.history`: before training, then at steps spaced evenly on a log scale."""
    n_checkpoints: Count = 6
    """Number of steps at which the weights are kept, spaced evenly on a log scale; the last is always one."""
    eval_facts: Annotated[int, Field(ge=8)] = 256
    """Number of facts of each kind (parallel, monolingual) evaluated during training; the last evaluation takes all."""

    @model_validator(mode="after")
    def _cycles_hold_the_warm_up(self) -> Self:
        if self.warmup * self.cycles >= self.steps:
            raise ValueError(f"warmup={self.warmup} times cycles={self.cycles} must stay below steps={self.steps}.")
        return self

    def lr_at(self, step: int) -> float:
        """Learning rate of 0-based step `step`."""
        length = self.steps / self.cycles
        within = step % length
        if within < self.warmup:
            return self.lr * min(1.0, (within + 1) / self.warmup)  # a cycle may start between two steps
        if self.schedule == "constant":
            return self.lr
        progress = (within - self.warmup) / (length - self.warmup)
        return self.lr * (self.final_lr + (1 - self.final_lr) * 0.5 * (1 + np.cos(np.pi * progress)))

    def _log_spaced(self, first: int, n: int) -> list[int]:
        spaced = np.geomspace(min(first, self.steps), self.steps, n) if n > 1 else np.array([self.steps])
        return sorted({int(step) for step in spaced.round()})

    def evaluation_steps(self) -> list[int]:
        """Steps after which the model is evaluated: 0 (untrained), then log-spaced up to the end."""
        return [0, *self._log_spaced(max(1, self.steps // 90), self.n_evaluations - 1)]

    def checkpoint_steps(self) -> list[int]:
        """Steps after which the weights are kept: log-spaced, the last one always."""
        return self._log_spaced(max(1, self.steps // 18), self.n_checkpoints)


class Experiment(Config):
    """Everything that decides a trained model: data, shape, optimisation, seed.

    >>> exp = ul.Experiment(corpus=ul.CorpusConfig(parallel=0.1), seed=3)
    >>> exp.corpus.parallel, exp.model.d_model
    (0.1, 64)
    """

    world: WorldConfig = WorldConfig()
    """The facts there are."""
    language: LanguageConfig = LanguageConfig()
    """The words that facts are said with."""
    tokenizer: TokenizerConfig = TokenizerConfig()
    """How words become tokens."""
    corpus: CorpusConfig = CorpusConfig()
    """Which fact is said in which language, how often."""
    model: ModelConfig = ModelConfig()
    """The shape of the Transformer."""
    train: TrainConfig = TrainConfig()
    """How it is trained, evaluated and saved."""
    changes: tuple[CorpusChange, ...] = ()
    """Corpora that replace `corpus` at given steps, in order."""
    interventions: tuple[Intervention, ...] = ()
    """What is done, in order, to the corpus that all of the above makes."""
    real: RealConfig | None = None
    """Real facts and names instead of `world` and the words of `language`."""
    seed: Seed = 0
    """Decides every random draw: world, words, homes of facts, first weights, batches."""

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.real is not None:
            self._nothing_is_invented()
            n_facts, n_relations = None, len(self.real.relations)
        else:
            n_facts, n_relations = self.world.n_subjects * self.world.n_relations, self.world.n_relations
        for corpus in (self.corpus, *(change.corpus for change in self.changes)):
            if n_facts is not None and corpus.n_parallel is not None and corpus.n_parallel > n_facts:
                raise ValueError(
                    f"corpus.n_parallel={corpus.n_parallel} is more than the world's {n_facts} facts; "
                    f"allowed: 0 to {n_facts}."
                )
            if corpus.relation_bias and n_relations < self.n_languages:
                raise ValueError(
                    f"corpus.relation_bias={corpus.relation_bias} and world.n_relations={n_relations} "
                    f"conflict: each of {self.n_languages} languages needs a relation of its own; allowed: "
                    f"relation_bias=0, or n_relations from {self.n_languages} on."
                )
        if self.tokenizer.scheme != "word":
            self._answers_end_the_prompt()
        steps = [change.step for change in self.changes]
        if steps != sorted(set(steps)) or (steps and steps[-1] >= self.train.steps):
            raise ValueError(f"changes: steps {steps} must rise and stay below train.steps={self.train.steps}.")
        return self

    def _nothing_is_invented(self) -> None:
        """With real words, what invents a world and words must be left as it is."""
        kept = ("language_token", "templates")
        for part, fields in (("world", WorldConfig.model_fields), ("language", LanguageConfig.model_fields)):
            for name, field in fields.items():
                value = getattr(getattr(self, part), name)
                if value != field.default and name not in kept:
                    raise ValueError(
                        f"{part}.{name}={value!r} conflicts with real: facts and words are real there; "
                        f"allowed: {field.default!r}."
                    )

    @property
    def n_languages(self) -> int:
        """Number of languages."""
        return self.language.n_languages if self.real is None else len(self.real.locales)

    def _answers_end_the_prompt(self) -> None:
        """Answers of several tokens end with a token of their own, so nothing may follow them."""
        for words in self.language.template_words():
            if words[-1] != "{object}":
                raise ValueError(
                    f"language.templates: {' '.join(words)!r} conflicts with tokenizer.scheme="
                    f"{self.tokenizer.scheme!r}; allowed: templates that end with {{object}}, or scheme 'word'."
                )

    def stages(self) -> list[tuple[int, int, CorpusConfig]]:
        """Corpora in order with the steps `[start, stop)` in which batches are drawn from each."""
        starts = [0, *(change.step for change in self.changes)]
        corpora = [self.corpus, *(change.corpus for change in self.changes)]
        return list(zip(starts, [*starts[1:], self.train.steps], corpora, strict=True))

    def replace(self, **values: Any) -> Experiment:
        """Copy with some fields changed, nested ones by dotted names: `replace(**{"corpus.parallel": 0.1})`.

        Raises ValueError for a name that does not exist, and whatever validation finds.

        >>> exp = ul.Experiment()
        >>> exp.replace(**{"corpus.parallel": 0.1, "model.d_model": 32}).model.d_model
        32
        """
        data = self.model_dump()
        for name, value in values.items():
            *parents, leaf = name.split(".")
            part = data
            for parent in parents:
                part = part.get(parent) if isinstance(part, dict) else None
            if not isinstance(part, dict) or leaf not in part:
                raise ValueError(f"{name!r} is not a field of an experiment.{suggest(name, self.field_names())}")
            part[leaf] = value.model_dump() if isinstance(value, BaseModel) else value
        return Experiment.model_validate(data)

    @classmethod
    def field_names(cls) -> list[str]:
        """All dotted names that `replace` and `sweep` take."""
        names, parts = [], cls.parts()
        for name in cls.model_fields:
            names.append(name)
            if name in parts:
                names += [f"{name}.{inner}" for inner in parts[name].model_fields]
        return names

    def key(self, data_format: int) -> str:
        """Content hash of the experiment and the format of what is stored for it."""
        text = json.dumps([data_format, self.model_dump(mode="json")], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:20]

    def _repr_html_(self) -> str:
        values = {name: repr(value) for name, value in self.differences().items()}
        return cards.as_html("Experiment", values or {"settings": "as by default"})
