"""The knowledge graph: subjects, relations, objects, and which facts hold. It knows nothing of languages."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from unifylens import environment
from unifylens.cards import Card
from unifylens.config import RealConfig, WorldConfig
from unifylens.corpus import cldr
from unifylens.seeds import rng


@dataclass(frozen=True, repr=False)
class World(Card):
    """Facts as triples; objects are numbered over all relations.

    `facts` is `[fact, 3]`: subject, relation, object. `object_relation` is `[object]`: the relation that an
    object answers.
    """

    n_subjects: int
    n_relations: int
    object_relation: Int[np.ndarray, " object"]
    facts: Int[np.ndarray, "fact 3"]
    codes: tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]] | None = None
    """What subjects, relations and objects are, in a world that was not invented: codes of no language."""

    @classmethod
    def synthetic(cls, config: WorldConfig, seed: int = 0) -> World:
        """Every subject has one object in every relation; objects are equally frequent, in random order."""
        draw = rng(seed, "world")
        n_subjects, n_relations, n_objects = config.n_subjects, config.n_relations, config.n_objects
        answers = np.stack(
            [draw.permutation(np.arange(n_subjects) % n_objects) + r * n_objects for r in range(n_relations)],
            1,
        )
        subject, relation = np.divmod(np.arange(n_subjects * n_relations), n_relations)
        return cls(
            n_subjects=n_subjects,
            n_relations=n_relations,
            object_relation=np.repeat(np.arange(n_relations), n_objects),
            facts=np.stack([subject, relation, answers[subject, relation]], 1),
        )

    @classmethod
    def from_cldr(cls, config: RealConfig) -> World:
        """Countries and what is true of them: every fact that all languages of `config` have names for.

        Not every country has an answer to every relation, and some answers are frequent.
        Raises ImportError where a source is missing, and ValueError where `config` was made with other versions, for
        a language without data, a relation with too few answers, and names that cannot be told apart.
        """
        if config.sources != (here := environment.sources()):
            raise ValueError(f"real.sources={config.sources!r}, but {here!r} is installed; allowed: the same versions.")
        table = cldr.facts(
            config.locales,
            config.relations,
            config.min_countries,
            config.romanised,
            config.leaks,
            config.max_letters,
            config.max_countries,
        )
        subjects = table["country"].unique()
        pairs = list(zip(table["relation"], table["answer"], strict=True))
        objects = sorted(set(pairs), key=lambda pair: (config.relations.index(pair[0]), pair[1]))
        return cls(
            n_subjects=len(subjects),
            n_relations=len(config.relations),
            object_relation=np.array([config.relations.index(relation) for relation, _ in objects]),
            facts=np.stack(
                [
                    np.searchsorted(subjects, table["country"]),
                    table["relation"].map(config.relations.index).to_numpy(),
                    [objects.index(pair) for pair in pairs],
                ],
                1,
            ),
            codes=(tuple(subjects), config.relations, tuple(answer for _, answer in objects)),
        )

    @property
    def n_facts(self) -> int:
        """Number of facts."""
        return len(self.facts)

    @property
    def n_objects(self) -> int:
        """Number of objects over all relations."""
        return len(self.object_relation)

    @property
    def subject(self) -> Int[np.ndarray, " fact"]:
        """Subject of each fact."""
        return self.facts[:, 0]

    @property
    def relation(self) -> Int[np.ndarray, " fact"]:
        """Relation of each fact."""
        return self.facts[:, 1]

    @property
    def object(self) -> Int[np.ndarray, " fact"]:
        """Object of each fact."""
        return self.facts[:, 2]

    def _card(self) -> tuple[str, dict[str, str]]:
        names = "" if self.codes is None else f" ({', '.join(self.codes[1])})"
        return "World", {
            "facts": f"{self.n_facts:,}",
            "subjects": f"{self.n_subjects:,}",
            "relations": f"{self.n_relations:,}{names}",
            "objects": f"{self.n_objects:,}",
        }
