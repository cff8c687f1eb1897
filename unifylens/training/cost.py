"""How much memory a model in training takes, by arithmetic, and of what it comes."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from unifylens.config import Experiment
from unifylens.corpus.corpus import Corpus
from unifylens.hardware import FLOAT, device
from unifylens.model import n_parameters
from unifylens.patching.stream import BATCH_ROWS
from unifylens.training.adamw import PART_SIZE

DOUBLE = 8
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


@dataclass(frozen=True)
class Member:
    """One experiment, and what its training takes."""

    experiment: Experiment
    key: tuple
    """What members of one stack must share: shape of parameters and batch, and the course of training."""
    bytes: int
    stack_bytes: int
    """Of memory: what it adds to a stack, and what its stack takes once."""
    run_bytes: int
    progress_bytes: int
    """Of the disk: once trained, and while under way."""
    flops: int
    """Of one step, roughly."""
    fields: tuple[str, ...]
    """Settings that its memory comes from."""

    @classmethod
    def of(cls, experiment: Experiment) -> Member:
        """Work out what an experiment takes."""
        corpus, config, model = Corpus.build(experiment), experiment.train, experiment.model
        one_token = corpus.due.shape[2] == 1  # then the stack computes the same position in every row
        answers = tuple(corpus.answer_positions[:, 0, 0].tolist()) if one_token else None
        # stacked members may differ in these two, which are only factors of their own updates
        shared = config.model_copy(update={"lr": 1.0, "weight_decay": 0.0})
        numbers, n_checkpoints = n_parameters(model, corpus.d_vocab, corpus.n_ctx), len(config.checkpoint_steps())
        tokens = config.batch_size * (corpus.n_ctx - 1)
        asked = tokens if config.loss == "full" else config.batch_size
        block = model.d_model * (4 * model.d_model + 2 * model.d_mlp)
        return cls(
            experiment=experiment,
            key=(model, shared, corpus.d_vocab, tuple(corpus.sequences.shape), answers),
            bytes=bytes_per_model(experiment, corpus, device()),
            stack_bytes=bytes_per_stack(experiment, corpus, device()),
            run_bytes=n_checkpoints * numbers * FLOAT + 2**16,
            progress_bytes=(3 + n_checkpoints) * numbers * FLOAT,
            # a product forward, two backward; and the optimiser's pass over the parameters
            flops=6 * (tokens * model.n_layers * block + asked * model.d_model * corpus.d_vocab) + 20 * numbers,
            fields=tuple(fields_that_decide(experiment, corpus)),
        )
