"""How fast small models train, beside what one would use instead: `python -m benchmarks.training --help`.

Every measurement runs in a process of its own; routes take turns within each repeat, so that a slow minute of the
machine meets all of them.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.common import (
    RESULTS,
    ROOT,
    SIZES,
    Size,
    Training,
    core_count,
    count,
    count_flops,
    interval,
    machine,
    matmul_peak,
    number,
    one_after_the_other,
    positive,
    refuse_missing_gpu,
    replace_files,
    run_process,
    spread,
    table,
)

MODELS = {"cpu": [1, 4, 16, 64], "cuda": [1, 16, 64, 256, 1024]}
MODELS_OF_OTHER_SIZES = {"cpu": [1, 16], "cuda": [1, 64]}
SWEEP = {"size": "default", "n_steps": 900}
N_SWEPT = {"cpu": 24, "cuda": 500}
"""Models of the quick sweep, end to end: 6 levels x 4 seeds; on a GPU a grid of 10 x 10 x 5 seeds."""


@dataclass(frozen=True)
class Route:
    title: str
    function: str
    """`module.function` in this package."""
    stacked: bool = False
    """Takes a number of models to train at once."""
    devices: tuple[str, ...] = ("cpu", "cuda")
    one_per_core: bool = False
    """Run as many processes of one thread as there are cores."""


ROUTES = {
    "plain": Route("plain loop", "routes.plain_loop"),
    "processes": Route("plain loop, one process per core", "routes.plain_loop", devices=("cpu",), one_per_core=True),
    "package": Route("transformer_lens.train", "routes.package_train"),
    "vmap": Route("vmap over HookedTransformer", "routes.vmap_loop", stacked=True),
    "compact": Route("nanoGPT-style", "routes.compact_gpt"),
    "ours": Route("unifylens", "ours.ours", stacked=True),
    "ours-bfloat16": Route("unifylens, bfloat16", "ours.ours_bfloat16", stacked=True),
}
BASELINE = "plain"


@dataclass(frozen=True)
class Target:
    """How many times as fast per model as the plain loop, written down before the work on speed began."""

    device: str
    size: str
    n_models: int
    at_least: float
    stretch: float | None = None


TARGETS = (
    Target("cpu", "default", 1, 3.5),
    Target("cpu", "default", 16, 6.0, stretch=9.0),
    Target("cuda", "default", 256, 50.0),
)

# --- one measurement, in its own process -----------------------------------------------------------------------


def measure(spec: dict[str, Any]) -> dict[str, Any]:
    """Carry out one measurement: `route` (or "sweep"), fields of `size`, `device`, `n_models`, `seconds`."""
    if spec["route"] == "sweep":
        result = importlib.import_module("benchmarks.ours").sweep(spec["device"])
        return {**result, "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
    route = ROUTES[spec["route"]]
    if route.one_per_core and "n_threads" not in spec:
        return measure_processes(spec)
    module, _, name = route.function.partition(".")
    build = getattr(importlib.import_module(f"benchmarks.{module}"), name)  # first of all: see ours.py
    import torch

    if "n_threads" in spec:
        torch.set_num_threads(spec["n_threads"])
    n_threads, cuda = torch.get_num_threads(), spec["device"] == "cuda"
    synchronize = torch.cuda.synchronize if cuda else lambda: None
    size = Size(**spec["size"])
    arguments = {"n_models": spec["n_models"]} if route.stacked else {}
    if module != "ours":  # unifylens chooses the device
        arguments["device"] = spec["device"]
    few = {"n_models": 1} if route.stacked else {}
    # what is imported when first needed is no memory of the models
    build(replace(size, d_model=16, n_layers=1, n_heads=2, d_mlp=32, batch=16), **arguments | few).step()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    trained = build(size, **arguments)
    ready = wait_for_the_others if spec.get("wait") else None
    ms, n_timed = time_steps(trained, spec["seconds"], synchronize, at_once=10 if cuda else 1, ready=ready)
    if cuda:
        memory = torch.cuda.max_memory_allocated() / 2**20
    else:
        memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    flops = count_flops(trained) / trained.n_models
    torch.set_num_threads(n_threads)
    peak = matmul_peak(spec["device"], synchronize)
    return derived(size, ms / trained.n_models, flops, peak) | {
        "memory_mb": memory,
        "n_timed": n_timed,
        "n_threads": n_threads,
    }


def derived(size: Size, ms: float, flops: float, peak: float) -> dict[str, float]:
    """What follows from milliseconds and operations per model and step."""
    per_second = 1000 / ms
    return {
        "ms": ms,
        "examples_per_second": size.batch * per_second,
        "flops": flops,
        "peak_flops_per_second": peak,
        "utilisation": flops * per_second / peak,
    }


def time_steps(
    trained: Training,
    seconds: float,
    synchronize: Callable[[], None] = lambda: None,
    at_once: int = 1,
    ready: Callable[[], None] | None = None,
) -> tuple[float, int]:
    """Milliseconds of a step of all models, the median over timings; and the number of timings.

    A timing covers `at_once` steps or more; `ready` is called between warm-up and timing.
    """

    def timings(budget: float, at_least: int, calls: int) -> list[float]:
        times, start = [], time.perf_counter()
        while len(times) < at_least or time.perf_counter() - start < budget:
            synchronize()
            began = time.perf_counter()
            for _ in range(calls):
                trained.step()
            synchronize()
            times.append(1000 * (time.perf_counter() - began) / (calls * trained.n_steps))
        return times

    timings(seconds / 4, at_least=-(-3 // trained.n_steps), calls=1)  # warm-up
    if ready is not None:
        ready()
    times = timings(seconds, at_least=3, calls=-(-at_once // trained.n_steps))
    return statistics.median(times), len(times)


def wait_for_the_others() -> None:
    """Say that warm-up is over, and wait until told to go on (or nobody is there to tell)."""
    print("ready", flush=True)
    if not sys.stdin.readline():
        sys.exit("the measuring process has gone")


def measure_processes(spec: dict[str, Any]) -> dict[str, Any]:
    """The same in as many processes of one thread as there are cores, timed at the same time."""
    spec = spec | {"n_threads": 1, "wait": True}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    children = [subprocess.Popen(measure_command(spec), cwd=ROOT, **pipes) for _ in range(core_count())]
    for child in children:
        while (line := child.stdout.readline()).strip() != "ready":
            if not line:
                raise RuntimeError("a process ended before it was ready")
    for child in children:
        child.stdin.write("go\n")
        child.stdin.flush()
    parts = [json.loads(child.communicate()[0].splitlines()[-1]) for child in children]
    import torch

    torch.set_num_threads(core_count())
    return combined(Size(**spec["size"]), parts, matmul_peak(spec["device"], lambda: None))


def combined(size: Size, parts: list[dict[str, Any]], peak: float) -> dict[str, Any]:
    """The measurement that processes at the same time amount to."""
    ms = 1 / sum(1 / part["ms"] for part in parts)
    return derived(size, ms, parts[0]["flops"], peak) | {
        "memory_mb": sum(part["memory_mb"] for part in parts),
        "n_timed": sum(part["n_timed"] for part in parts),
        "n_threads": 1,
        "n_processes": len(parts),
    }


# --- all measurements ------------------------------------------------------------------------------------------


def measure_command(spec: dict[str, Any]) -> list[str]:
    return [sys.executable, "-m", "benchmarks.training", "--measure", json.dumps(spec)]


def run_measurement(spec: dict[str, Any]) -> dict[str, Any]:
    return run_process(measure_command(spec), spec["device"])


def cases(args: argparse.Namespace) -> list[dict[str, Any]]:
    """What one repeat measures, in order."""
    found = []
    for size in args.sizes:
        for name in args.only:
            if args.device in ROUTES[name].devices:
                usual = MODELS if size == SWEEP["size"] else MODELS_OF_OTHER_SIZES
                counts = (args.models or usual[args.device]) if ROUTES[name].stacked else [1]
                found += [{"size": size, "route": name, "n_models": count} for count in counts]
    if args.sweep and "ours" in args.only:
        found.append({"size": SWEEP["size"], "route": "sweep", "n_models": N_SWEPT[args.device]})
    return found


def key(m: dict[str, Any]) -> tuple:
    return m["size"], m["route"], m["n_models"]


def summarise(measurements: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a case: median, least and largest over repeats of all numbers, and of speed relative to the plain loop.

    Ratios are taken within a repeat, whose measurements were made near each other.
    """
    plain = {(m["size"], m["repeat"]): m["ms"] for m in measurements if m["route"] == BASELINE and "ms" in m}
    rows = []
    for case in dict.fromkeys(map(key, measurements)):
        same = [m for m in measurements if key(m) == case]
        row: dict[str, Any] = dict(zip(("size", "route", "n_models"), case, strict=True))
        good = [m for m in same if "error" not in m]
        if not good:
            rows.append(row | {"error": same[-1]["error"]})
            continue
        numbers = [n for n in good[0] if n not in ("size", "route", "n_models", "repeat")]
        row |= {"n_repeats": len(good)} | {n: spread([m[n] for m in good]) for n in numbers}
        ratios = [
            plain[m["size"], m["repeat"]] / m["ms"] for m in good if "ms" in m and (m["size"], m["repeat"]) in plain
        ]
        if ratios:
            row["speed"] = spread(ratios)
        rows.append(row)
    return rows


