"""Where stacks train: the workers of the active joblib backend, and their memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import joblib
import torch
from joblib.parallel import get_active_backend

from unifylens.hardware import device, free_bytes, size_text
from unifylens.training import cost
from unifylens.training.cost import Member, Memory

STACK_SIZE = 16
"""Most members of a stack on a CPU, unless asked for: more gain little there."""


STACK_SIZE_ON_GPU = 1024


SHARE_OF_FREE_MEMORY = 0.8


def worker_count() -> int:
    """Stacks that train at the same time: one a CPU core, or one on a GPU, which a stack fills by itself."""
    return 1 if device().type == "cuda" else joblib.cpu_count()


@dataclass(frozen=True)
class Workers:
    """Those of the active joblib backend."""

    count: int
    shared: bool
    """They are threads of this process, and share its bar and its Ctrl-C."""
    streams: bool
    """Results come one by one, not all at the end of a call."""
    here: bool
    """They are on this machine, so that there may be fewer of them."""
    memory: int | None
    """Bytes for all stacks that train at the same time; None if unknown."""

    @classmethod
    def active(cls) -> Workers:
        """As `joblib.parallel_config` has it, or one a CPU core of this process."""
        backend, _ = get_active_backend(prefer="threads")  # threads, unless a backend was chosen
        _, n_jobs = get_active_backend()
        here = type(backend).__module__.startswith("joblib.") and not hasattr(backend, "client")
        if n_jobs is None:
            n_jobs = worker_count() if here else -1
        count = max(1, backend.effective_n_jobs(n_jobs))
        shared = getattr(backend, "uses_threads", False)
        if hasattr(backend, "client"):
            free = _memory_of_dask(backend.client, count)
        elif here:
            available = min(free_bytes(d) for d in {torch.device("cpu"), device()})
            free = int(SHARE_OF_FREE_MEMORY * available) - (0 if shared else count * cost.PROCESS_BYTES)
        else:
            free = None
        return cls(count, shared, getattr(backend, "supports_return_generator", False), here, free)

    @property
    def threads(self) -> int:
        """Of torch in each: threads that share a step wait for each other, so many workers have one each."""
        return max(1, torch.get_num_threads() // self.count) if self.shared else 1

    def at_most(self, count: int) -> Workers:
        """As many as there is work for."""
        return self._of(min(self.count, count)) if self.here else self

    def that_fit(self, members: list[Member]) -> Workers:
        """As many as can train one model each. Raises MemoryError if not even one can."""
        if self.memory is None:
            return self
        largest = max(members, key=lambda member: member.memory.of_stack(1))
        needed = largest.memory.of_stack(1)
        fewer = self._of(min(self.count, self.memory // needed)) if self.here else self
        if fewer.count < 1 or self.memory // fewer.count < needed:
            place = "are free" if self.here else "are free for each of the cluster's threads"
            raise MemoryError(
                f"one model (seed {largest.experiment.seed}) needs about {size_text(needed)} of memory; "
                f"{size_text(max(0, self.memory // max(1, fewer.count)))} {place}. "
                f"These settings decide: {', '.join(largest.fields)}."
            )
        return fewer

    def largest_stack(self, group: list[Member]) -> int:
        """Most members of a stack."""
        most = STACK_SIZE if device().type == "cpu" else STACK_SIZE_ON_GPU
        if self.memory is None:
            return most
        return max(1, Memory.largest([m.memory for m in group]).most_members(self.memory // self.count, most))

    def _of(self, count: int) -> Workers:
        return Workers(count, self.shared, self.streams, self.here, self.memory)


def _memory_of_dask(client: Any, count: int) -> int | None:
    """Bytes for one stack on each of `count` threads, as much as the smallest worker has for a thread."""
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    each = [
        (SHARE_OF_FREE_MEMORY * worker["memory_limit"] - cost.PROCESS_BYTES) / worker["nthreads"]
        for worker in workers
        if worker["memory_limit"]
    ]
    return int(min(each) * count) if each else None
