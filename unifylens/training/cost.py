"""How much memory a model in training takes, by arithmetic, and of what it comes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from unifylens.config import Experiment, Sparse
from unifylens.corpus.corpus import Corpus
from unifylens.corpus.exposure import Copy
from unifylens.crosslingual.evaluate import MEASURED_ROWS
from unifylens.hardware import FLOAT, device
from unifylens.model import EXPERTS_PER_TOKEN, n_parameters, shape_for
from unifylens.patching.stream import BATCH_ROWS
from unifylens.training import alignment, modules, sparse, start
from unifylens.training.adamw import PART_SIZE
from unifylens.training.batches import STEPS_PER_DRAW
from unifylens.training.rehearsal import Asked, bytes_of_forward, bytes_of_step
from unifylens.training.stack import FEW_POSITIONS, unsupported

DOUBLE = 8
WEIGHT_COPIES = 3
"""Of every parameter: the weight and Adam's two moments; gradients are there for the members of a step alone."""
KEPT_BYTES = FLOAT + 1
"""Of every parameter that may keep its first weight, as `train.sparse` has it: this weight, and whether it does."""
HOLES, HOLES_OF_LONG, HOLES_ONE_BY_ONE = 1.37, 1.45, 1.9
"""What a step's buffers, which are kept for the next one, take over the bytes in them (measured)."""
ONCE, ONCE_ON_GPU = 8 * 2**20, 96 * 2**20
"""What libraries take for themselves when they are first used; on a GPU, to multiply matrices, also in a graph."""
TOKEN_COPIES = 3
"""Of all prompts: in the corpus that is kept, in that of the member, and where batches are drawn."""
TEMPLATE_NUMBERS, ROW_NUMBERS = 12, 24
"""What tables by (language, fact) hold besides tokens, for each template and once: positions, exposures, kinds."""
ANSWER_COPIES = 4
"""Of positions and tokens of answers, in the corpus and where batches are drawn."""
WORD_BYTES = 600
"""A word of a language: its text, its tokens, and the tables from one to the other."""
CANDIDATE_BYTES = 24
"""For each held-out row and object of its relation, when the choice among them is made: token, logits, masks."""
MEASURED_COPIES = 4
"""Of the states measured together, in double precision, when they are scored and a language probe is fitted."""
PROCESS_BYTES = 450 * 2**20
"""A worker process that has imported torch and this package, before it trains."""


def parts_per_model(experiment: Experiment, corpus: Corpus) -> dict[str, int]:
    """Bytes that one more model adds to a stack, by what they are for.

    With P parameters: 3 P numbers for weight and moments, where training is sparse also P for the first weights and P
    bytes for the mask; P for every checkpoint; prompts (int64), tables by
    (language, fact) and words; and what one step holds for its gradients, which is counted on a pass without numbers.
    """
    config, train = experiment.model, experiment.train
    numbers = n_parameters(config, corpus.d_vocab, corpus.n_ctx)
    n_templates, n_rows, n_pos = corpus.sequences.shape
    n_words = corpus.n_languages * (corpus.world.n_subjects + corpus.world.n_relations + corpus.world.n_objects)
    by_template = TOKEN_COPIES * n_pos + TEMPLATE_NUMBERS + ANSWER_COPIES * corpus.due.shape[2]
    tables = n_templates * by_template + ROW_NUMBERS + 4 * len(corpus.stages)
    asked = Asked.of(corpus, train.loss)
    batch_size = max([train.batch_size, *(2 * term.pairs for term in train.state_losses)])  # one after the other
    bfloat16 = train.precision == "bfloat16"
    return {
        "weights": (WEIGHT_COPIES * FLOAT + (KEPT_BYTES if sparse.moves_few(train) else 0)) * numbers,
        "checkpoints": len(train.checkpoint_steps()) * numbers * FLOAT,
        "data": n_rows * DOUBLE * tables + n_words * WORD_BYTES + 4 * STEPS_PER_DRAW * train.batch_size * DOUBLE,
        "step": _with_holes(
            bytes_of_step(config, corpus.d_vocab, corpus.n_ctx, batch_size, asked, bfloat16), experiment, corpus
        ),
    }


