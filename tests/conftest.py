"""Every test has an empty store of its own; `tiny` is an experiment that trains in well under a second."""

import pytest
import torch
from hypothesis import HealthCheck, settings

import unifylens as ul
from unifylens import sweeps

torch.set_num_threads(1)  # threads that wait for each other on a busy machine made some tests 50 times slower
settings.register_profile(
    "unifylens",
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("unifylens")


@pytest.fixture(autouse=True)
def one_stack_at_a_time(monkeypatch):
    monkeypatch.setattr(sweeps, "worker_count", lambda: 1)


@pytest.fixture(autouse=True)
def empty_store(tmp_path, monkeypatch):
    monkeypatch.setenv("UNIFYLENS_HOME", str(tmp_path / "store"))
    return tmp_path / "store"


def tiny(**changes) -> ul.Experiment:
    """A small experiment with some fields changed, by names as in `Experiment.replace`."""
    return ul.Experiment(
        world=ul.WorldConfig(n_subjects=24, n_relations=3, n_objects=4),
        corpus=ul.CorpusConfig(parallel=0.5),
        model=ul.ModelConfig(d_model=16, n_layers=2, n_heads=2, d_mlp=32),
        train=ul.TrainConfig(
            steps=40,
            batch_size=32,
            lr=5e-3,
            weight_decay=0.5,
            warmup=5,
            n_evaluations=4,
            n_checkpoints=3,
            eval_facts=16,
        ),
    ).replace(**changes)
