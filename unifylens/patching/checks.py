"""Whether patching does in a model what it says: tried on prompts before an experiment is believed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from itertools import chain
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from unifylens.patching import hooks
from unifylens.patching.edits import Edit, batches, edits_of, read_activations, refuse_idle, watched
from unifylens.patching.positions import Batch
from unifylens.patching.prompts import Prompts, as_prompts, padding, sources_of
from unifylens.patching.stream import Hook, Model, Rows, check_edits, check_names, check_switches, layer_names

OWN, WHOLE, FIRES = "own state changes nothing", "whole state gives the source's answer", "edit runs"


LEAST_ROUNDING = 1e-5
"""Share of a logit by which it may differ; in half precision, one step of it."""


@torch.no_grad()
def selfcheck(
    model: Model,
    tokens: Rows,
    source: Rows | Sequence[Rows] | None = None,
    edits: Edit | Iterable[Edit] = (),
) -> pd.DataFrame:
    """Check that patching is exact in a model: a row a check and layer or hook, with the largest difference of logits.

    At each layer, patching a prompt's own state must change no logit at any position, and the source's whole state must
    give all of the source's; where a row of `source` is not as long, or is the same but for its last token, the prompt
    is read backwards, or with other tokens. Every hook of each edit must run, from `source` (None: from `tokens`); the
    difference is what the edit changes. Columns: check, at, largest difference.

    Raises ValueError, naming check, layer and difference, for the first that fails: a logit that differs by more than
    rounding, which is of its own size. Where the state is all that a model reads, all differences are 0.

    >>> table = ul.patching.selfcheck(run.model, run.corpus.prompts()[:4])
    >>> float(table["largest difference"].max())
    0.0
    """
    target = as_prompts(model, tokens, "tokens")
    sources = sources_of(model, source) or [target]
    edits = edits_of(edits)
    for edit in edits:
        if edit.place is not None:
            edit.place.check(target, sources if edit.reads else ())
    reads = sorted({name for edit in edits for name in edit.reads})
    check_names(set(model.hook_dict), reads)
    check_switches(model, reads)
    names = layer_names(model.cfg.n_layers)
    for i, prompts in enumerate(sources):
        if len(prompts) != len(target):
            raise ValueError(f"source {i} has {len(prompts)} prompts, tokens {len(target)}; allowed: as many.")
    whole = _others(model, target, sources[0])
    device = next(model.parameters()).device
    differences: dict[tuple[str, Any], float] = {}
    for rows in batches(target, sources, lambda n: len(target)):
        prompts, of_sources = target.part(rows), [each.part(rows) for each in sources]
        here, there = (each.tokens.to(device) for each in (prompts, whole.part(rows)))
        plain, due = (_logits(model, each) for each in (here, there))
        (own,), (theirs,) = (read_activations(model, [each], names) for each in (here, there))
        for check, cache, answer in ((OWN, own, plain), (WHOLE, theirs, due)):
            for layer, name in enumerate(names):
                patched = _logits(model, here, [(name, partial(hooks.patch, source=cache[name]))])
                apart, rounding = _apart(patched, answer), _rounding(model) * (1 + answer.abs())
                _note(differences, (check, layer), float(apart.max()))
                if not (apart <= rounding).all():
                    worst = (apart / rounding).nan_to_num(torch.inf, torch.inf).argmax()  # infinite ones first
                    difference, allowed = (float(each.flatten()[worst]) for each in (apart, rounding))
                    raise ValueError(
                        f"layer {layer}: {check} fails by {difference:.3g} (rounding: {allowed:.3g}); patching the "
                        "residual stream is not exact in this model: something passes it by, or answers vary by chance."
                    )
        runs = read_activations(model, [each.tokens.to(device) for each in of_sources], reads)
        batch = Batch(rows, here, prompts, of_sources, runs)
        for edit in edits:
            chosen = list(edit.hooks(batch))
            check_names(set(model.hook_dict), [name for name, _ in chosen])
            check_edits(model, [name for name, _ in chosen])
            run, idle = watched(chosen)
            difference = float(_apart(_logits(model, here, run), plain).max())
            refuse_idle(idle, edit)
            for name, _ in chosen:
                _note(differences, (FIRES, name), difference)
    return pd.DataFrame([{"check": check, "at": at, "largest difference": x} for (check, at), x in differences.items()])


def _note(differences: dict[tuple[str, Any], float], key: tuple[str, Any], value: float) -> None:
    differences[key] = max(value, differences.get(key, 0.0))


def _others(model: Model, target: Prompts, source: Prompts) -> Prompts:
    """For each row another as long, which differs before its last token: from the source, backwards, or other tokens.

    Of rows that differ in nothing that is patched any model would pass.
    """
    n, (pad, _) = model.cfg.d_vocab, padding(model)
    rows = []
    for row, given in zip(target.tolist(), source.tolist(), strict=True):
        shifts = ([(token + step) % n for token in row] for step in range(1, n))
        others = chain([given] * (len(given) == len(row)), [row[::-1]], (each for each in shifts if pad not in each))
        before = max(1, len(row) - 1)
        rows.append(next(other for other in others if other[:before] != row[:before]))
    return Prompts(rows)


def _apart(a: Tensor, b: Tensor) -> Tensor:
    """How far apart logits are; equal infinities, such as of tokens that are ruled out, are not."""
    return torch.where(a == b, 0.0, (a - b).abs())


def _logits(model: Model, tokens: Tensor, fwd_hooks: Sequence[Hook] = ()) -> Float[Tensor, "row pos vocab"]:
    return model.run_with_hooks(tokens, fwd_hooks=list(fwd_hooks)).float()


def _rounding(model: Model) -> float:
    return max(torch.finfo(next(model.parameters()).dtype).eps, LEAST_ROUNDING)