def judge(rows: list[dict[str, Any]], device: str) -> list[dict[str, Any]]:
    """The targets of this device beside what was reached; `met` is None where it was not measured."""
    ours = {(row["size"], row["n_models"]): row.get("speed") for row in rows if row["route"] == "ours"}
    judged = []
    for target in (t for t in TARGETS if t.device == device):
        speed = ours.get((target.size, target.n_models))
        met = None if speed is None else speed["median"] >= target.at_least
        stretch = None if speed is None or target.stretch is None else speed["median"] >= target.stretch
        judged.append(asdict(target) | {"reached": speed, "met": met, "stretch_met": stretch})
    return judged


# --- the report ------------------------------------------------------------------------------------------------


def label(row: dict[str, Any]) -> str:
    return ROUTES[row["route"]].title + (f", {row['n_models']} at once" if ROUTES[row["route"]].stacked else "")


def report(results: dict[str, Any]) -> str:
    """All results as markdown."""
    machine, arguments = results["machine"], results["arguments"]
    parts = [
        f"# Training small models on {machine['device_name']}",
        f"{results['date'][:10]}; {machine['cpu']}, {machine['n_cores']} cores, torch {machine['torch']} with "
        f"{machine['n_threads']} threads; median [least–largest] of {arguments['repeats']} interleaved repeats, each "
        f"{arguments['seconds']:g} s in a process of its own. `× plain loop`: speed per model, within a repeat. "
        "Utilisation: counted operations of matrix products against those of a large float32 matrix product.",
    ]
    for size in arguments["sizes"]:
        rows = [row for row in results["summary"] if row["size"] == size and row["route"] != "sweep"]
        if not rows:
            continue
        shape = SIZES[size]
        parts.append(
            f"## Size `{size}`: {shape.n_layers} layers of width {shape.d_model}, MLP {shape.d_mlp}, vocabulary "
            f"{shape.d_vocab}, batches of {shape.batch} sequences of {shape.length} tokens ({shape.n_answer} answer)"
        )
        header = "route, ms per model and step, × plain loop, examples/s, MFLOP per model and step, utilisation"
        lines = []
        for row in rows:
            if "error" in row:
                lines.append([label(row), f"failed: {row['error'][:80].replace('|', ' ')}", *["–"] * 5])
                continue
            lines.append(
                [
                    label(row),
                    interval(row["ms"]),
                    interval(row.get("speed")),
                    number(row["examples_per_second"]["median"]),
                    number(row["flops"]["median"] / 1e6),
                    interval(row["utilisation"], 100, " %"),
                    interval(row["memory_mb"]),
                ]
            )
        parts.append(table([*header.split(", "), "peak memory (MB)"], lines))
    parts += sweep_report(results["summary"])
    if results["targets"]:
        words = {True: "met", False: "missed", None: "not measured"}
        lines = []
        for t in results["targets"]:
            verdict = words[t["met"]]
            if t["stretch_met"] is not None:
                verdict += f", stretch {t['stretch']:g} {words[t['stretch_met']]}"
            lines.append(
                [f"`{t['size']}`, {t['n_models']} at once", f"{t['at_least']:g}", interval(t["reached"]), verdict]
            )
        parts.append("## Targets: times as fast per model as the plain loop")
        parts.append(table(["case", "at least", "reached", "verdict"], lines))
    return "\n\n".join(parts) + "\n"


