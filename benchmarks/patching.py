"""How fast the residual stream is patched at every layer and position, beside what one would use instead.

Every measurement runs in a process of its own; routes take turns within each repeat. All routes patch the same prompts
of the same untrained model, and must find the same numbers.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.common import (
    RESULTS,
    Size,
    Training,
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
    resident,
    run_process,
    spread,
    table,
)

N_PAIRS = 20
"""Prompt pairs that the plain loop is timed on, and on which all routes are compared with it."""
TOLERANCE = 1e-4
"""Largest difference, in nats, between what two routes may find at a place."""
MOST_MEMORY_MB = 2048
"""The target for unifylens at size `dish`, all layers and positions, written down before the first measurement."""


@dataclass(frozen=True)
class Setting:
    size: Size
    """`n_rows` is the number of prompt pairs, `length` that of a prompt's tokens."""
    bridge: bool = False
    """A `TransformerBridge` in place of a `HookedTransformer`."""
    positions: Sequence[int] | None = None
    """Where to patch (None: everywhere); every position takes as long as any other."""


DISH = Size(n_layers=3, length=6, n_rows=2000)
SETTINGS = {
    "dish": Setting(DISH),
    "wide": Setting(Size(d_model=256, n_layers=6, d_mlp=1024, d_vocab=8000, length=12, n_rows=500), positions=(0, 11)),
    "bridge": Setting(DISH, bridge=True),
}


@dataclass(frozen=True)
class Route:
    title: str
    function: str
    bridge: bool = True
    """Runs a `TransformerBridge` too."""
    one_by_one: bool = False
    """Takes one prompt pair at a time, and is timed on `N_PAIRS` of them."""
    batch_size: int | None = None


ROUTES = {
    "plain": Route("plain loop, pair by pair", "plain_loop", one_by_one=True),
    "package": Route("transformer_lens.patching", "package_patching", bridge=False),
    "ours": Route("unifylens", "ours"),
    **{f"ours-{n}": Route(f"unifylens, {n} at a time", "ours", batch_size=n) for n in (64, 256, 512, 2048)},
}
BASELINES = ("plain", "package", "ours")


# --- routes ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """What every route does: patch `target` from `source` at each place, and take the mean difference of two logits."""

    model: Any
    source: Any
    target: Any
    right: Any
    wrong: Any
    positions: Sequence[int]

    @classmethod
    def build(cls, setting: Setting, device: str) -> Task:
        import torch

        from benchmarks.routes import hooked, sequences

        size = setting.size
        generator = torch.Generator().manual_seed(2)
        right, wrong = torch.randint(1, size.d_vocab, (2, size.n_rows), generator=generator).to(device)
        return cls(
            bridged(size, device) if setting.bridge else hooked(size, device, seed=0),
            sequences(size, seed=0).to(device),
            sequences(size, seed=1).to(device),
            right,
            wrong,
            range(size.length) if setting.positions is None else setting.positions,
        )

    @property
    def names(self) -> list[str]:
        """Hooks of the residual stream: the embedding, then the end of every block."""
        return ["blocks.0.hook_resid_pre", *(f"blocks.{i}.hook_resid_post" for i in range(self.model.cfg.n_layers))]

    def difference(self, logits: Any, rows: slice) -> Any:
        """Mean over rows at the last position."""
        right, wrong = (logits[:, -1].gather(1, t[rows, None]) for t in (self.right, self.wrong))
        return (right - wrong).mean()


