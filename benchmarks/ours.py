"""unifylens as it is measured: the only place that knows its insides.

unifylens is imported before torch, as its settings of OpenMP and of the allocator belong to what is measured.
"""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import patch

from threadpoolctl import threadpool_limits

import unifylens as ul
from benchmarks.common import Size, Training
from unifylens.training import schedule, trainer, workers

N_RELATIONS, N_OBJECTS = 8, 16
STEPS_AT_ONCE = 10
"""Steps that stacks take on their own before they wait for each other, as they do at the end of a sweep only."""


def experiment(size: Size, seed: int, precision: str = "float32") -> ul.Experiment:
    """An experiment of exactly this shape, long enough never to end."""
    words = ["{relation}", "{object}"]
    filling = ["of"] * (size.length - 2 - len(words))
    # four special tokens, words of two languages (which share those of subjects and the filling)
    others = 4 + 2 * N_RELATIONS * (1 + N_OBJECTS) + len(set(filling))
    return ul.Experiment(
        world=ul.WorldConfig(n_subjects=size.d_vocab - others, n_relations=N_RELATIONS, n_objects=N_OBJECTS),
        language=ul.LanguageConfig(templates=(" ".join(["{subject}", *filling, *words]),), shared_function_words=1.0),
        model=ul.ModelConfig(d_model=size.d_model, n_layers=size.n_layers, n_heads=size.n_heads, d_mlp=size.d_mlp),
        train=ul.TrainConfig(steps=10**6, schedule="constant", batch_size=size.batch, precision=precision),
        seed=seed,
    )


def ours(size: Size, n_models: int, precision: str = "float32") -> Training:
    """Models of this size in training as in a sweep: on a CPU, a stack in a thread of its own for every core."""
    import torch

    last = torch.arange(size.length - 1 - size.n_answer, size.length - 1)
    whole = property(lambda corpus: last.expand(1, corpus.n_rows, -1))
    experiments = [experiment(size, seed, precision) for seed in range(n_models)]
    n_stacks = min(workers.worker_count(), n_models)
    with patch.object(ul.Corpus, "answer_positions", whole):  # answers of the dish are single tokens
        stacks = [trainer._Stack(experiments[i::n_stacks]) for i in range(n_stacks)]
    if n_stacks == 1:  # what a graph replays is counted as it was recorded
        counted = lambda: stacks[0]._update(*stacks[0].inputs())  # noqa: E731
        return Training(lambda: advance(stacks[0]), n_models, counted=counted)
    pool = ThreadPoolExecutor(n_stacks, initializer=torch.set_num_threads, initargs=(1,))
    threadpool_limits(1, user_api="blas")

    def step():
        return torch.stack(list(pool.map(lambda s: [advance(s) for _ in range(STEPS_AT_ONCE)][-1], stacks))).mean()

    return Training(step, n_models, STEPS_AT_ONCE, counted=lambda: [advance(stack) for stack in stacks])


def advance(stack):
    stack.advance()
    return stack.losses.mean()


def ours_bfloat16(size: Size, n_models: int) -> Training:
    """The same with matrices multiplied in bfloat16."""
    return ours(size, n_models, "bfloat16")


def swept(device: str) -> list[ul.Experiment]:
    """The quick sweep of notebook 01; on a GPU a grid of 10 x 10 dials and 5 seeds."""
    if device == "cpu":
        return [experiment for _, experiment in ul.designs.parallel_levels()]
    tenths = [i / 10 for i in range(10)]
    return [
        ul.Experiment(corpus=ul.CorpusConfig(parallel=parallel, object_skew=skew), seed=seed)
        for parallel in tenths
        for skew in tenths
        for seed in range(5)
    ]


def sweep(device: str) -> dict[str, float]:
    """Seconds of a quick sweep end to end, and the shares of them spent measuring and keeping models."""
    spent: Counter[str] = Counter()

    def timed(name: str, function):
        def wrapper(*args, **kwargs):
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                spent[name] += time.perf_counter() - start

        return wrapper

    experiments = swept(device)
    stack = trainer._Stack
    with (  # stacks may train in several threads, so shares are those of their time taken together
        patch.object(schedule, "train_stack", timed("all", trainer.train_stack)),
        patch.object(stack, "evaluate", timed("evaluate", stack.evaluate)),
        patch.object(stack, "checkpoint", timed("checkpoint", stack.checkpoint)),
        patch.object(stack, "finish", timed("finish", stack.finish)),
    ):
        start = time.perf_counter()
        runs = ul.train_many(experiments, progress=False)
        seconds = time.perf_counter() - start
    assert len(runs) == len(experiments)
    shares = {f"share_{name}": spent[name] / spent["all"] for name in ("evaluate", "checkpoint", "finish")}
    return {"seconds": seconds, "n_models": len(runs), "n_steps": experiments[0].train.steps, **shares}