def sweep_report(rows: list[dict[str, Any]]) -> list[str]:
    """Section on the sweep: ours measured, beside it what the other routes' steps add up to."""
    measured = [row for row in rows if row["route"] == "sweep"]
    if not measured:
        return []
    lines, notes = [], ""
    for row in measured:
        if "error" in row:
            lines.append(["unifylens, end to end", f"failed: {row['error'][:80].replace('|', ' ')}", "measured"])
            continue
        lines.append(["unifylens, end to end", interval(row["seconds"]), "measured"])
        shares = [
            f"{what} {100 * row[f'share_{what}']['median']:.1f} %" for what in ("evaluate", "checkpoint", "finish")
        ]
        notes = f"Shares of the stacks' time end to end: {', '.join(shares)}. "
    n_models = measured[0]["n_models"]
    for row in rows:
        if row["size"] == SWEEP["size"] and row["route"] != "sweep" and "ms" in row:
            seconds = interval(row["ms"], n_models * SWEEP["n_steps"] / 1000)
            lines.append([label(row), seconds, "computed, training alone"])
    return [
        f"## A full quick sweep: {n_models} models of size `{SWEEP['size']}`, {SWEEP['n_steps']} steps each",
        notes + f"Computed: {n_models} × {SWEEP['n_steps']} × ms per model and step, without any evaluation.",
        table(["route", "seconds", "how"], lines),
    ]


