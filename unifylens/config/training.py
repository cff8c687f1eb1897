"""What learns, and how: the shape of the Transformer, its optimisation, evaluations and checkpoints."""

from __future__ import annotations

from typing import Annotated, Literal, Self, get_args

import numpy as np
from pydantic import Field, model_validator

from unifylens.config.base import Config
from unifylens.config.kinds import MANY, Flag, Number, Ordered, Share, Whole

Decay = Annotated[Number, Field(ge=0.0, lt=1.0)]


class ModelConfig(Config):
    """Shape of the decoder-only Transformer."""

    d_model: Annotated[Whole, Field(ge=1, le=65_536)] = 64
    """Dimensions of the residual stream; a multiple of `n_heads`."""
    n_layers: Annotated[Whole, Field(ge=1, le=1_000)] = 2
    """Number of blocks."""
    n_heads: Annotated[Whole, Field(ge=1, le=65_536)] = 4
    """Number of attention heads in each block, of `d_model / n_heads` dimensions."""
    d_mlp: Annotated[Whole, Field(ge=1, le=1_000_000)] = 256
    """Number of neurons in each block's MLP."""
    act_fn: Literal["gelu", "relu", "gelu_new", "gelu_fast", "silu"] = "gelu"
    """Activation function of the MLPs, as TransformerLens names it; only `gelu` and `relu` train as a stack."""
    normalization: Literal["LN", "LNPre", "RMS", "RMSPre"] | None = "LN"
    """Layer norm or RMS norm, with learned weights or (`Pre`) without; None for no normalisation."""
    positional_embedding_type: Literal["standard", "rotary"] = "standard"
    """Learned embeddings of absolute positions, or rotations of queries and keys (needs an even head dimension)."""
    local_blocks: Annotated[Whole, Field(ge=0, lt=1_000)] = 0
    """Number of blocks, from the first, where a token attends to itself and the one before it; less than `n_layers`."""
    attn_only: Flag = False
    """Blocks of attention alone, without an MLP."""
    gated_mlp: Flag = False
    """MLPs whose neurons are multiplied by a learned gate."""
    parallel_attn_mlp: Flag = False
    """Attention and MLP of a block read the same state, instead of one after the other."""
    language_neurons: Annotated[Whole, Field(ge=0, le=1_000_000)] = 0
    """Number of neurons of each block's MLP that are a module of each language's own (X-MOD, arXiv 2205.06266): with n
    languages the last n times as many of `d_mlp`, in their order, active in prompts of that language alone."""
    n_experts: Annotated[Whole, Field(ge=2, le=1_000)] | None = None
    """Number of gated MLPs of `d_mlp` neurons in each block, of which a learned router chooses two for every token
    (Mixtral, arXiv 2401.04088); None for one MLP."""

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.d_model % self.n_heads:
            raise ValueError(f"n_heads={self.n_heads} must divide d_model={self.d_model}.")
        if self.local_blocks >= self.n_layers:
            raise ValueError(f"local_blocks={self.local_blocks} must stay below n_layers={self.n_layers}.")
        if self.positional_embedding_type == "rotary" and self.d_model // self.n_heads % 2:
            raise ValueError(
                f"positional_embedding_type='rotary' turns pairs of dimensions; d_model={self.d_model} over "
                f"n_heads={self.n_heads} must be even."
            )
        for name in ("gated_mlp", "parallel_attn_mlp", "language_neurons"):
            if self.attn_only and getattr(self, name):
                raise ValueError(
                    f"{name}={getattr(self, name)} conflicts with attn_only=True: there is no MLP; allowed: one of the "
                    "two."
                )
        for name in ("attn_only", "gated_mlp", "language_neurons"):
            if self.n_experts is not None and (value := getattr(self, name)):
                raise ValueError(
                    f"n_experts={self.n_experts} conflicts with {name}={value}: experts are MLPs of their own kind; "
                    "allowed: one of the two."
                )
        return self


