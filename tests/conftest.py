"""Every test has an empty store of its own; `tiny` is an experiment that trains in well under a second."""

import multiprocessing
import os
import signal
import sys
from multiprocessing import forkserver

import pytest
from hypothesis import HealthCheck, settings

import unifylens as ul

# For seconds it builds a grammar of addresses, of which notebooks have none; jsonschema does without.
sys.modules.setdefault("rfc3987_syntax", None)

# What is slow to load is imported where it is used: the process that hands out the tests loads this file, too.
settings.register_profile(
    "unifylens",
    deadline=None,
    max_examples=20,  # drawn anew at every run
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("unifylens")


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Threads that wait for each other on a busy machine made some tests 50 times slower."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def hidden_gpu():
    """Tests ask for what a CPU computes, bit for bit; yields whether torch sees a GPU, for those that ask for `gpu`."""
    import torch

    visible, there = os.environ.get("CUDA_VISIBLE_DEVICES"), torch.cuda.is_available
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        yield there, visible


@pytest.fixture
def gpu(hidden_gpu, monkeypatch):
    """Models train on the GPU of this machine; without one the test is skipped."""
    import torch

    there, visible = hidden_gpu
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    if not there():
        pytest.skip("torch sees no GPU here")
    monkeypatch.setattr(torch.cuda, "is_available", there)


@pytest.fixture
def workers_are_forked(monkeypatch):
    """Worker processes come from one that has loaded what is slow, and nothing of ours, not each from an empty one."""
    multiprocessing.set_forkserver_preload(["transformer_lens", "pandas", "pyarrow.parquet", "distributed"])
    forkserver.ensure_running()  # before dask, which would set a list of its own
    monkeypatch.setattr("joblib.externals.loky.backend.context._DEFAULT_START_METHOD", "forkserver")


@pytest.fixture(autouse=True)
def one_stack_at_a_time(monkeypatch):
    monkeypatch.setattr("unifylens.training.workers.worker_count", lambda: 1)


@pytest.fixture(autouse=True)
def bfloat16_units(monkeypatch):
    """Whatever processor runs the tests: one without them is warned of, and warnings are errors."""
    monkeypatch.setattr("unifylens.hardware.has_bfloat16_units", lambda: True)


@pytest.fixture(autouse=True)
def empty_store(tmp_path, monkeypatch):
    monkeypatch.setenv("UNIFYLENS_HOME", str(tmp_path / "store"))
    monkeypatch.delenv("UNIFYLENS_SEEDS", raising=False)
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


def forget_corpora(monkeypatch, keep=False):
    """Build corpora anew while a test has changed how; unless they are to be kept, at every call."""
    from unifylens.corpus.corpus import _build

    _build.cache_clear()
    if not keep:
        monkeypatch.setattr("unifylens.corpus.corpus._build", _build.__wrapped__)


def quietly(*experiments):
    return ul.train_many(experiments, progress=False)


def weights(run, step=None):
    return run.parameters(run.steps[-1] if step is None else step)


def assert_equal_runs(a, b):
    """Bit for bit the same weights at every checkpoint, and the same history."""
    import pandas as pd
    import torch

    assert a.steps == b.steps
    for step in a.steps:
        theirs = weights(b, step)
        assert all(torch.equal(p, theirs[name]) for name, p in weights(a, step).items())
    pd.testing.assert_frame_equal(a.history, b.history, check_exact=True)


def native_shape(shape):
    """The same shape as native bridges take it, under TransformerLens 3 as well."""
    from transformer_lens.config import TransformerBridgeConfig

    fields = ("n_layers", "d_model", "n_ctx", "d_head", "n_heads", "d_mlp", "act_fn", "d_vocab", "d_vocab_out", "dtype")
    fields += ("attn_scale", "normalization_type", "positional_embedding_type", "rotary_dim", "use_local_attn")
    fields += ("window_size", "attn_types", "attn_only", "gated_mlp", "parallel_attn_mlp", "device")
    return TransformerBridgeConfig(**{field: getattr(shape, field) for field in fields})


def distance(a, b):
    """Largest difference of two runs' weights.

    Key biases are left out: softmax ignores them, so their gradient is rounding, which Adam scales up.
    """
    return max(float((p - b[name]).detach().abs().max()) for name, p in a.items() if not name.endswith("attn.b_K"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """One trained model for the tests that only look."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNIFYLENS_HOME", str(tmp_path_factory.mktemp("trained")))
        return quietly(tiny())[0]


@pytest.fixture
def press_ctrl_c(monkeypatch):
    """Press Ctrl-C while a member of a given width takes a step; `steps` lists (width, step) of all steps taken."""
    from unifylens.training.trainer import _Stack

    class Keyboard:
        steps = ()
        at = None
        times = 1

    keyboard = Keyboard()
    keyboard.steps = []
    advance = _Stack.advance

    def step(self):
        here = (self.experiments[0].model.d_model, self.step)
        keyboard.steps.append(here)
        if here == keyboard.at:
            for _ in range(keyboard.times):
                signal.raise_signal(signal.SIGINT)
        advance(self)

    monkeypatch.setattr(_Stack, "advance", step)
    return keyboard
