"""What a loss on states costs: `python -m benchmarks.state_losses`.

Stacks of the default dish, one with each loss and one without, take turns within each repeat, on one core (or a GPU);
the cost is how much longer a step with the loss takes than the one without beside it.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import unifylens as ul
from benchmarks.common import RESULTS, count, interval, machine, matmul_peak, number, replace_files, spread, table

MODELS = 4
STEPS = 20
"""Of every stack in a turn."""
MOST = 0.25
"""What a loss on states may cost, as a share of a step."""

LOSSES: dict[str, list[dict[str, Any]]] = {
    "contrast, subject after block 1": [{"method": "contrast", "role": "subject"}],
    "contrast, answer after block 1": [{"method": "contrast"}],
    "contrast, answer after block 2": [{"method": "contrast", "layer": 2}],
    "pull, answer after block 1": [{"method": "pull"}],
    "adversary, subject after block 1": [{"method": "adversary", "role": "subject", "weight": 0.01}],
    "self-distillation": [{"method": "distil"}],
}


def stack(losses: list[dict[str, Any]], n_models: int) -> Any:
    """A stack of the default dish on its way."""
    from unifylens.training.trainer import _Stack

    fields = {"train.state_losses": [ul.StateLoss(**loss) for loss in losses]}
    return _Stack([ul.Experiment(seed=seed).replace(**fields) for seed in range(n_models)])


def measure(n_models: int, repeats: int, synchronize: Any) -> dict[str, list[float]]:
    """By loss, how many times as long as the plain stack a turn took, in every repeat."""
    stacks = {"none": stack([], n_models)} | {name: stack(losses, n_models) for name, losses in LOSSES.items()}
    ratios: dict[str, list[float]] = {name: [] for name in LOSSES}
    seconds: dict[str, float] = {}
    for repeat in range(repeats + 1):
        for name, trainer in stacks.items():
            synchronize()
            began = time.perf_counter()
            for _ in range(STEPS):
                trainer.advance()
            synchronize()
            seconds[name] = time.perf_counter() - began
        if repeat:  # the first turn warms up
            for name in LOSSES:
                ratios[name].append(seconds[name] / seconds["none"])
    return ratios


def report(results: dict[str, Any]) -> str:
    """What was measured, as text."""
    costs = {name: spread([ratio - 1 for ratio in values]) for name, values in results["ratios"].items()}
    rows = [
        [name, interval(cost, 100, " %"), "yes" if cost["median"] <= MOST else "no"] for name, cost in costs.items()
    ]
    where = results["machine"]
    on_cpu = f"{where['cpu']}, one thread of {where['n_cores']} cores"
    return (
        f"# What a loss on states costs\n\n{on_cpu if where['device'] == 'cpu' else where['device_name']}, torch "
        f"{where['torch']}, float32 matmul peak {number(results['matmul_peak'] / 1e9)} GFLOP/s. Stacks of "
        f"{results['models']} models of the default dish, {results['steps']} steps in a turn, {results['repeats']} "
        "turns; median [least, most] over turns of how much longer a step takes than in the plain stack beside it. "
        f"Target: at most {MOST:.0%}.\n\n{table(['loss', 'costs', 'within the target'], rows)}\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=count, default=MODELS, help="models in a stack")
    parser.add_argument("--repeats", type=count, default=15)
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    synchronize = torch.cuda.synchronize if device == "cuda" else lambda: None
    peak = matmul_peak(device, synchronize)
    ratios = measure(arguments.models, arguments.repeats, synchronize)
    results = {
        "machine": machine(device),
        "matmul_peak": peak,
        "models": arguments.models,
        "steps": STEPS,
        "repeats": arguments.repeats,
        "most": MOST,
        "ratios": ratios,
    }
    text = report(results)
    replace_files(arguments.output, "state_losses" if device == "cpu" else f"state_losses_{device}", results, text)
    print(text)


if __name__ == "__main__":
    main()
