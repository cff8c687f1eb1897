"""What all benchmarks and routes share; torch is not imported here: a route's own process decides when it is."""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
PEAK_SIZE = 2048
MAX_COUNT = 1024


@dataclass(frozen=True)
class Size:
    """Shape of model and batch; sequences start with one `<bos>` and end with `n_answer` tokens to be predicted."""

    d_model: int = 64
    n_layers: int = 2
    n_heads: int = 4
    d_mlp: int = 256
    d_vocab: int = 876
    batch: int = 256
    length: int = 4
    n_answer: int = 1
    n_rows: int = 9600
    """Sequences in the data set from which batches are drawn."""


SIZES = {
    "default": Size(),
    "wide": Size(d_model=128, n_layers=4, d_mlp=512),
    "multi-token": Size(length=8, n_answer=3),
}


@dataclass(frozen=True)
class Training:
    """Models in training, as a route builds them."""

    step: Callable[[], Any]
    """Trains all models and returns their mean loss as a tensor, or None where the route does not say it."""
    n_models: int
    n_steps: int = 1
    """Optimiser steps of every model in one call of `step`."""
    counted: Callable[[], Any] | None = None
    """One step of every model in the calling thread, for counting operations, where `step` uses several threads."""


# --- measuring ------------------------------------------------------------------------------------------------------


def count_flops(trained: Training) -> float:
    """Floating-point operations of matrix products in one step of all models."""
    import torch
    from torch.utils import flop_counter

    def forward(query, key, value, *_, **__):
        return flop_counter.sdpa_flop_count(query, key, value)

    def backward(gradient, query, key, value, *_, **__):
        return flop_counter.sdpa_backward_flop_count(gradient, query, key, value)

    attention = "_scaled_dot_product_flash_attention_for_cpu"  # not counted by default
    formulas = {
        getattr(torch.ops.aten, attention): forward,
        getattr(torch.ops.aten, f"{attention}_backward"): backward,
    }
    with flop_counter.FlopCounterMode(display=False, custom_mapping=formulas) as counter:
        (trained.counted or trained.step)()
    return counter.get_total_flops() / (1 if trained.counted else trained.n_steps)


def matmul_peak(device: str, synchronize: Callable[[], None], size: int = PEAK_SIZE) -> float:
    """Operations per second of a large float32 matrix product, the best of several."""
    import torch

    a, b = torch.randn(2, size, size, device=device)
    best = float("inf")
    for _ in range(6):
        synchronize()
        start = time.perf_counter()
        a @ b
        synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def resident(field: str) -> int:
    """Bytes of memory this process holds (`VmRSS`) or held at most (`VmHWM`), without those of its parent.

    Outside Linux, both are the most it held.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(field))
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def core_count() -> int:
    import joblib

    return joblib.cpu_count()


def machine(device: str) -> dict[str, Any]:
    import torch

    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        cpu = platform.processor() or platform.machine()
    return {
        "cpu": cpu,
        "n_cores": core_count(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "n_threads": torch.get_num_threads(),
        "device": device,
        "device_name": torch.cuda.get_device_name() if device == "cuda" else cpu,
    }


def run_process(command: Sequence[str], device: str) -> dict[str, Any]:
    """Measure in a fresh process with an empty store; one that fails gives its last line as `error`."""
    with tempfile.TemporaryDirectory() as store:
        environment = os.environ | {"UNIFYLENS_HOME": store, "UNIFYLENS_PROFILE": "quick"}
        if device == "cpu":
            environment["CUDA_VISIBLE_DEVICES"] = ""
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for this process, which then ends the other with all that it started
        )
        try:
            out, errors = process.communicate()
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise
    if process.returncode:
        return {"error": (errors.strip().splitlines() or [f"ended with code {process.returncode}"])[-1]}
    return json.loads(out.splitlines()[-1])


def one_after_the_other(
    todo: Sequence[dict[str, Any]], one: Callable[[dict[str, Any]], None], name: Callable[[dict[str, Any]], str]
) -> int:
    """Measure all cases with a progress bar; 130 if interrupted, else 0. What was written until then stays."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # the same as Ctrl-C
    try:
        for case in (bar := tqdm(todo, desc="measuring", unit="measurement")):
            bar.set_postfix_str(name(case))
            one(case)
    except KeyboardInterrupt:
        print("stopped; what was measured is written", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


# --- the report -----------------------------------------------------------------------------------------------------


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def number(x: float) -> str:
    """Three significant digits."""
    digits = 0 if abs(x) >= 100 else 1 if abs(x) >= 10 else 2
    return f"{x:,.{digits}f}" if abs(x) >= 1 or x == 0 else f"{x:.3g}"


def interval(values: dict[str, float] | None, factor: float = 1.0, unit: str = "") -> str:
    if values is None:
        return "–"
    median, low, high = (number(values[name] * factor) + unit for name in ("median", "min", "max"))
    return f"{median} [{low}–{high}]"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def replace_files(folder: Path, name: str, results: dict[str, Any], text: str) -> None:
    """Write `name.json` and `name.md`, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    for ending, content in {".json": json.dumps(results, indent=1) + "\n", ".md": text}.items():
        path = folder / f"{name}{ending}"
        scratch = path.with_name(f"{path.name}.tmp")
        scratch.write_text(content)
        os.replace(scratch, path)


# --- the command line -----------------------------------------------------------------------------------------------


def count(text: str, most: int = MAX_COUNT) -> int:
    value = int(text) if text.isdigit() else 0
    if not 1 <= value <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed; allowed: 1 to {most}")
    return value


def positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed; allowed: a number above 0")
    return value


def refuse_missing_gpu(parser: argparse.ArgumentParser, device: str) -> None:
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            parser.error("argument --device: torch sees no GPU here; allowed: cpu")
