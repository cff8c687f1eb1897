"""The benchmark of training: every route trains, they do the same work, and the arithmetic of the report is right."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import asdict

import pytest
import torch
import torch.nn.functional as F
from conftest import tiny

from benchmarks import ours, routes
from benchmarks import training as bench
from benchmarks.common import SIZES, Size, Training

TINY = Size(d_model=16, n_layers=2, n_heads=2, d_mlp=32, d_vocab=300, batch=32, n_rows=32)
TINY_ANSWERS = Size(d_model=16, n_layers=1, n_heads=2, d_mlp=32, d_vocab=300, batch=32, length=8, n_answer=3, n_rows=32)
BUILD = {
    "plain": routes.plain_loop,
    "vmap": lambda size: routes.vmap_loop(size, 2),
    "compact": routes.compact_gpt,
    "ours": lambda size: ours.ours(size, 2),
}


# --- routes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [TINY, TINY_ANSWERS], ids=["one answer token", "three answer tokens"])
@pytest.mark.parametrize("route", BUILD)
def test_a_route_trains(route, size, monkeypatch):
    monkeypatch.setattr(routes, "LR", 1e-2)
    trained = BUILD[route](size)
    losses = [float(trained.step()) for _ in range(60)]
    assert sum(losses[-5:]) / 5 < losses[0] - 0.3
    assert trained.n_models == (2 if route in ("vmap", "ours") else 1)
    assert bench.count_flops(trained) > 0


def test_the_packages_own_loop_trains_without_a_word(capfd):
    model = routes.hooked(TINY, "cpu", seed=0)
    tokens = routes.sequences(TINY, seed=0)
    before = model(tokens, return_type="loss").item()
    trained = routes.package_train(TINY, model=model)
    for _ in range(30):
        trained.step()
    assert model(tokens, return_type="loss").item() < before - 0.3
    assert trained.n_steps == 1
    assert routes.package_train(Size(**asdict(TINY) | {"n_rows": 9600}), model=model).n_steps == routes.STEPS_PER_PASS
    assert capfd.readouterr() == ("", "")


def test_vmap_starts_where_the_plain_loops_start(monkeypatch):
    batches = [routes.sequences(TINY, seed) for seed in range(2)]
    monkeypatch.setattr(routes, "draws", lambda size, device, seeds: lambda: torch.stack([batches[s] for s in seeds]))
    plain = [routes.plain_loop(TINY, seed=seed) for seed in range(2)]
    together = routes.vmap_loop(TINY, 2)
    for _ in range(3):  # and stays with them
        expected = sum(float(trained.step()) for trained in plain) / 2
        assert float(together.step()) == pytest.approx(expected, abs=1e-5)


def test_the_loss_is_that_of_the_answer():
    tokens = routes.sequences(TINY_ANSWERS, seed=0)
    logits = torch.randn(len(tokens), 7, 300)
    each = [F.cross_entropy(logits[:, position - 1], tokens[:, position]) for position in (5, 6, 7)]
    assert float(routes.answer_loss(logits, tokens, 3)) == pytest.approx(float(sum(each)) / 3, abs=1e-5)
    assert (tokens[:, 0] == 0).all() and (tokens[:, 1:] > 0).all()


@pytest.mark.parametrize("size", [TINY, *SIZES.values()])
def test_all_models_have_the_same_number_of_parameters(size):
    compact = sum(p.numel() for p in routes.CompactGPT(size).parameters())
    assert compact == sum(p.numel() for p in routes.hooked(size, "cpu", seed=0).parameters())


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_our_experiments_have_the_shape_of_a_size(size):
    experiment = ours.experiment(size, seed=3)
    corpus = ours.ul.Corpus.build(experiment)
    assert (corpus.d_vocab, corpus.n_ctx) == (size.d_vocab, size.length)
    if size == SIZES["default"]:
        default = ours.ul.Experiment(seed=3)
        assert (experiment.world, experiment.model) == (default.world, default.model)
        assert size.n_rows == corpus.n_rows


def test_the_sweep_is_timed_with_its_parts(monkeypatch):
    monkeypatch.setattr(ours.ul.designs, "parallel_levels", lambda: [({}, tiny(seed=seed)) for seed in range(3)])
    result = ours.sweep("cpu")
    assert (result["n_models"], result["n_steps"]) == (3, 40)
    grid = ours.swept("cuda")
    assert len(set(grid)) == bench.N_SWEPT["cuda"] and len({e.train for e in grid}) == 1
    shares = [result[f"share_{part}"] for part in ("evaluate", "checkpoint", "finish")]
    assert result["seconds"] > 0 and min(shares) > 0 and sum(shares) < 1


# --- measuring -----------------------------------------------------------------------------------------------


def test_competitors_are_measured_without_unifylens():
    spec = {"route": "compact", "size": asdict(TINY), "device": "cpu", "n_models": 1, "seconds": 0.05, "n_threads": 1}
    code = "import sys; from benchmarks.training import main; main(); assert 'unifylens' not in sys.modules"
    command = [sys.executable, "-c", code, "--measure", json.dumps(spec)]
    done = subprocess.run(command, cwd=bench.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["ms"] > 0 and result["n_threads"] == 1 and result["n_timed"] >= 3
    assert result["examples_per_second"] == pytest.approx(32 * 1000 / result["ms"])
    per_second = result["flops"] * 1000 / result["ms"]
    assert result["utilisation"] == pytest.approx(per_second / result["peak_flops_per_second"])


def test_attention_is_counted():
    query = torch.randn(2, 4, 3, 16)

    def step():
        torch.nn.functional.scaled_dot_product_attention(query, query, query, is_causal=True)

    assert bench.count_flops(Training(step, n_models=1, n_steps=2)) == 2 * 2 * 2 * 4 * 3 * 3 * 16 / 2


def test_a_timing_is_per_step_and_comes_after_the_warm_up(monkeypatch):
    clock, events = [0.0], []

    def step():
        events.append("step")
        clock[0] += 0.5 if len(events) == 1 else 0.1  # the first is slow

    monkeypatch.setattr(bench.time, "perf_counter", lambda: clock[0])
    ms, n_timed = bench.time_steps(Training(step, 1, n_steps=5), 1.0, ready=lambda: events.append("ready"))
    assert ms == pytest.approx(100 / 5) and n_timed in (10, 11)
    assert events[:2] == ["step", "ready"]


def test_processes_at_the_same_time_add_up():
    parts = [{"ms": 10.0, "flops": 1e6, "memory_mb": 20.0, "n_timed": 5}] * 2
    whole = bench.combined(TINY, parts, peak=1e9)
    assert (whole["ms"], whole["memory_mb"], whole["n_processes"]) == (5.0, 40.0, 2)
    assert whole["utilisation"] == pytest.approx(1e6 / 5e-3 / 1e9)


def test_a_failed_measurement_is_told(tmp_path):
    spec = {"route": "nothing", "device": "cpu"}
    assert bench.run_measurement(spec)["error"] == "KeyError: 'nothing'"


def test_an_interruption_ends_all_processes(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    late, before = tmp_path / "late", signal.signal(signal.SIGALRM, interrupt)
    monkeypatch.setattr(bench, "measure_command", lambda spec: ["sh", "-c", f"(sleep 0.8; touch '{late}') & wait"])
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(KeyboardInterrupt):
            bench.run_measurement({"device": "cpu"})
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    time.sleep(1)
    assert not late.exists()


# --- summary and report --------------------------------------------------------------------------------------


def measured(route, repeat, ms, n_models=1, size="default"):
    derived = bench.derived(SIZES[size], ms, flops=1e6, peak=1e11)
    return {"size": size, "route": route, "n_models": n_models, "repeat": repeat, "memory_mb": 12.0, **derived}


MEASUREMENTS = [
    measured("plain", 0, 10.0),
    measured("ours", 0, 2.0),
    measured("ours", 0, 1.0, n_models=16),
    measured("plain", 1, 20.0),
    measured("ours", 1, 8.0),
    measured("ours", 1, 2.0, n_models=16),
    measured("plain", 2, 12.0),
    measured("ours", 2, 3.0),
    measured("ours", 2, 2.0, n_models=16),
    {"size": "default", "route": "vmap", "n_models": 1, "repeat": 0, "error": "out of memory"},
]


def test_ratios_are_taken_within_a_repeat():
    rows = {(row["route"], row["n_models"]): row for row in bench.summarise(MEASUREMENTS)}
    assert rows["ours", 1]["ms"] == {"median": 3.0, "min": 2.0, "max": 8.0}
    assert rows["ours", 1]["speed"] == {"median": 4.0, "min": 2.5, "max": 5.0}
    assert rows["ours", 16]["speed"] == {"median": 10.0, "min": 6.0, "max": 10.0}
    assert rows["plain", 1]["speed"]["max"] == 1.0
    assert rows["vmap", 1]["error"] == "out of memory"
    without = bench.summarise([m for m in MEASUREMENTS if m["route"] == "ours"])
    assert all("speed" not in row for row in without)


def test_targets_are_judged():
    first, second = bench.judge(bench.summarise(MEASUREMENTS), "cpu")
    assert (first["n_models"], first["met"], first["stretch_met"]) == (1, True, None)
    assert (second["n_models"], second["met"], second["stretch_met"]) == (16, True, True)
    slow = [measured("plain", 0, 10.0), measured("ours", 0, 5.0)]
    first, second = bench.judge(bench.summarise(slow), "cpu")
    assert first["met"] is False and second["met"] is None
    assert [t["n_models"] for t in bench.judge([], "cuda")] == [256]


SWEEP = {"seconds": 30.0, "share_evaluate": 0.2, "share_checkpoint": 0.01, "share_finish": 0.1}


def test_all_is_written_after_every_measurement_and_on_interruption(tmp_path, monkeypatch, capsys):
    done = []

    def run(spec):
        if len(done) == 5:
            raise KeyboardInterrupt
        done.append(spec)
        if len(done) > 1:
            assert len(json.loads((tmp_path / "training_cpu.json").read_text())["measurements"]) == len(done) - 1
        if spec["route"] == "sweep":
            return SWEEP
        ms = {"plain": 10.0, "ours": 2.0}[spec["route"]]
        return {"memory_mb": 12.0, **bench.derived(Size(**spec["size"]), ms, flops=1e6, peak=1e11)}

    monkeypatch.setattr(bench, "run_measurement", run)
    arguments = ["--only", "plain", "ours", "--sizes", "default", "--models", "1", "16", "--output", str(tmp_path)]
    assert bench.main(arguments) == 130
    assert [spec["route"] for spec in done] == ["plain", "ours", "ours", "sweep", "plain"]
    results = json.loads((tmp_path / "training_cpu.json").read_text())
    assert len(results["measurements"]) == 5 and results["machine"]["torch"] == torch.__version__
    text = (tmp_path / "training_cpu.md").read_text()
    assert text in capsys.readouterr().out
    assert "| unifylens, 16 at once | 2.00 [2.00–2.00] | 5.00 [5.00–5.00] | 128,000 | 1.00 | 0.5 % " in text
    assert "| unifylens, end to end | 30.0 [30.0–30.0] | measured |" in text
    assert "| plain loop | 216 [216–216] | computed, training alone |" in text
    assert "evaluate 20.0 %, checkpoint 1.0 %, finish 10.0 %" in text
    assert "| `default`, 16 at once | 6 | 5.00 [5.00–5.00] | missed, stretch 9 missed |" in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["training_cpu.json", "training_cpu.md"]


def test_a_failed_case_stands_in_the_report():
    results = {
        "machine": bench.machine("cpu"),
        "date": "2000-01-01",
        "arguments": {"sizes": ["default"], "repeats": 1, "seconds": 3.0},
        "summary": bench.summarise(MEASUREMENTS),
        "targets": [],
    }
    assert "| vmap over HookedTransformer, 1 at once | failed: out of memory | – |" in bench.report(results)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "fast"], "choose from plain, processes, package, vmap, compact, ours"),
        (["--sizes", "huge"], "choose from default, wide, multi-token"),
        (["--models", "0"], "0 is not allowed; allowed: 1 to 1024"),
        (["--models", "2000"], "allowed: 1 to 1024"),
        (["--repeats", "x"], "x is not allowed; allowed: 1 to"),
        (["--seconds", "-1"], "allowed: a number above 0"),
        (["--device", "tpu"], "choose from cpu, cuda"),
        (["--device", "cuda"], "torch sees no GPU here; allowed: cpu"),
    ],
)
def test_wrong_arguments_name_what_is_allowed(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as stopped:
        bench.main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err.replace("'", "")  # quoted up to Python 3.11


def test_processes_are_for_the_cpu(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(SystemExit):
        bench.main(["--only", "processes", "--device", "cuda"])
    assert "allowed: plain, package, vmap, compact, ours" in capsys.readouterr().err


def test_every_loss_on_states_is_timed_beside_a_plain_stack(monkeypatch):
    from benchmarks import state_losses

    monkeypatch.setattr(state_losses, "STEPS", 1)
    ratios = state_losses.measure(1, 2, lambda: None)
    assert ratios.keys() == state_losses.LOSSES.keys()
    assert all(len(values) == 2 and min(values) > 0 for values in ratios.values())