def bytes_of_evaluation(experiment: Experiment, corpus: Corpus) -> int:
    """Bytes that a stack takes while one member, and after it the next, is evaluated on all facts."""
    config, n_answer = experiment.model, corpus.due.shape[2]
    all_rows = min(BATCH_ROWS, corpus.n_rows)
    some_rows = min(all_rows, 2 * experiment.train.eval_facts * corpus.n_languages)
    n_in = int(corpus.positions("answer").max()) + n_answer
    one_place = len(set(corpus.positions("answer").tolist())) == 1
    asked = Asked(n_in, 1, n_in - 1 if one_place else None, int(experiment.train.loss != "full"))
    forward, sampled = (
        bytes_of_forward(config, corpus.d_vocab, corpus.n_ctx, rows, asked) for rows in (all_rows, some_rows)
    )
    answers = FLOAT * corpus.n_rows * (corpus.d_vocab + config.n_layers * config.d_model)
    prompts = 3 * DOUBLE * corpus.n_rows * corpus.n_ctx
    n_candidates = int(np.bincount(corpus.world.object_relation).max())
    choices = int((corpus.kind == Copy.HELD_OUT).sum()) * n_candidates * CANDIDATE_BYTES if n_answer == 1 else 0
    n_layers = min(config.n_layers, max(1, MEASURED_ROWS // corpus.n_rows))  # measured together
    measured = MEASURED_COPIES * DOUBLE * n_layers * corpus.n_rows * config.d_model
    last = prompts + max(min(n_answer, 2) * answers + forward, answers + max(choices, measured))
    return max(last, _with_holes(sampled, experiment, corpus))


def _with_holes(n_bytes: int, experiment: Experiment, corpus: Corpus) -> int:
    """What buffers that are kept take; attention over many positions has more of different sizes, autograd most."""
    few = corpus.n_ctx <= FEW_POSITIONS + 1
    if unsupported(shape_for(experiment.model, corpus)):
        return int(n_bytes * HOLES_ONE_BY_ONE)
    return int(n_bytes * (HOLES if few else HOLES_OF_LONG))


@dataclass(frozen=True)
class Memory:
    """Bytes that a stack takes."""

    kept: int
    """For every member, throughout."""
    step: int
    """For every member that takes a step at the same time: on a CPU, `PART_SIZE` do; on a GPU, all."""
    evaluation: int
    """Once, for the member that is evaluated."""
    results: int
    """For every member at the end: checkpoints, split into members for the store."""
    at_a_time: int | None
    """Members that take a step at the same time; None for all."""

    @classmethod
    def of(cls, experiment: Experiment, corpus: Corpus, device: torch.device) -> Memory:
        """What models of these settings take on a device."""
        parts = parts_per_model(experiment, corpus)
        step = parts.pop("step")
        at_a_time = PART_SIZE if device.type == "cpu" else None
        return cls(sum(parts.values()), step, bytes_of_evaluation(experiment, corpus), parts["checkpoints"], at_a_time)

    def of_stack(self, n_members: int) -> int:
        """Bytes of a stack of so many members."""
        once, at_a_time = (ONCE_ON_GPU, n_members) if self.at_a_time is None else (ONCE, min(n_members, self.at_a_time))
        return once + n_members * self.kept + max(at_a_time * self.step, self.evaluation, n_members * self.results)

    def most_members(self, n_bytes: int, most: int) -> int:
        """Most members, up to `most`, whose stack fits; 0 if not even one does."""
        return next((n for n in range(most, 0, -1) if self.of_stack(n) <= n_bytes), 0)

    @classmethod
    def largest(cls, several: list[Memory]) -> Memory:
        """What suffices for any of several, which train on one device."""
        return cls(
            kept=max(memory.kept for memory in several),
            step=max(memory.step for memory in several),
            evaluation=max(memory.evaluation for memory in several),
            results=max(memory.results for memory in several),
            at_a_time=several[0].at_a_time,
        )


def fields_that_decide(experiment: Experiment, corpus: Corpus) -> list[str]:
    """Names of the settings that the largest part of a model's memory comes from."""
    shape = ["model.d_model", "model.n_layers", "model.d_mlp", "world.n_subjects"]
    facts = ["world.n_subjects", "world.n_relations", "language.n_languages", "language.templates"]
    fields = {
        "weights": shape,
        "checkpoints": ["train.n_checkpoints", *shape],
        "data": facts,
        "step": ["train.batch_size", "model.d_model", "model.n_layers", "model.d_mlp", "train.loss"],
        "evaluation": [*facts, "world.n_objects", "tokenizer.scheme", "model.d_model", "model.n_layers"],
    }
    parts = parts_per_model(experiment, corpus) | {"evaluation": bytes_of_evaluation(experiment, corpus)}
    return fields[max(parts, key=parts.__getitem__)]


@dataclass(frozen=True)
class Member:
    """One experiment, and what its training takes."""

    experiment: Experiment
    key: tuple
    """What members of one stack must share: shape of parameters and batch, and the course of training."""
    memory: Memory
    run_bytes: int
    progress_bytes: int
    """Of the disk: once trained, and while under way."""
    flops: int
    """Of one step in the mean, roughly."""
    fields: tuple[str, ...]
    """Settings that its memory comes from."""

    @classmethod
    def of(cls, experiment: Experiment) -> Member:
        """Work out what an experiment takes. Raises ValueError where its losses or its start do not fit."""
        corpus, config, model = Corpus.build(experiment), experiment.train, experiment.model
        alignment.refuse_what_does_not_fit(experiment, corpus)
        start.refuse_what_does_not_fit(experiment, corpus)
        modules.refuse_what_does_not_fit(experiment, corpus)
        sparse.refuse_what_does_not_fit(experiment, corpus)
        at = corpus.answer_positions
        alike = at.shape[2] == 1 and bool((at == at[:, :1]).all())  # the stack computes one position in every row
        answers = tuple(at[:, 0, 0].tolist()) if alike else None
        # stacked members may differ in these, which are factors of their own updates, or decide what they draw
        same = {"weight": 1.0, "since": 0.0, "until": 1.0, "shuffled": False}
        state_losses = tuple(term.model_copy(update=same) for term in config.state_losses)
        settings = {"lr": 1.0, "weight_decay": 0.0, "state_losses": state_losses}
        shared = config.model_copy(update=settings | {"sparse": config.sparse and Sparse(share=1.0)})
        numbers, n_checkpoints = n_parameters(model, corpus.d_vocab, corpus.n_ctx), len(config.checkpoint_steps())
        tokens = config.batch_size * (corpus.n_ctx - 1)
        in_pairs, of_pairs = 0.0, 0.0  # rows of pairs that reach the logits, and tokens that pass a block
        for term in config.state_losses:
            rows, to_logits = 2 * term.pairs * (term.until - term.since), term.method == "distil"
            in_pairs += rows * to_logits
            of_pairs += rows * (corpus.n_ctx - 1) * (model.n_layers if to_logits else term.layer)
        asked = (tokens if config.loss == "full" else config.batch_size) + in_pairs
        matrices = 2 if model.n_experts is None else 3 * EXPERTS_PER_TOKEN
        blocks = (tokens * model.n_layers + of_pairs) * model.d_model * (4 * model.d_model + matrices * model.d_mlp)
        return cls(
            experiment=experiment,
            key=(model, shared, corpus.d_vocab, corpus.n_languages, tuple(corpus.sequences.shape), answers),
            memory=Memory.of(experiment, corpus, device()),
            run_bytes=n_checkpoints * numbers * FLOAT + 2**16,
            progress_bytes=(3 + n_checkpoints) * numbers * FLOAT,
            # a product forward, two backward; and the optimiser's pass over the parameters
            flops=round(6 * (blocks + asked * model.d_model * corpus.d_vocab) + 20 * numbers),
            fields=tuple(fields_that_decide(experiment, corpus)),
        )
