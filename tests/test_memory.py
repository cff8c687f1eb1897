"""What training takes and what there is, memory and more: against real models, a real process, made-up machines."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import tiny

import unifylens as ul
from unifylens import hardware
from unifylens.config import TEMPLATES
from unifylens.hardware import has_bfloat16_units as _has_bfloat16_units
from unifylens.model import initial_parameters, n_parameters, shape_of
from unifylens.training import cost as memory
from unifylens.training import rehearsal
from unifylens.training.batches import Batches
from unifylens.training.stack import Stacked, stack_parameters

ROOT = Path(__file__).parents[1]
SCRIPT = """
import json, os, resource, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
import unifylens as ul
from unifylens.training import cost as memory
from unifylens.training.trainer import train_stack

def peak_of_this_process():
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count the parent, whose pages a child has until it runs its own program
        return 1024 * next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

def peak(n_models, experiment):
    train_stack([experiment.replace(seed=seed) for seed in range(n_models)])
    return peak_of_this_process()

small = {"train.batch_size": 8, "model.d_model": 16, "model.d_mlp": 16, "model.n_layers": 1, "world.n_subjects": 24}

def measure(n_models, experiment):
    before = peak(1, experiment.replace(**small))
    after = peak(n_models, experiment)
    corpus, cpu = ul.Corpus.build(experiment), torch.device("cpu")
    return after - before, memory.Memory.of(experiment, corpus, cpu).of_stack(n_models)

def measure_in_a_child(n_models, experiment):
    reads, writes = os.pipe()  # each has a peak of its own, and torch is loaded once
    child = os.fork()
    if not child:
        os.write(writes, json.dumps(measure(n_models, experiment)).encode())
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, n_models
    os.close(writes)
    with os.fdopen(reads) as told:
        return json.load(told)

for n_models, given in json.load(sys.stdin):
    print(json.dumps(measure_in_a_child(n_models, ul.Experiment.model_validate(given))), flush=True)
