from . import (
    config,
    corpus,
    crosslingual,
    designs,
    environment,
    evidence,
    measures,
    model,
    patching,
    pretrained,
    training,
)
from .config import (
    CorpusChange,
    CorpusConfig,
    Experiment,
    Intervention,
    LanguageConfig,
    ModelConfig,
    RealConfig,
    StateLoss,
    TokenizerConfig,
    TrainConfig,
    WorldConfig,
)
from .corpus import Corpus, FactSet, Tokenizer, World, cldr, factsets, interventions, parallel_window, readers
from .corpus.corpus import build_corpus
from .crosslingual import by_fact, evaluate, interchange, pairs, states, transfer, unification
from .environment import profile
from .evidence import claims, plots
from .measures import phases
from .model import build_model, untrained_like
from .patching import hooks, subspaces
from .pretrained import asking
from .training import Run, Sweep, imposed, store, sweep, sweeps, train, train_design, train_many

__version__: str

__all__ = [
    "Corpus",
    "CorpusChange",
    "CorpusConfig",
    "Experiment",
    "FactSet",
    "Intervention",
    "LanguageConfig",
    "ModelConfig",
    "RealConfig",
    "Run",
    "StateLoss",
    "Sweep",
    "Tokenizer",
    "TokenizerConfig",
    "TrainConfig",
    "World",
    "WorldConfig",
    "asking",
    "build_corpus",
    "build_model",
    "by_fact",
    "claims",
    "cldr",
    "config",
    "corpus",
    "crosslingual",
    "designs",
    "environment",
    "evaluate",
    "evidence",
    "factsets",
    "hooks",
    "imposed",
    "interchange",
    "interventions",
    "measures",
    "model",
    "pairs",
    "parallel_window",
    "patching",
    "phases",
    "plots",
    "pretrained",
    "profile",
    "readers",
    "states",
    "store",
    "subspaces",
    "sweep",
    "sweeps",
    "train",
    "train_design",
    "train_many",
    "training",
    "transfer",
    "unification",
    "untrained_like",
]