class StateLoss(Config):
    """A term of the loss on what a model computes for a fact that is told in two languages.

    >>> align = ul.StateLoss(method="contrast", weight=0.1, layer=1, role="subject")
    >>> ul.Experiment().replace(**{"train.state_losses": [align]}).train.state_losses[0].weight
    0.1
    """

    method: Literal["contrast", "pull", "adversary", "distil"]
    """Tell a fact's two states from those of other facts (InfoNCE), shorten their distance, hide the language from a
    discriminator that learns it (gradient reversal), or answer as in the home language (KL divergence)."""
    weight: Annotated[Number, Field(ge=0.0, le=1e6)] = 1.0
    """What its gradient is multiplied by, beside the cross-entropy's 1."""
    layer: Annotated[Whole, Field(ge=0, le=1_000)] = 1
    """Number of blocks after which it looks at the residual stream, 0 for the embedding; `distil` looks at logits."""
    role: Literal["subject", "relation", "answer"] = "answer"
    """Where it looks: at the last token of the subject or the relation, or at that which predicts the answer; `distil`
    looks there."""
    pairs: Annotated[Whole, Field(ge=2, le=1_000_000)] = 20
    """Number of facts in a step, each in two languages, drawn from those told in more than one."""
    since: Share = 0.0
    """When it begins to act, as a share of `train.steps`; below `until`."""
    until: Share = 1.0
    """When it ends."""
    temperature: Annotated[Number, Field(gt=0.0, le=1e6)] = 0.1
    """What `contrast` divides cosines by."""
    shuffled: Flag = False
    """A control: states of two different facts are paired (with the adversary, languages are named at random)."""

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.since >= self.until:
            raise ValueError(f"since={self.since} must be below until={self.until}.")
        if self.method == "distil" and (self.layer, self.role) != (1, "answer"):
            raise ValueError(
                f"method='distil' compares answers, and conflicts with layer={self.layer}, role={self.role!r}; "
                "allowed: their defaults."
            )
        return self


class Sparse(Config):
    """Training that moves a share of the weights: those that a first run changed most, which is the same without this.

    All others keep exactly what the experiment's `start` gives them (Ansell et al. 2022, arXiv 2110.07560).

    >>> tuned = ul.Experiment(start=ul.Start(experiment=ul.Experiment(corpus=ul.CorpusConfig(parallel=0.0))))
    >>> tuned.replace(**{"train.sparse": ul.Sparse(share=0.05)}).train.sparse.share
    0.05
    """

    share: Annotated[Number, Field(gt=0.0, le=1.0)]
    """Of all weights that are not `train.frozen`, taken together, how many may move."""


