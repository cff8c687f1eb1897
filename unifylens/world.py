"""The knowledge graph: subjects, relations, objects, and which facts hold. It knows nothing of languages."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from unifylens.config import WorldConfig, rng


@dataclass(frozen=True)
class World:
    """Facts as triples; objects are numbered over all relations.

    `facts` is `[fact, 3]`: subject, relation, object. `object_relation` is `[object]`: the relation that an
    object answers.
    """

    n_subjects: int
    n_relations: int
    object_relation: Int[np.ndarray, " object"]
    facts: Int[np.ndarray, "fact 3"]

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
