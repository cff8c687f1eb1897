"""Which experts a mixture of experts chooses for the same facts in different languages."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy import ndarray
from numpy.typing import ArrayLike
from torch import Tensor

from unifylens.corpus.corpus import Corpus
from unifylens.measures.information import entropy
from unifylens.patching.stream import BATCH_ROWS, Model
from unifylens.seeds import rng

ROLES = ("subject", "relation", "answer")
HALVINGS = 20
"""Random halvings of the facts that the control is a mean over."""


@torch.no_grad()
def routing(model: Model, corpus: Corpus, facts: ArrayLike | Tensor | None = None, seed: int = 0) -> pd.DataFrame:
    """Whether the router sends the same facts (numbers or a mask; all of them) to the same experts in all languages.

    One row for every block, from 0, and role; means over pairs of languages. Columns: `between`, the Jensen-Shannon
    divergence, in bits, of two languages' mean use of experts, 0 where they use the same ones and 1 where none is used
    by both; `within`, its control, that of two random halves of the facts within a language; `same`, the share of facts
    whose first expert is the same in both languages; and `chance`, what it would be if facts were paired at random.
    Raises ValueError for a model without experts, for less than two facts or languages, and for facts that are none.
    """
    experts = getattr(model.cfg, "num_experts", None)
    if not experts:
        raise ValueError(f"the model has num_experts={experts}; allowed: a model with experts (model.n_experts).")
    chosen = np.arange(corpus.n_facts) if facts is None else corpus.fact_numbers(facts)
    if len(chosen) < 2 or corpus.n_languages < 2:
        raise ValueError(
            f"facts are {len(chosen)} in {corpus.n_languages} languages; allowed: two or more of both to compare."
        )
    rows = corpus.rows(chosen)
    order = rng(seed, "halves of facts")
    halves = [np.array_split(order.permutation(len(chosen)), 2) for _ in range(HALVINGS)]
    records = []
    for block, use in enumerate(_use(model, corpus, rows)):
        for role, by_row in zip(ROLES, use, strict=True):
            by_language = by_row.reshape(corpus.n_languages, len(chosen), -1)
            records.append({"block": block, "role": role} | _compare(by_language, halves))
    return pd.DataFrame(records)


def _compare(use: Float[ndarray, "language fact expert"], halves: list[list[ndarray]]) -> dict[str, float]:
    first, n_experts = use.argmax(-1), use.shape[-1]
    shares = np.stack([np.bincount(own, minlength=n_experts) / len(own) for own in first])
    pairs = list(combinations(range(len(use)), 2))
    return {
        "between": float(np.mean([_divergence(use[a].mean(0), use[b].mean(0)) for a, b in pairs])),
        "within": float(np.mean([_divergence(own[h].mean(0), own[k].mean(0)) for own in use for h, k in halves])),
        "same": float(np.mean([(first[a] == first[b]).mean() for a, b in pairs])),
        "chance": float(np.mean([shares[a] @ shares[b] for a, b in pairs])),
    }


def _divergence(p: Float[ndarray, " expert"], q: Float[ndarray, " expert"]) -> float:
    """Jensen-Shannon divergence of two distributions, in bits."""
    return max(0.0, entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2)


def _use(model: Model, corpus: Corpus, rows: ndarray) -> Float[ndarray, "block role row expert"]:
    """Weights of the experts that are used for the token at each role, which sum to 1; 0 for those that are not."""
    names = [f"blocks.{block}.mlp.hook_expert_weights" for block in range(model.cfg.n_layers)]
    ends = torch.from_numpy(np.stack([corpus.positions(role)[rows] for role in ROLES]))
    prompts, parts = corpus.prompts(rows), []
    for some in torch.arange(len(rows)).split(BATCH_ROWS):
        tokens, kept = prompts[some], []

        def keep(weights: Tensor, hook: object, kept: list[Tensor] = kept, at: Tensor = ends[:, some]) -> None:
            by_row = weights.unflatten(0, (at.shape[1], -1)).cpu()
            kept.append(by_row[torch.arange(at.shape[1]), at])

        model.run_with_hooks(tokens, fwd_hooks=[(name, keep) for name in names], return_type=None)
        parts.append(torch.stack(kept))
    weights = torch.cat(parts, 2)
    used = weights >= weights.topk(model.cfg.experts_per_token, -1).values[..., -1:]
    weights = weights * used
    return (weights / weights.sum(-1, keepdim=True)).double().numpy()