"""


@pytest.mark.parametrize("normalization", ["LN", "LNPre", "RMS", "RMSPre", None])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"positional_embedding_type": "rotary"},
        {"local_blocks": 2},
        {"attn_only": True},
        {"gated_mlp": True},
        {"parallel_attn_mlp": True},
        {"n_experts": 3},
    ],
    ids=str,
)
def test_parameters_are_counted_without_building_the_model(normalization, fields):
    config = ul.ModelConfig(d_model=24, n_layers=3, n_heads=4, d_mlp=40, normalization=normalization, **fields)
    model = ul.build_model(config, 37, 5)
    assert n_parameters(config, 37, 5) == sum(p.numel() for p in model.parameters())


FULL = {"train.loss": "full"}
SHAPES = {
    "a large batch": ({"train.batch_size": 1024, "model.d_model": 64, "model.d_mlp": 256}, 24),
    "a large model": ({"train.batch_size": 32, "model.d_model": 256, "model.d_mlp": 512}, 12),
    "many facts, full loss": ({"world.n_subjects": 2000, "world.n_relations": 8, "world.n_objects": 16, **FULL}, 1),
    "many facts, several models": (
        {"world.n_subjects": 1000, "world.n_relations": 8, "world.n_objects": 16, **FULL},
        4,
    ),
    "many layers": ({"model.n_layers": 12, "train.batch_size": 512, "model.d_model": 64, "model.d_mlp": 256}, 4),
    "long prompts": (
        {
            "language.templates": (" ".join(f"w{i}" for i in range(40)) + " " + TEMPLATES["plain"],),
            "train.batch_size": 128,
            **FULL,
        },
        4,
    ),
    "pieces": (
        {
            "tokenizer": {"scheme": "bpe", "vocab_size": 150},
            "world.n_subjects": 200,
            "train.batch_size": 1024,
            "model.d_model": 64,
            "model.d_mlp": 256,
            **FULL,
        },
        1,
    ),
}
"""What is large, and how many models train."""


@pytest.mark.skipif(sys.platform != "linux", reason="peaks are those of glibc, as Linux tells them")
def test_what_models_take_is_near_the_peak_of_a_real_process(empty_store):
    short = {"train.steps": 2, "train.warmup": 0, "train.n_evaluations": 2}
    asked = [(n_models, tiny(**short, **changes).model_dump(mode="json")) for changes, n_models in SHAPES.values()]
    left, peaks = dict(zip(SHAPES, asked, strict=True)), {shape: (0, 0) for shape in SHAPES}
    for _ in range(6):  # the same training peaks a third lower in a process whose buffers happen to leave no holes
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT],
            input=json.dumps([*left.values()]),
            capture_output=True,
            text=True,
            timeout=600,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        )
        assert done.returncode == 0, done.stderr
        for shape, line in zip(left, done.stdout.splitlines(), strict=True):
            real, estimated = json.loads(line)
            peaks[shape] = max(peaks[shape], (real, estimated))
        left = {shape: left[shape] for shape in left if peaks[shape][1] > 1.15 * peaks[shape][0]}
        if not left:
            break
    for shape, (real, estimated) in peaks.items():
        assert real > 40 * 2**20, f"{shape}: too small to be measured"
        assert 1 / 1.15 < estimated / real < 1.25, (shape, real / 2**20, estimated / 2**20)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"train.loss": "full"},
        {"model.n_layers": 9, "model.local_blocks": 2},
        {"model.normalization": "RMS", "model.positional_embedding_type": "rotary", "model.act_fn": "relu"},
        {"tokenizer": {"scheme": "character"}},
        {"train.precision": "bfloat16"},
    ],
    ids=str,
)
def test_a_pass_without_numbers_holds_what_a_real_one_holds(changes):
    experiment = tiny(**changes)
    corpus, config = ul.Corpus.build(experiment), experiment.train
    shape = (experiment.model, corpus.d_vocab, corpus.n_ctx)
    asked, batches = rehearsal.Asked.of(corpus, config.loss), Batches([experiment], [corpus])
    tokens, due, at = batches[0]
    assert tokens.shape[2] == asked.n_in and due.shape[2] == asked.n_due and batches.shared == asked.shared
    assert (batches.query is None) == (asked.first is None)
    network = Stacked(shape_of(*shape), bfloat16=config.precision == "bfloat16")
    weights = stack_parameters([initial_parameters(network.cfg)])
    query = batches.query if at is None else at
    real = rehearsal._most_alive(lambda: network.loss_and_gradients(weights, tokens, due, query, batches.shared))
    told = rehearsal.bytes_of_step(*shape, config.batch_size, asked, network.bfloat16)
    assert 0.98 < told / real < 1.02 and real > 100_000


def test_what_cannot_be_counted_is_more_than_there_is():
    model = ul.ModelConfig(d_model=65_536, n_heads=65_536, d_mlp=1_000_000, n_layers=1000)
    asked = rehearsal.Asked(n_in=5000, n_due=5000, first=0, shared=0)
    assert rehearsal.bytes_of_step(model, 10**6, 5001, 10**6, asked) > 2**60


def test_each_dial_moves_its_part_and_the_largest_is_named():
    def parts(**changes):
        experiment = tiny(**changes)
        return memory.parts_per_model(experiment, ul.Corpus.build(experiment))

    plain = parts()
    for changes, moved in [
        ({"train.n_checkpoints": 6}, {"checkpoints"}),
        ({"train.batch_size": 64}, {"data", "step"}),
        ({"train.loss": "full"}, {"step"}),
        ({"model.d_mlp": 64}, {"weights", "checkpoints", "step"}),
        ({"world.n_relations": 30}, {"weights", "checkpoints", "data", "step"}),
    ]:
        changed = parts(**changes)
        assert {name for name in plain if changed[name] > plain[name]} == moved
        assert all(changed[name] >= plain[name] for name in plain)
    for changes, field in [
        ({"train.batch_size": 10_000}, "train.batch_size"),
        ({"model.d_model": 512, "train.n_checkpoints": 12}, "n_checkpoints"),
    ]:
        experiment = tiny(**changes)
        assert field in " ".join(memory.fields_that_decide(experiment, ul.Corpus.build(experiment)))


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine with 1000 bytes free and no control groups; returns a function that makes one."""
    monkeypatch.setattr(hardware.psutil, "virtual_memory", lambda: SimpleNamespace(available=1000))
    monkeypatch.setattr(hardware, "_CGROUP", tmp_path / "cgroup")

    def group(version, limit, used, statistics=""):
        folder = tmp_path / "cgroup" / ("" if version == 2 else "memory")
        folder.mkdir(parents=True, exist_ok=True)
        names = ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
        for name, text in zip((*names, "memory.stat"), (limit, used, statistics), strict=True):
            (folder / name).write_text(f"{text}\n")

    return group


