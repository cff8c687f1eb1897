"""What an experiment is: frozen, validated, hashable settings with a JSON round trip."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self, get_args

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from unifylens import environment
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


class Config(BaseModel):
    """Frozen settings that refuse unknown fields by name."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _name_unknown_fields(cls, data: Any) -> Any:
        if isinstance(data, dict):
            for name in data:
                if name not in cls.model_fields:
                    raise ValueError(
                        f"{cls.__name__} has no field {name!r}.{suggest(str(name), list(cls.model_fields))}"
                    )
        return data


class WorldConfig(Config):
    """The knowledge graph: how many subjects, relations, and objects per relation."""

    n_subjects: Annotated[int, Field(ge=2)] = 600
    n_relations: Count = 8
    n_objects: Annotated[int, Field(ge=2)] = 16


class LanguageConfig(Config):
    """Surface words: how many languages, and which share of their words is the same in all of them."""

    n_languages: Annotated[int, Field(ge=2)] = 2
    shared_subjects: Share = 1.0
    shared_relations: Share = 0.0
    shared_objects: Share = 0.0
    shared_function_words: Share = 0.0
    subject_words: Annotated[int, Field(ge=1, le=4)] = 1
    """Words in a subject's name. With more than one, many subjects share each: only together they tell which."""
    syllables: tuple[Syllables, Syllables, Syllables] = (3, 2, 3)
    """In the words of subjects, relations and objects."""
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
    min_countries: Annotated[int, Field(ge=1)] = 3
    """Answers that fewer countries share are left out: nothing could be learnt of them from other facts."""
    max_letters: Count | None = None
    """Countries with a longer name in any language are left out, as every row is padded to the longest; None: none."""
    max_countries: Count | None = None
    """Countries that share an answer beyond this many are left out, which evens out answers; None: none."""
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
    vocab_size: Count | None = None
    """Pieces that a `bpe` or `unigram` tokenizer is trained to; with `training="separate"`, in each language."""
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
    corpus: CorpusConfig


INTERVENTIONS: dict[str, tuple[str, ...]] = {
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

    name: Literal[tuple(INTERVENTIONS)]
    share: Share | None = None
    balance: Share | None = None
    kind: WordKind | None = None
    tokenizer: TokenizerConfig | None = None

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
    n_layers: Count = 2
    n_heads: Count = 4
    d_mlp: Count = 256
    act_fn: Literal["gelu", "relu", "gelu_new", "gelu_fast", "silu"] = "gelu"
    normalization: Literal["LN", "LNPre", "RMS", "RMSPre"] | None = "LN"
    positional_embedding_type: Literal["standard", "rotary"] = "standard"
    local_blocks: Annotated[int, Field(ge=0)] = 0
    """Blocks, from the first, in which a token attends to itself and the token before it alone."""
    attn_only: bool = False
    gated_mlp: bool = False
    parallel_attn_mlp: bool = False

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
    batch_size: Count = 256
    lr: Annotated[float, Field(gt=0.0)] = 3e-3
    weight_decay: Annotated[float, Field(ge=0.0)] = 2.0
    """Decoupled decay (AdamW) of embeddings and weight matrices; biases and normalisation are left alone."""
    betas: tuple[Annotated[float, Field(ge=0.0, lt=1.0)], Annotated[float, Field(ge=0.0, lt=1.0)]] = (
        0.9,
        0.98,
    )
    warmup: Annotated[int, Field(ge=0)] = 50
    schedule: Literal["cosine", "constant"] = "cosine"
    final_lr: Share = 0.1
    """Learning rate at the end of the cosine, as a share of `lr`."""
    cycles: Count = 1
    """The schedule, warm-up included, runs this many times over (cosine with warm restarts)."""
    loss: Literal["answer", "full"] = "answer"
    """Cross-entropy on the answer's tokens alone, or on every token after the first."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """In which matrices are multiplied; weights, gradients and everything else stay float32."""
    n_evaluations: Annotated[int, Field(ge=2)] = 32
    n_checkpoints: Count = 6
    eval_facts: Annotated[int, Field(ge=8)] = 256
    """Facts of each kind (parallel, monolingual) evaluated during training; the last evaluation takes all."""

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
    """Everything that decides a trained model: data, shape, optimisation, seed."""

    world: WorldConfig = WorldConfig()
    language: LanguageConfig = LanguageConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    corpus: CorpusConfig = CorpusConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    changes: tuple[CorpusChange, ...] = ()
    """Corpora that replace `corpus` at given steps, in order."""
    interventions: tuple[Intervention, ...] = ()
    """What is done, in order, to the corpus that all of the above makes."""
    real: RealConfig | None = None
    """Real facts and names instead of `world` and the words of `language`."""
    seed: Seed = 0

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
        names = []
        for name, field in cls.model_fields.items():
            names.append(name)
            if isinstance(field.annotation, type) and issubclass(field.annotation, Config):
                names += [f"{name}.{inner}" for inner in field.annotation.model_fields]
        return names

    def key(self, data_format: int) -> str:
        """Content hash of the experiment and the format of what is stored for it."""
        text = json.dumps([data_format, self.model_dump(mode="json")], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:20]