def write(results: dict[str, Any], folder: Path) -> None:
    """Summarise what was measured so far and replace the two files."""
    results["summary"] = summarise(results["measurements"])
    results["targets"] = judge(results["summary"], results["machine"]["device"])
    replace_files(folder, f"training_{results['machine']['device']}", results, report(results))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    routes = "; ".join(f"{name}: {route.title}" for name, route in ROUTES.items())
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__, epilog=routes)
    parser.add_argument("--only", nargs="+", choices=list(ROUTES), default=list(ROUTES), help="routes to measure")
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    help_models = (
        "how many models at once, for routes that take it "
        f"(default: {MODELS}; for sizes other than the default one {MODELS_OF_OTHER_SIZES})"
    )
    parser.add_argument("--models", nargs="+", type=count, help=help_models)
    parser.add_argument("--repeats", type=count, default=5)
    parser.add_argument("--seconds", type=positive, default=3.0, help="of timed steps per measurement (default 3)")
    parser.add_argument("--no-sweep", dest="sweep", action="store_false", help="do not measure a full quick sweep")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--measure", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.measure is None:
        refuse_missing_gpu(parser, args.device)
        if not cases(args):
            allowed = ", ".join(name for name, route in ROUTES.items() if args.device in route.devices)
            parser.error(f"argument --only: nothing chosen runs on {args.device}; allowed: {allowed}")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    if args.measure is not None:
        print(json.dumps(measure(args.measure)), flush=True)
        return 0
    results: dict[str, Any] = {
        "machine": machine(args.device),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "arguments": {name: v for name, v in vars(args).items() if name not in ("measure", "output")},
        "measurements": [],
    }
    todo = [{**case, "repeat": repeat} for repeat in range(args.repeats) for case in cases(args)]

    def one(case: dict[str, Any]) -> None:
        spec = {"device": args.device, "seconds": args.seconds, **case, "size": asdict(SIZES[case["size"]])}
        results["measurements"].append({**case, **run_measurement(spec)})
        write(results, args.output)

    status = one_after_the_other(todo, one, lambda case: f"{case['route']}, {case['size']}, {case['n_models']}")
    if results["measurements"]:
        print(report(results))
    if any("error" in m for m in results["measurements"]):
        status = status or 1
    return status


if __name__ == "__main__":
    sys.exit(main())
