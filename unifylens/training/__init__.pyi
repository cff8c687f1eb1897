from . import adamw, batches, cost, imposed, plan, schedule, stack, store, sweeps, trainer, workers
from .store import Run
from .sweeps import Sweep, sweep, train, train_design, train_many

__all__ = [
    "Run",
    "Sweep",
    "adamw",
    "batches",
    "cost",
    "imposed",
    "plan",
    "schedule",
    "stack",
    "store",
    "sweep",
    "sweeps",
    "train",
    "train_design",
    "train_many",
    "trainer",
    "workers",
]
