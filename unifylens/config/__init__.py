"""What an experiment is: frozen, validated, hashable settings with a JSON round trip."""

from unifylens.config.base import Config
from unifylens.config.data import (
    INTERVENTIONS,
    REAL_LANGUAGES,
    RELATIONS,
    TEMPLATES,
    CorpusChange,
    CorpusConfig,
    Intervention,
    InterventionName,
    LanguageConfig,
    LateLanguages,
    RealConfig,
    Relation,
    TokenizerConfig,
    WordKind,
    WorldConfig,
)
from unifylens.config.experiment import Experiment, Start
from unifylens.config.training import ModelConfig, Sparse, StateLoss, TrainConfig

__all__ = [
    "INTERVENTIONS",
    "REAL_LANGUAGES",
    "RELATIONS",
    "TEMPLATES",
    "Config",
    "CorpusChange",
    "CorpusConfig",
    "Experiment",
    "Intervention",
    "InterventionName",
    "LanguageConfig",
    "LateLanguages",
    "ModelConfig",
    "RealConfig",
    "Relation",
    "Sparse",
    "Start",
    "StateLoss",
    "TokenizerConfig",
    "TrainConfig",
    "WordKind",
    "WorldConfig",
]
