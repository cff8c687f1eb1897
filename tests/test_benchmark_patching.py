"""The benchmark of patching: all routes find the same numbers, and the arithmetic of the report is right."""

import json
from dataclasses import asdict, replace

import pytest
import torch

from benchmarks import patching as bench
from benchmarks.common import Size

TINY = Size(d_model=16, n_layers=2, n_heads=2, d_mlp=32, d_vocab=50, length=4, n_rows=24)
SETTINGS = {
    "model": bench.Setting(TINY),
    "some positions": bench.Setting(TINY, positions=(1, 3)),
    "bridge": bench.Setting(TINY, bridge=True),
}


def spec(setting, route):
    return {"route": route, "setting": asdict(setting), "device": "cpu", "seconds": 0.001}


# --- measuring -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_all_routes_find_the_same(setting, monkeypatch):
    monkeypatch.setattr(bench, "matmul_peak", lambda *_: 1e9)
    monkeypatch.setattr(bench, "N_PAIRS", 6)
    monkeypatch.setitem(bench.ROUTES, "ours-5", replace(bench.ROUTES["ours-64"], batch_size=5))
    n_positions = len(setting.positions or range(TINY.length))
    reference = {}
    for name in ("plain", "package", "ours", "ours-5"):
        if setting.bridge and not bench.ROUTES[name].bridge:
            continue
        result = bench.measure(spec(setting, name))
        n_layers = TINY.n_layers + (name != "package")
        assert (result["n_places"], len(result["few"])) == (n_layers * n_positions,) * 2
        assert (result["all"] is None) == (name == "plain")
        assert result["n_pairs"] == (bench.N_PAIRS if name == "plain" else TINY.n_rows)
        assert result["flops"] > 0 and result["us"] > 0
        assert result["utilisation"] == pytest.approx(result["flops"] / (result["us"] / 1e6) / 1e9)
        found = bench.checked(result, "dish", reference)
        assert found["difference"] < 1e-5 and not {"few", "all"} & set(found)
    assert {which for _, which in reference} == {"few", "all"}
    for found in reference.values():  # else it would say nothing that they are equal
        assert max(found) - min(found) > 100 * bench.TOLERANCE


def test_wide_is_wider_and_dish_is_the_default_with_one_more_layer():
    assert replace(bench.DISH, n_layers=2, length=4, n_rows=9600) == Size()
    assert bench.SETTINGS["bridge"].size == bench.SETTINGS["dish"].size
    assert max(bench.SETTINGS["wide"].positions) == bench.SETTINGS["wide"].size.length - 1


def test_other_numbers_are_an_error():
    reference = {("dish", "few"): [1.0, 2.0, 3.0]}
    same = {"us": 1.0, "few": [1.0, 2.00005], "all": None}
    assert bench.checked(same, "dish", reference) == {"us": 1.0, "difference": pytest.approx(5e-5)}
    for other in (2.001, float("nan")):
        assert "finds other numbers" in bench.checked({"few": [1.0, other], "all": None}, "dish", reference)["error"]
    assert bench.checked({"few": [7.0], "all": None}, "wide", reference)["difference"] == 0
    assert bench.checked({"error": "no"}, "dish", reference) == {"error": "no"}


