from . import answers, association, information, intervals, phases, probes, scores
from .answers import ANSWER_TYPES, FOUR_ANSWERS, AnswerType, answer_types, object_choice, without_prior
from .association import (
    mantel,
    mediation,
    partial_rank_correlation,
    rank_correlation,
    rank_step,
    square,
    within_models,
)
from .intervals import mean_interval, share_interval, statistic_interval
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
    "checkerboard_contrast",
    "directions",
    "fact_only",
    "fact_only_by_fact",
    "information",
    "intervals",
    "language_probe",
    "mantel",
    "mean_interval",
    "mediation",
    "object_choice",
    "partial_rank_correlation",
    "phases",
    "probes",
    "rank_correlation",
    "rank_step",
    "scores",
    "share_interval",
    "shuffled",
    "similarity_matrix",
    "square",
    "statistic_interval",
    "unification",
    "unification_variants",
    "within_models",
    "without_prior",
]
