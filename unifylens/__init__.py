"""Grow tiny multilingual Transformers in a dish and see what makes a fact one representation or two."""

import os

# Before torch loads OpenMP: its threads spin while they wait, which beside another busy process costs a factor of 30.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

from unifylens import (
    claims,
    designs,
    evaluate,
    hooks,
    imposed,
    interchange,
    interventions,
    measures,
    pairs,
    patching,
    phases,
    plots,
    subspaces,
)
from unifylens.config import (
    CorpusChange,
    CorpusConfig,
    Experiment,
    Intervention,
    LanguageConfig,
    ModelConfig,
    RealConfig,
    TokenizerConfig,
    TrainConfig,
    WorldConfig,
)
from unifylens.corpus import Corpus, parallel_window
from unifylens.evaluate import states, transfer, unification
from unifylens.interventions import build_corpus
from unifylens.model import build_model, untrained_like
from unifylens.paths import profile
from unifylens.store import Run
from unifylens.sweeps import Sweep, sweep, train, train_design, train_many
from unifylens.tokenization import Tokenizer
from unifylens.world import World

__all__ = [
    "Corpus",
    "CorpusChange",
    "CorpusConfig",
    "Experiment",
    "Intervention",
    "LanguageConfig",
    "ModelConfig",
    "RealConfig",
    "Run",
    "Sweep",
    "Tokenizer",
    "TokenizerConfig",
    "TrainConfig",
    "World",
    "WorldConfig",
    "build_corpus",
    "build_model",
    "claims",
    "designs",
    "evaluate",
    "hooks",
    "imposed",
    "interchange",
    "interventions",
    "measures",
    "pairs",
    "parallel_window",
    "patching",
    "phases",
    "plots",
    "profile",
    "states",
    "subspaces",
    "sweep",
    "train",
    "train_design",
    "train_many",
    "transfer",
    "unification",
    "untrained_like",
]
