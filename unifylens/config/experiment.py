"""What an experiment is: frozen, validated, hashable settings with a JSON round trip."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Self

from pydantic import BaseModel, Field, model_validator

from unifylens import cards
from unifylens.config.base import Config
from unifylens.config.data import (
    CorpusChange,
    CorpusConfig,
    Intervention,
    LanguageConfig,
    RealConfig,
    TokenizerConfig,
    WorldConfig,
)
from unifylens.config.kinds import MANY, Ordered, Whole
from unifylens.config.training import ModelConfig, TrainConfig
from unifylens.errors import suggest


class Start(Config):
    """The weights that training begins with: those of another experiment, after some step of its own training.

    Steps, schedule, batches and AdamW's moments begin anew.

    >>> base = ul.Experiment(corpus=ul.CorpusConfig(parallel=0.0))
    >>> exp = base.replace(start=ul.Start(experiment=base), **{"corpus.parallel": 0.3})
    >>> exp.start.experiment.corpus.parallel
    0.0
    """

    experiment: Experiment
    """What is trained first, or read from the store."""
    step: Annotated[Whole, Field(ge=1, le=MANY)] | None = None
    """The step whose weights are taken, one of those that are kept; None for the last."""

    @model_validator(mode="after")
    def _step_is_kept(self) -> Self:
        kept = self.experiment.train.checkpoint_steps()
        if self.step is not None and self.step not in kept:
            raise ValueError(
                f"step={self.step}: no weights are kept after it; allowed: {', '.join(map(str, kept))}, or None."
            )
        return self


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
    changes: Annotated[Ordered[tuple[CorpusChange, ...]], Field(max_length=1_000)] = ()
    """Corpora that replace `corpus` at given steps, in order."""
    interventions: Annotated[Ordered[tuple[Intervention, ...]], Field(max_length=100)] = ()
    """What is done, in order, to the corpus that all of the above makes."""
    real: RealConfig | None = None
    """Real facts and names instead of `world` and the words of `language`."""
    start: Start | None = None
    """Weights of another experiment to begin with instead of random ones."""
    seed: Annotated[Whole, Field(ge=0, lt=2**32)] = 0
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
            if corpus.late is not None:
                self._late_languages_have_others_before(corpus)
            if corpus.relation_bias and n_relations < self.n_languages:
                raise ValueError(
                    f"corpus.relation_bias={corpus.relation_bias} and world.n_relations={n_relations} "
                    f"conflict: each of {self.n_languages} languages needs a relation of its own; allowed: "
                    f"relation_bias=0, or n_relations from {self.n_languages} on."
                )
        if len(late := {corpus.late and corpus.late.n for *_, corpus in self.stages()}) > 1:
            raise ValueError(
                f"corpus.late.n and that of changes are {sorted(n or 0 for n in late)}, so that facts would change "
                "their home; allowed: one number throughout."
            )
        self._every_language_is_told()
        if self.tokenizer.scheme != "word":
            self._answers_end_the_prompt()
        for number, term in enumerate(self.train.state_losses):
            if term.layer > self.model.n_layers:
                raise ValueError(
                    f"train.state_losses[{number}].layer={term.layer} is more than model.n_layers="
                    f"{self.model.n_layers}; allowed: 0 to {self.model.n_layers}."
                )
        if self.model.language_neurons * self.n_languages > self.model.d_mlp:
            raise ValueError(
                f"model.language_neurons={self.model.language_neurons} of each of {self.n_languages} languages are "
                f"more than model.d_mlp={self.model.d_mlp}; allowed: at most {self.model.d_mlp // self.n_languages}."
            )
        if self.train.new_words is not None and self.start is None:
            raise ValueError(
                f"train.new_words={self.train.new_words!r} needs a start, whose words are not new; allowed: None, or a "
                "start."
            )
        if self.train.sparse is not None and self.start is None:
            raise ValueError(
                f"train.sparse={self.train.sparse!r} needs a start whose weights most keep; allowed: None, or a start."
            )
        if self.train.soft_prompt and self.start is None:
            raise ValueError("train.soft_prompt=True needs a start whose weights all stay; allowed: False, or a start.")
        if self.start is not None and (there := self.start.experiment.model) != self.model:
            other = {**self.model.differences(), **there.differences()}
            differing = [name for name in other if getattr(there, name) != getattr(self.model, name)]
            raise ValueError(
                f"start.experiment.model has {', '.join(f'{n}={getattr(there, n)!r}' for n in differing)}; allowed: "
                f"{', '.join(f'{n}={getattr(self.model, n)!r}' for n in differing)}, as here."
            )
        steps = [change.step for change in self.changes]
        if steps != sorted(set(steps)) or (steps and steps[-1] >= self.train.steps):
            raise ValueError(f"changes: steps {steps} must rise and stay below train.steps={self.train.steps}.")
        return self

    def _late_languages_have_others_before(self, corpus: CorpusConfig) -> None:
        late, first = corpus.late, self.n_languages - corpus.late.n
        if first < 1:
            raise ValueError(
                f"corpus.late.n={late.n} leaves none of {self.n_languages} languages; allowed: 1 to "
                f"{self.n_languages - 1}."
            )
        if late.of is not None and late.of >= first:
            raise ValueError(
                f"corpus.late.of={late.of} is no fact's home; allowed: 0 to {first - 1}, the languages that are not "
                "late, or None."
            )

    def _every_language_is_told(self) -> None:
        """A language's own facts would be told nowhere if it were left out all the time."""
        factors = [corpus.language_exposure for *_, corpus in self.stages()]
        for number, each in enumerate(factors):
            if each is not None and len(each) != self.n_languages:
                where = "corpus" if number == 0 else f"changes[{number - 1}].corpus"
                raise ValueError(
                    f"{where}.language_exposure={each} has {len(each)} numbers; allowed: {self.n_languages}, one for "
                    "each language, or None."
                )
        for language in range(self.n_languages):
            if not any(each is None or each[language] for each in factors):
                raise ValueError(
                    f"corpus.language_exposure leaves out language {language} to the end; allowed: a number above 0 "
                    "for every language, there or in one of the changes."
                )

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
        data = self.model_dump(mode="json")
        _drop_what_is_newer(data)
        text = json.dumps([data_format, data], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:20]

    def _repr_html_(self) -> str:
        values = {name: repr(value) for name, value in self.differences().items()}
        return cards.as_html("Experiment", values or {"settings": "as by default"})


Start.model_rebuild()  # the two hold each other
Experiment.model_rebuild()


def _drop_what_is_newer(experiment: dict[str, Any]) -> None:
    """Remove settings that are newer than the format where they are left alone: what was stored before stays found."""
    newer = {
        "train": ("state_losses", "frozen", "translated_words", "new_words", "sparse", "soft_prompt"),
        "model": ("language_neurons", "n_experts"),
    }
    for part, names in newer.items():
        for name in names:
            if not experiment[part][name]:
                del experiment[part][name]
    for corpus in (experiment["corpus"], *(change["corpus"] for change in experiment["changes"])):
        for name in ("language_exposure", "late"):
            if corpus[name] is None:
                del corpus[name]
    for intervention in experiment["interventions"]:
        if intervention["rows"] is None:
            del intervention["rows"]
    if experiment["start"] is None:
        del experiment["start"]
    else:
        _drop_what_is_newer(experiment["start"]["experiment"])