def bridged(size: Size, device: str) -> Any:
    from transformer_lens.model_bridge import TransformerBridge

    shape = {name: getattr(size, name) for name in ("d_model", "n_layers", "n_heads", "d_mlp", "d_vocab")}
    rest = {"n_ctx": size.length, "d_head": size.d_model // size.n_heads, "act_fn": "gelu", "normalization_type": "LN"}
    return TransformerBridge.boot_native({**shape, **rest, "seed": 0}, device=device)


def plain_loop(task: Task, n: int, batch_size: None = None) -> list[float]:
    """The loop that anybody writes first."""
    places = [(name, position) for name in task.names for position in task.positions]
    found = [0.0] * len(places)
    for row in range(n):
        rows = slice(row, row + 1)
        _, cache = task.model.run_with_cache(task.source[rows], names_filter=task.names)
        for i, (name, position) in enumerate(places):

            def put(activation, hook, given=cache[name], position=position):
                activation[:, position] = given[:, position]
                return activation

            logits = task.model.run_with_hooks(task.target[rows], fwd_hooks=[(name, put)])
            found[i] += float(task.difference(logits, rows)) / n
    return found


def package_patching(task: Task, n: int, batch_size: None = None) -> list[float]:
    """`transformer_lens.patching` with all prompts in one batch; it patches before blocks, so not after the last."""
    import pandas as pd

    module = importlib.import_module("transformer_lens.patching")
    n_layers, rows = task.model.cfg.n_layers, slice(n)
    places = pd.DataFrame([(i, p) for i in range(n_layers) for p in task.positions], columns=["layer", "pos"])
    # all that is not needed is left out of the cache, which helps it
    needed = [f"blocks.{i}.hook_resid_pre" for i in range(n_layers)]
    _, cache = task.model.run_with_cache(task.source[rows], names_filter=needed)
    with patch.object(module, "tqdm", lambda iterable: iterable):  # it has no switch for its progress bar
        return module.get_act_patch_resid_pre(
            task.model,
            task.target[rows],
            cache,
            lambda logits: task.difference(logits, rows),
            index_axis_names=None,
            index_df=places,
        ).tolist()


def ours(task: Task, n: int, batch_size: int | None = None) -> list[float]:
    import unifylens as ul

    found = ul.patching.by_layer_and_position(
        task.model,
        task.target[:n],
        task.source[:n],
        {"difference": ul.patching.logit_difference(task.right[:n], task.wrong[:n])},
        positions=task.positions,
        batch_size=batch_size,
        progress=False,
    )
    return found["difference"].tolist()


# --- one measurement, in its own process -----------------------------------------------------------------------


def measure(spec: dict[str, Any]) -> dict[str, Any]:
    """Carry out one measurement: `route`, fields of `setting`, `device`, `seconds`.

    Beside the numbers: what was found at each place, for the first pairs (`few`) and, if timed on them, `all`.
    """
    route = ROUTES[spec["route"]]
    batch_size = route.batch_size
    if route.function == "ours":  # first of all: its settings must come before torch is imported
        batch_size = batch_size or importlib.import_module("unifylens.patching.edits").MOST_ROWS
    import torch

    cuda = spec["device"] == "cuda"
    synchronize = torch.cuda.synchronize if cuda else lambda: None
    setting = Setting(**spec["setting"] | {"size": Size(**spec["setting"]["size"])})
    task = Task.build(setting, spec["device"])
    n_all = setting.size.n_rows
    n_few = min(N_PAIRS, n_all)
    n = n_few if route.one_by_one else n_all

    def run(n: int) -> list[float]:
        return globals()[route.function](task, n, route.batch_size)

    with torch.no_grad():
        n_places = len(run(1))  # what is imported when first needed is no memory of patching
        flops = count_flops(Training(lambda: run(2), n_models=1)) / (2 * n_places)
        with watch_memory(cuda) as memory:
            seconds, n_timed, found = timed(lambda: run(n), spec["seconds"], synchronize)
        few = found if n == n_few else run(n_few)
    peak = matmul_peak(spec["device"], synchronize)
    return derived(1e6 * seconds / (n * n_places), flops, peak) | {
        "memory_mb": memory[0],
        "n_pairs": n,
        "n_places": n_places,
        "n_timed": n_timed,
        "n_threads": torch.get_num_threads(),
        "batch_size": 1 if route.one_by_one else min(batch_size or n, n),
        "few": few,
        "all": found if n == n_all else None,
    }


def derived(us: float, flops: float, peak: float) -> dict[str, float]:
    """What follows from microseconds and operations per prompt pair and place."""
    per_second = 1e6 / us
    return {
        "us": us,
        "flops": flops,
        "peak_flops_per_second": peak,
        "utilisation": flops * per_second / peak,
    }


@contextlib.contextmanager
def watch_memory(cuda: bool) -> Iterator[list[float]]:
    """Gives a list that holds, afterwards, by how many MB the memory in use grew at most."""
    grown: list[float] = []
    if cuda:
        import torch

        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield grown
        grown.append((torch.cuda.max_memory_allocated() - before) / 2**20)
    else:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # the most held so far is forgotten
        before = resident("VmRSS")
        yield grown
        grown.append((resident("VmHWM") - before) / 2**20)


def timed(run: Callable[[], Any], seconds: float, synchronize: Callable[[], None]) -> tuple[float, int, Any]:
    """Seconds a call takes, the median over calls that together take at least this long; how many; what it returned."""
    times: list[float] = []
    while not times or sum(times) < seconds:
        synchronize()
        began = time.perf_counter()
        found = run()
        synchronize()
        times.append(time.perf_counter() - began)
    return statistics.median(times), len(times), found


# --- all measurements ------------------------------------------------------------------------------------------


def run_measurement(spec: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.patching", "--measure", json.dumps(spec)]
    return run_process(command, spec["device"])


def cases(sizes: Sequence[str]) -> list[dict[str, Any]]:
    """What one repeat measures, in order; of batch sizes that hold all prompts, only the smallest."""
    found = []
    for size in sizes:
        setting = SETTINGS[size]
        enough = [r.batch_size for r in ROUTES.values() if r.batch_size and r.batch_size >= setting.size.n_rows]
        for name, route in ROUTES.items():
            if (route.bridge or not setting.bridge) and (route.batch_size not in enough[1:]):
                found.append({"size": size, "route": name})
    return found


def checked(result: dict[str, Any], size: str, reference: dict[tuple[str, str], list[float]]) -> dict[str, Any]:
    """The result with its largest `difference` from what was first found at this size; an error if that is too large.

    Of the places, those that both have are compared: all but, for one route, those after the last block.
    """
    if "error" in result:
        return result
    differences = [0.0]
    for which in ("few", "all"):
        found = result[which]
        if found is not None:
            first = reference.setdefault((size, which), found)
            differences += [abs(a - b) for a, b in zip(first, found, strict=False)]
    if not all(difference <= TOLERANCE for difference in differences):  # nor nan
        return {"error": f"finds other numbers than the first route: {max(differences):.2g} apart"}
    return {name: v for name, v in result.items() if name not in ("few", "all")} | {"difference": max(differences)}


def summarise(measurements: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a size and route: median, least and largest over repeats of all numbers, and of relative speeds.

    Those (`speed`, by the route they are relative to) are taken within a repeat.
    """
    us = {(m["size"], m["route"], m["repeat"]): m["us"] for m in measurements if "us" in m}
    rows = []
    for size, route in dict.fromkeys((m["size"], m["route"]) for m in measurements):
        same = [m for m in measurements if (m["size"], m["route"]) == (size, route)]
        good = [m for m in same if "error" not in m]
        row: dict[str, Any] = {"size": size, "route": route}
        if not good:
            rows.append(row | {"error": same[-1]["error"]})
            continue
        numbers = [name for name in good[0] if name not in ("size", "route", "repeat")]
        row |= {"n_repeats": len(good)} | {name: spread([m[name] for m in good]) for name in numbers}
        ratios = {
            base: [us[size, base, m["repeat"]] / m["us"] for m in good if (size, base, m["repeat"]) in us]
            for base in BASELINES
        }
        rows.append(row | {"speed": {base: spread(values) for base, values in ratios.items() if values}})
    return rows


def best_batch_size(rows: list[dict[str, Any]], size: str) -> dict[str, Any] | None:
    """The row of the fastest of the given batch sizes; None if none was measured."""
    tried = [row for row in rows if row["size"] == size and ROUTES[row["route"]].batch_size and "error" not in row]
    return min(tried, key=lambda row: row["us"]["median"], default=None)


# --- the report ------------------------------------------------------------------------------------------------


def report(results: dict[str, Any]) -> str:
    """All results as markdown."""
    machine, rows = results["machine"], results["summary"]
    peaks = [m["peak_flops_per_second"] for m in results["measurements"] if "error" not in m]
    peak = f"{interval(spread(peaks), 1e-9)} GFLOP/s" if peaks else "not measured"
    parts = [
        f"# Patching the residual stream on {machine['device_name']}",
        f"{results['date'][:10]}; {machine['cpu']}, {machine['n_cores']} cores, torch {machine['torch']} with "
        f"{machine['n_threads']} threads; median [least–largest] of {results['arguments']['repeats']} interleaved "
        "repeats, each in a process of its own. Times are per prompt pair and place (a layer and a position), with the "
        "run of the source prompts. `×`: speed relative to that route, within a repeat. Utilisation: counted "
        f"operations of matrix products against those of a large float32 matrix product ({peak}). Memory: what the "
        "process came to hold beyond what it held with the model loaded. Difference: largest from what another "
        f"route found, in nats (above {TOLERANCE:g} a route counts as failed).",
        f"The plain loop is timed on {N_PAIRS} prompt pairs, all other routes on all pairs; "
        "transformer_lens.patching takes them in one batch, and patches before each block only. unifylens runs a "
        "`HookedTransformer` from the edited block on, so that the place which it has besides, after the last block, "
        "is one of its fastest.",
    ]
    for size in dict.fromkeys(row["size"] for row in rows):
        setting = SETTINGS[size]
        shape = setting.size
        where = "every position" if setting.positions is None else f"positions {', '.join(map(str, setting.positions))}"
        parts.append(
            f"## Size `{size}`: {'bridge' if setting.bridge else 'model'} of {shape.n_layers} layers of width "
            f"{shape.d_model}, MLP {shape.d_mlp}, vocabulary {shape.d_vocab}; {shape.n_rows:,} prompt pairs of "
            f"{shape.length} tokens, every layer and {where}"
        )
        lines = []
        for row in (row for row in rows if row["size"] == size):
            if "error" in row:
                problem = f"failed: {row['error'][:80].replace('|', ' ')}"
                lines.append([ROUTES[row["route"]].title, problem, *["–"] * 6])
                continue
            lines.append(
                [
                    ROUTES[row["route"]].title,
                    interval(row["us"]),
                    interval(row["speed"].get("plain")),
                    interval(row["speed"].get("package")),
                    number(row["flops"]["median"] / 1e6),
                    interval(row["utilisation"], 100, " %"),
                    interval(row["memory_mb"]),
                    f"{row['difference']['max']:.1g}",
                ]
            )
        header = "route, µs, × plain loop, × transformer_lens, MFLOP, utilisation, peak memory (MB), difference"
        parts.append(table(header.split(", "), lines))
        best = best_batch_size(rows, size)
        usual = next((r for r in rows if (r["size"], r["route"]) == (size, "ours") and "error" not in r), None)
        if best and usual:
            parts.append(
                f"Fastest batch size: {number(best['batch_size']['median'])}, at {interval(best['speed'].get('ours'))} "
                f"× the speed of the usual {number(usual['batch_size']['median'])}."
            )
    target = results["target"]
    words = {True: "met", False: "missed", None: "not measured"}
    parts.append(
        f"Target: unifylens at size `dish` takes under {MOST_MEMORY_MB:,} MB; "
        f"reached {interval(target['reached'])}: {words[target['met']]}."
    )
    return "\n\n".join(parts) + "\n"


def judge(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The target beside what was reached; `met` is None where it was not measured."""
    reached = next((r.get("memory_mb") for r in rows if (r["size"], r["route"]) == ("dish", "ours")), None)
    return {
        "memory_mb": MOST_MEMORY_MB,
        "reached": reached,
        "met": None if reached is None else reached["max"] < MOST_MEMORY_MB,
    }


def write(results: dict[str, Any], folder: Path) -> None:
    """Summarise what was measured so far and replace the two files."""
    results["summary"] = summarise(results["measurements"])
    results["target"] = judge(results["summary"])
    replace_files(folder, f"patching_{results['machine']['device']}", results, report(results))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    routes = "; ".join(f"{name}: {route.title}" for name, route in ROUTES.items())
    parser = argparse.ArgumentParser(prog="python -m benchmarks.patching", description=__doc__, epilog=routes)
    parser.add_argument("--sizes", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--repeats", type=count, default=3)
    parser.add_argument("--seconds", type=positive, default=1.0, help="to time a route for, at least (default 1)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--measure", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.measure is None:
        refuse_missing_gpu(parser, args.device)
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
    reference: dict[tuple[str, str], list[float]] = {}

    def one(case: dict[str, Any]) -> None:
        spec = {"device": args.device, "seconds": args.seconds, **case, "setting": asdict(SETTINGS[case["size"]])}
        results["measurements"].append({**case, **checked(run_measurement(spec), case["size"], reference)})
        write(results, args.output)

    todo = [{**case, "repeat": repeat} for repeat in range(args.repeats) for case in cases(args.sizes)]
    status = one_after_the_other(todo, one, lambda case: f"{case['route']}, {case['size']}")
    if results["measurements"]:
        print(report(results))
    if any("error" in m for m in results["measurements"]):
        status = status or 1
    return status


if __name__ == "__main__":
    sys.exit(main())
