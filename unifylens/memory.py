"""How much memory a model in training takes, by arithmetic, and how much there is."""

from __future__ import annotations

from pathlib import Path

import psutil
import torch

from unifylens.config import Experiment
from unifylens.corpus import Corpus
from unifylens.evaluate import BATCH_ROWS
from unifylens.model import n_parameters
from unifylens.optimize import PART_SIZE

FLOAT, DOUBLE = 4, 8
WEIGHT_COPIES = 4
"""Of every parameter: the weight, its gradient, and Adam's two moments."""
CHECKPOINT_COPIES = 2
"""Of every checkpoint: as it was taken, and, at the end, split into members for the store."""
D_MODEL_COPIES = 20
"""Tensors as wide as the residual stream that one block holds for each token until its gradients are there."""
D_MLP_COPIES = 4
ATTENTION_COPIES = 4
"""Tensors of one number a pair of tokens and a head."""
PAIR_COPIES = 2
"""Tensors of the model's width a pair of tokens: elementwise attention; freed after each block."""
LOGIT_COPIES = 2
ROW_BYTES = 120
"""What tables by (language, fact) take besides tokens: exposures, answers, kinds."""
PROCESS_BYTES = 450 * 2**20
"""A worker process that has imported torch and this package, before it trains."""

_CGROUP = Path("/sys/fs/cgroup")


def parts_per_model(experiment: Experiment, corpus: Corpus) -> dict[str, int]:
    """Bytes that one more model adds to a stack, by what they are for.

    With P parameters: 4 P numbers for weight, gradient and moments; 2 P for every checkpoint; the prompts (int64),
    and tables by (language, fact); and what one step holds for its gradients: for each token and block some
    tensors of width d_model and d_mlp and the attention (in the last block: for the tokens asked for), and their logits
    twice.
    """
    config, train = experiment.model, experiment.train
    numbers = n_parameters(config, corpus.d_vocab, corpus.n_ctx)
    n_templates, n_rows, n_pos = corpus.sequences.shape
    # the last token is only predicted, and the first, <bos>, is computed once for the batch if nothing is asked there
    tokens = train.batch_size * (n_pos - (1 if train.loss == "full" else 2))
    asked = tokens if train.loss == "full" else train.batch_size * corpus.answer_positions.shape[-1]
    attention = config.n_heads * (n_pos - 1) * ATTENTION_COPIES
    block = D_MODEL_COPIES * config.d_model + D_MLP_COPIES * config.d_mlp + attention
    pairs = PAIR_COPIES * (n_pos - 1) * config.d_model
    # after the attention of the last block, only the tokens asked for count
    held = tokens * ((config.n_layers - 1) * block + pairs) + asked * (block + LOGIT_COPIES * corpus.d_vocab)
    return {
        "weights": WEIGHT_COPIES * numbers * FLOAT,
        "checkpoints": CHECKPOINT_COPIES * len(train.checkpoint_steps()) * numbers * FLOAT,
        "data": n_rows * (2 * n_templates * n_pos * DOUBLE + ROW_BYTES + 2 * DOUBLE * len(corpus.stages)),
        "step": FLOAT * held,
    }


def bytes_per_model(experiment: Experiment, corpus: Corpus, device: torch.device) -> int:
    """Bytes that one more model adds to a stack: its parts, but on a CPU, where members take turns, not the step."""
    parts = parts_per_model(experiment, corpus)
    return sum(parts.values()) - (parts["step"] if device.type == "cpu" else 0)


def bytes_per_stack(experiment: Experiment, corpus: Corpus, device: torch.device) -> int:
    """Bytes that a stack takes once, for the members that compute at a time.

    On a CPU these are `PART_SIZE` in a step; everywhere they are evaluated one after the other, on all facts at the
    end.
    """
    step = PART_SIZE * parts_per_model(experiment, corpus)["step"] if device.type == "cpu" else 0
    logits = corpus.n_rows * corpus.d_vocab
    states = corpus.n_rows * experiment.model.n_layers * experiment.model.d_model
    batch = min(BATCH_ROWS, corpus.n_rows) * corpus.n_ctx * (D_MODEL_COPIES * experiment.model.d_model)
    return max(step, FLOAT * (3 * logits + 2 * states + batch))


def fields_that_decide(experiment: Experiment, corpus: Corpus) -> list[str]:
    """Names of the settings that the largest part of a model's memory comes from."""
    shape = ["model.d_model", "model.n_layers", "model.d_mlp", "world.n_subjects"]
    fields = {
        "weights": shape,
        "checkpoints": ["train.n_checkpoints", *shape],
        "data": ["world.n_subjects", "world.n_relations", "language.n_languages", "language.templates"],
        "step": ["train.batch_size", "model.d_model", "model.n_layers", "model.d_mlp", "train.loss"],
    }
    parts = parts_per_model(experiment, corpus)
    return fields[max(parts, key=parts.__getitem__)]


def free_bytes(device: torch.device) -> int:
    """Memory that can still be had: of the GPU, or of this machine within the limit of its control group."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return min([psutil.virtual_memory().available, *_left_in_control_groups()])


def _left_in_control_groups() -> list[int]:
    """What the limits of this process' control groups (v2 or v1; containers, batch systems) leave."""
    left = []
    for folder, limit, usage in _control_groups():
        try:
            allowed, used = (folder / limit).read_text().strip(), (folder / usage).read_text().strip()
            statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines() if line)
        except (OSError, ValueError):
            continue
        if allowed.isdigit():  # not "max"
            reclaimable = int(statistics.get("inactive_file", statistics.get("total_inactive_file", 0)))
            left.append(max(0, int(allowed) - int(used) + reclaimable))
    return left


def _control_groups() -> list[tuple[Path, str, str]]:
    """Folders of this process' control groups and their parents, with the names of limit and usage in each."""
    v2, v1 = ("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")
    found = [(_CGROUP, *v2), (_CGROUP / "memory", *v1)]
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:  # no Linux
        return found
    for line in lines:
        _, controllers, path = line.split(":", 2)
        inside = Path(path.lstrip("/"))
        for part in [inside, *inside.parents]:
            if not controllers:
                found.append((_CGROUP / part, *v2))
            elif "memory" in controllers.split(","):
                found.append((_CGROUP / "memory" / part, *v1))
    return found
