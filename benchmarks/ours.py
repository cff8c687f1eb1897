"""unifylens as it is measured: the only place that knows its insides.

unifylens is imported before torch, as its settings of OpenMP and of the allocator belong to what is measured.
"""

from __future__ import annotations

import importlib
import time
from collections import Counter
from unittest.mock import patch

import unifylens as ul
from benchmarks.common import Size, Training

training = importlib.import_module("unifylens.train")  # `unifylens.train` itself is the function
N_RELATIONS, N_OBJECTS = 8, 16


def experiment(size: Size, seed: int) -> ul.Experiment:
    """An experiment of exactly this shape, long enough never to end."""
    words = ["{relation}", "{object}"]
    filling = ["of"] * (size.length - 2 - len(words))
    # four special tokens, words of two languages (which share those of subjects and the filling)
    others = 4 + 2 * N_RELATIONS * (1 + N_OBJECTS) + len(set(filling))
    return ul.Experiment(
        world=ul.WorldConfig(n_subjects=size.d_vocab - others, n_relations=N_RELATIONS, n_objects=N_OBJECTS),
        language=ul.LanguageConfig(templates=(" ".join(["{subject}", *filling, *words]),), shared_function_words=1.0),
        model=ul.ModelConfig(d_model=size.d_model, n_layers=size.n_layers, n_heads=size.n_heads, d_mlp=size.d_mlp),
        train=ul.TrainConfig(
            steps=10**6,
            schedule="constant",
            batch_size=size.batch,
            # answers are single tokens: the loss on all tokens is the nearest thing to that on several
            loss="answer" if size.n_answer == 1 else "full",
        ),
        seed=seed,
    )


def ours(size: Size, n_models: int) -> Training:
    """Models of this size in training, on the device that unifylens chooses."""
    stack = training._Stack([experiment(size, seed) for seed in range(n_models)])
    assert (stack.sequences.shape[-1], stack.cfg.d_vocab) == (size.length, size.d_vocab)

    def step():
        stack.advance()
        loss = stack.loss_sum.mean()
        stack.loss_sum.zero_()
        return loss

    return Training(step, n_models)


def sweep() -> dict[str, float]:
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

    experiments = [e for _, e in ul.designs.parallel_levels()]
    stack = training._Stack
    with (  # stacks may train in several threads, so shares are those of their time taken together
        patch.object(training, "_train_stack", timed("all", training._train_stack)),
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
