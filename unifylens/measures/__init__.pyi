from . import answers, association, bootstrap, information, phases, probes, scores
from .answers import ANSWER_TYPES, FOUR_ANSWERS, AnswerType, answer_types, object_choice, without_prior
from .association import (
    mantel,
    mediation,
    partial_rank_correlation,
    rank_correlation,
    square,
    within_models,
)
from .bootstrap import bootstrap_statistic
from .probes import language_probe
from .scores import (
    checkerboard_contrast,
    directions,
    fact_only,
    fact_only_by_fact,
    shuffled,
    similarity_matrix,
    unification,
    unification_variants,
)

__all__ = [
    "ANSWER_TYPES",
    "FOUR_ANSWERS",
    "AnswerType",
    "answer_types",
    "answers",
    "association",
    "bootstrap",
    "bootstrap_statistic",
    "checkerboard_contrast",
    "directions",
    "fact_only",
    "fact_only_by_fact",
    "information",
    "language_probe",
    "mantel",
    "mediation",
    "object_choice",
    "partial_rank_correlation",
    "phases",
    "probes",
    "rank_correlation",
    "scores",
    "shuffled",
    "similarity_matrix",
    "square",
    "unification",
    "unification_variants",
    "within_models",
    "without_prior",
]
