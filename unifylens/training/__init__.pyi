from . import adamw, batches, cost, disk, imposed, plan, progress, run, schedule, stack, store, sweeps, trainer, workers
from .run import Run
from .sweeps import Sweep, sweep, train, train_design, train_many

__all__ = [
    "Run",
    "Sweep",
    "adamw",
    "batches",
    "cost",
    "disk",
    "imposed",
    "plan",
    "progress",
    "run",
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