class TrainConfig(Config):
    """Optimisation, and how often the model is evaluated and saved."""

    steps: Annotated[Whole, Field(ge=1, le=MANY)] = 900
    """Number of optimiser steps; more than `warmup` times `cycles`."""
    batch_size: Annotated[Whole, Field(ge=1, le=1_000_000)] = 256
    """Number of examples in a step, drawn anew from the corpus each time."""
    lr: Annotated[Number, Field(gt=0.0, le=1e6)] = 3e-3
    """Learning rate of AdamW after the warm-up."""
    weight_decay: Annotated[Number, Field(ge=0.0, le=1e6)] = 2.0
    """Decoupled decay (AdamW) of embeddings and weight matrices; biases and normalisation are left alone."""
    betas: Ordered[tuple[Decay, Decay]] = (0.9, 0.98)
    """AdamW's decay of the running means of gradients and of their squares, per step."""
    warmup: Annotated[Whole, Field(ge=0, lt=MANY)] = 50
    """Number of steps in which the learning rate rises linearly to `lr`."""
    schedule: Literal["cosine", "linear", "constant", "once"] = "cosine"
    """What the learning rate does after the warm-up; `once` is one cycle of the cosine, then its last rate."""
    final_lr: Share = 0.1
    """Learning rate at the end of the cosine or the line, as a share of `lr`."""
    cycles: Annotated[Whole, Field(ge=1, le=MANY)] = 1
    """Number of times that the schedule, warm-up included, runs over (warm restarts); `once` stops after the first."""
    loss: Literal["answer", "full"] = "answer"
    """Cross-entropy on the answer's tokens alone, or on every token after the first."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Number format in which matrices are multiplied; weights, gradients and everything else stay float32."""
    state_losses: Annotated[Ordered[tuple[StateLoss, ...]], Field(max_length=100)] = ()
    """Terms that are added to the loss, on states of facts told in several languages."""
    frozen: Ordered[tuple[Literal["embedding", "attention", "mlp", "normalization", "unembedding"], ...]] = ()
    """Parts that keep the weights that training begins with; not all of them."""
    translated_words: Share = 0.0
    """Share of subjects, relations and objects whose words begin with the first language's embedding and unembedding in
    every language, if they are words of one token; with a `start`, those words that are new."""
    new_words: Literal["mean", "spelling", "mistranslations"] | None = None
    """How the other words that the `start` has not begin, if they are words of one token; None: at random.

    `mean`: as the mean of its words of the same kind (arXiv 2406.11477). `spelling`: as a mean weighted by the letter
    pairs they have in common, after FOCUS (arXiv 2305.14481), which means something where words are related.
    `mistranslations`: a control of `translated_words`, which must be 0: the same vectors dealt to the wrong words, each
    to a word for another thing of the same kind (of objects: another of the same relation).
    """
    sparse: Sparse | None = None
    """Few weights that move, which needs a `start`; None for all that are not `frozen`."""
    soft_prompt: Flag = False
    """Move nothing but the embedding of `<bos>`, the vector in front of every prompt, which needs a `start`."""
    n_evaluations: Annotated[Whole, Field(ge=2, le=10_000)] = 32
    """Number of evaluations, rows of `run.history`: before training, then at steps spaced evenly on a log scale."""
    n_checkpoints: Annotated[Whole, Field(ge=1, le=10_000)] = 6
    """Number of steps at which the weights are kept, spaced evenly on a log scale; the last is always one."""
    eval_facts: Annotated[Whole, Field(ge=8, le=MANY)] = 256
    """Number of facts of each kind (parallel, monolingual) evaluated during training; the last evaluation takes all."""

    @model_validator(mode="after")
    def _something_is_trained(self) -> Self:
        parts = get_args(get_args(type(self).model_fields["frozen"].annotation)[0])
        if len(set(self.frozen)) == len(parts):
            raise ValueError(f"frozen={self.frozen} leaves nothing to train; allowed: some of {', '.join(parts)}.")
        return self

    @model_validator(mode="after")
    def _one_way_to_move_little(self) -> Self:
        for name, default in (("frozen", ()), ("sparse", None), ("translated_words", 0.0)):
            if self.soft_prompt and (value := getattr(self, name)) != default:
                raise ValueError(
                    f"soft_prompt=True conflicts with {name}={value!r}: one vector moves; allowed: {name}={default!r}."
                )
        return self

    @model_validator(mode="after")
    def _translated_rightly_or_wrongly(self) -> Self:
        if self.new_words == "mistranslations" and self.translated_words:
            raise ValueError(
                f"new_words='mistranslations' conflicts with translated_words={self.translated_words}: every new word "
                "is translated wrongly; allowed: translated_words=0.0, or another new_words."
            )
        return self

    @model_validator(mode="after")
    def _cycles_hold_the_warm_up(self) -> Self:
        if self.warmup * self.cycles >= self.steps:
            raise ValueError(f"warmup={self.warmup} times cycles={self.cycles} must stay below steps={self.steps}.")
        if self.cycles > self.steps:
            raise ValueError(f"cycles={self.cycles} must be at most steps={self.steps}: a cycle is a step or more.")
        if self.lr * self.weight_decay >= 1:
            raise ValueError(
                f"lr={self.lr} times weight_decay={self.weight_decay} must stay below 1: one step would wipe out the "
                "weights."
            )
        return self

    def lr_at(self, step: int) -> float:
        """Learning rate of 0-based step `step`."""
        length = self.steps / self.cycles
        within = step % length
        if self.schedule == "once" and step >= length:
            return self.lr * self.final_lr
        if within < self.warmup:
            return self.lr * min(1.0, (within + 1) / self.warmup)  # a cycle may start between two steps
        if self.schedule == "constant":
            return self.lr
        progress = (within - self.warmup) / (length - self.warmup)
        left = 1 - progress if self.schedule == "linear" else 0.5 * (1 + np.cos(np.pi * progress))
        return self.lr * (self.final_lr + (1 - self.final_lr) * left)

    def decay_left(self, step: int) -> float:
        """Weight decay that is still to come from 0-based step `step` on: a matrix shrinks to `exp(-decay_left)` by it.

        It is the sum of learning rates to come times `weight_decay`, to first order.
        """
        rates = np.array([self.lr_at(later) for later in range(step, self.steps)])
        return float(-np.log1p(-rates * self.weight_decay).sum())

    def _log_spaced(self, first: int, n: int) -> list[int]:
        spaced = np.geomspace(min(first, self.steps), self.steps, n) if n > 1 else np.array([self.steps])
        return sorted({int(step) for step in spaced.round()})

    def evaluation_steps(self) -> list[int]:
        """Steps after which the model is evaluated: 0 (untrained), then log-spaced up to the end."""
        return [0, *self._log_spaced(max(1, self.steps // 90), self.n_evaluations - 1)]

    def checkpoint_steps(self) -> list[int]:
        """Steps after which the weights are kept: log-spaced, the last one always."""
        return self._log_spaced(max(1, self.steps // 18), self.n_checkpoints)