def test_memory_is_what_came_on_top():
    before = torch.zeros(32 * 2**20 // 4)
    with bench.watch_memory(cuda=False) as grown:
        torch.ones(64 * 2**20 // 4)  # and freed
    assert 60 < grown[0] < 80
    assert len(before)


def test_a_timing_is_the_median_of_enough_calls(monkeypatch):
    clock, took = [0.0], iter([5.0, 1.0, 2.0, 4.0])

    def run():
        clock[0] += next(took)
        return clock[0]

    monkeypatch.setattr(bench.time, "perf_counter", lambda: clock[0])
    assert bench.timed(run, 7.5, lambda: None) == (2.0, 3, 8.0)


def test_cases_leave_out_what_is_not_possible_or_the_same():
    assert [c["route"] for c in bench.cases(["dish"])] == list(bench.ROUTES)
    assert "package" not in [c["route"] for c in bench.cases(["bridge"])]
    assert [c["route"] for c in bench.cases(["wide"])] == [
        "plain",
        "package",
        "ours",
        "ours-64",
        "ours-256",
        "ours-512",
    ]


# --- summary and report --------------------------------------------------------------------------------------


def measured(route, repeat, us, batch_size=512.0, memory=100.0):
    numbers = {"memory_mb": memory, "batch_size": batch_size, "difference": 1e-7}
    return {"size": "dish", "route": route, "repeat": repeat, **numbers, **bench.derived(us, flops=1e6, peak=1e11)}


MEASUREMENTS = [
    measured("plain", 0, 1000.0),
    measured("package", 0, 40.0),
    measured("ours", 0, 20.0),
    measured("ours-64", 0, 10.0, batch_size=64),
    measured("ours-512", 0, 20.0),
    measured("plain", 1, 4000.0),
    measured("package", 1, 200.0),
    measured("ours", 1, 50.0, memory=3000.0),
    measured("ours-64", 1, 100.0, batch_size=64),
    measured("ours-512", 1, 40.0),
    {"size": "dish", "route": "ours-256", "repeat": 0, "error": "out of | memory"},
]


def test_ratios_are_taken_within_a_repeat():
    rows = {row["route"]: row for row in bench.summarise(MEASUREMENTS)}
    assert rows["ours"]["us"] == {"median": 35.0, "min": 20.0, "max": 50.0}
    assert rows["ours"]["speed"]["plain"] == {"median": 65.0, "min": 50.0, "max": 80.0}
    assert rows["ours"]["speed"]["package"] == {"median": 3.0, "min": 2.0, "max": 4.0}
    assert rows["ours-64"]["speed"]["ours"] == {"median": 1.25, "min": 0.5, "max": 2.0}
    assert rows["ours-256"]["error"] == "out of | memory"
    without = bench.summarise([m for m in MEASUREMENTS if m["route"] == "ours-64"])
    assert without[0]["speed"] == {}
    assert bench.best_batch_size(list(rows.values()), "dish")["route"] == "ours-512"
    assert bench.best_batch_size(list(rows.values()), "wide") is None


def test_the_target_is_judged():
    rows = bench.summarise(MEASUREMENTS)
    assert bench.judge(rows)["met"] is False  # by the largest
    assert bench.judge([row for row in rows if row["route"] != "ours"])["met"] is None
    assert bench.judge(bench.summarise(MEASUREMENTS[:5]))["met"] is True


def test_all_is_written_after_every_measurement_and_on_interruption(tmp_path, monkeypatch, capsys):
    done = []

    def run(spec):
        if len(done) == 6:
            raise KeyboardInterrupt
        done.append(spec["route"])
        if spec["route"] == "ours-256":
            return {"error": "out of | memory"}
        us = {"plain": 1000.0, "package": 40.0}.get(spec["route"], 20.0)
        found = [1.0, 2.0 if spec["route"] != "ours-64" else 3.0]
        return {
            "memory_mb": 12.0,
            "batch_size": 512,
            **bench.derived(us, flops=1e6, peak=1e11),
            "few": found,
            "all": None,
        }

    monkeypatch.setattr(bench, "run_measurement", run)
    assert bench.main(["--sizes", "dish", "--repeats", "1", "--output", str(tmp_path)]) == 130
    assert done == ["plain", "package", "ours", "ours-64", "ours-256", "ours-512"]
    results = json.loads((tmp_path / "patching_cpu.json").read_text())
    assert len(results["measurements"]) == 6 and results["target"]["met"] is True
    text = (tmp_path / "patching_cpu.md").read_text()
    assert text in capsys.readouterr().out
    row = "| unifylens | 20.0 [20.0–20.0] | 50.0 [50.0–50.0] | 2.00 [2.00–2.00] | 1.00 | 50.0 % [50.0 %–50.0 %] | 12.0 "
    assert row in text
    assert "| unifylens, 256 at a time | failed: out of   memory |" in text
    assert "| unifylens, 64 at a time | failed: finds other numbers than the first route: 1 apart |" in text
    assert "Fastest batch size: 512, at 1.00 [1.00–1.00] × the speed of the usual 512." in text
    assert "under 2,048 MB; reached 12.0 [12.0–12.0]: met." in text
    assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["patching_cpu.json", "patching_cpu.md"]


def test_a_failed_measurement_ends_with_code_1(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "run_measurement", lambda spec: {"error": "no"})
    assert bench.main(["--sizes", "wide", "--repeats", "1", "--output", str(tmp_path)]) == 1
    assert "not measured" in (tmp_path / "patching_cpu.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sizes", "huge"], "choose from dish, wide, bridge"),
        (["--repeats", "0"], "0 is not allowed; allowed: 1 to 1024"),
        (["--repeats", "x"], "x is not allowed; allowed: 1 to 1024"),
        (["--seconds", "nan"], "nan is not allowed; allowed: a number above 0"),
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