def free():
    return hardware.free_bytes(torch.device("cpu"))


def test_free_memory_is_the_machines_or_what_the_control_group_leaves(machine):
    assert free() == 1000
    machine(2, "max", 700)
    assert free() == 1000
    machine(2, 900, 700)
    assert free() == 200
    machine(2, 900, 700, "anon 1\ninactive_file 100")  # a cache, given back when it is needed
    assert free() == 300
    machine(1, 9223372036854771712, 700)
    assert free() == 300
    machine(1, 800, 750, "total_inactive_file 30")
    assert free() == 80
    machine(1, 800, 850)
    assert free() == 0


def test_a_gpus_memory_is_asked_of_torch(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (5, 9))
    assert hardware.free_bytes(torch.device("cuda")) == 5


# --- bfloat16 ------------------------------------------------------------------------------------------------

BFLOAT16 = {"train.steps": 2, "train.warmup": 0, "train.n_evaluations": 2, "train.precision": "bfloat16"}


def told_of(*experiments):
    """Warnings of training in this process, which has not warned before."""
    hardware.warn_of_slow_bfloat16.cache_clear()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for experiment in experiments:
            ul.train(experiment, progress=False)
    return [str(warning.message) for warning in told]


def test_a_processor_without_units_for_bfloat16_is_warned_of_once(monkeypatch):
    monkeypatch.setattr(hardware, "has_bfloat16_units", lambda: False)
    monkeypatch.setattr(hardware, "_seconds", lambda a, b: 0.085 if a.dtype == torch.bfloat16 else 0.014)
    (text,) = told_of(*(tiny(**BFLOAT16, seed=seed) for seed in range(2)))
    assert "train.precision='bfloat16' is about 6 times slower" in text and "Use train.precision='float32'" in text
    assert not told_of(tiny(**BFLOAT16 | {"train.precision": "float32"}))


def test_a_processor_with_units_for_bfloat16_is_not_warned_of(monkeypatch):
    monkeypatch.setattr(hardware, "_seconds", lambda a, b: pytest.fail("nothing is to be measured"))
    assert not told_of(tiny(**BFLOAT16))


@pytest.mark.parametrize(
    ("capabilities", "units"),
    [
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
        ({"neon": True, "bf16": True}, True),
        ({"avx512_f": True, "avx2": True, "avx512_bf16": False, "cpu_name": "i7"}, False),
    ],
)
def test_units_for_bfloat16_are_what_the_processor_says(monkeypatch, capabilities, units):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert _has_bfloat16_units.__wrapped__() is units
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    cpuinfo = " ".join(name for name, value in capabilities.items() if value)
    monkeypatch.setattr(Path, "read_text", lambda self: f"flags : fpu {cpuinfo}")
    monkeypatch.setattr(Path, "exists", lambda self: True)
    assert _has_bfloat16_units.__wrapped__() is units
