"""Whether patching does in a model what it says: tried on prompts before an experiment is believed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from unifylens.patching import hooks
from unifylens.patching.edits import Edit, batches, edits_of, read_activations, refuse_idle, watched
from unifylens.patching.positions import Batch
from unifylens.patching.prompts import Prompts, as_prompts, sources_of
from unifylens.patching.stream import Hook, Model, Rows, check_edits, check_names, check_switches, layer_names

OWN, WHOLE, FIRES = "own state changes nothing", "whole state gives the source's answer", "edit runs"


@torch.no_grad()
def selfcheck(
    model: Model,
    tokens: Rows,
    source: Rows | Sequence[Rows] | None = None,
    edits: Edit | Iterable[Edit] = (),
) -> pd.DataFrame:
    """Check that patching is exact in a model: a row a check and layer or hook, with the largest difference of logits.

    At each layer, patching a prompt's own state must change no logit at any position, and the source's whole state must
    give all of the source's; where `source` has no prompts as long as `tokens`, these are read backwards. Every hook of
    each edit must run; the difference is what the edit changes. Columns: check, at, largest difference.

    Raises ValueError, naming check, layer and difference, for the first that fails: a difference above rounding, which
    is the square root of the precision times the largest logit.

    >>> table = ul.patching.selfcheck(run.model, run.corpus.prompts()[:4])
    >>> float(table["largest difference"].max())
    0.0
    """
    target = as_prompts(model, tokens, "tokens")
    sources = sources_of(model, source) or [_backwards(target)]
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
    whole = sources[0] if torch.equal(sources[0].lengths, target.lengths) else _backwards(target)
    device = next(model.parameters()).device
    differences: dict[tuple[str, Any], float] = {}
    for rows in batches(target, sources, lambda n: len(target)):
        prompts, of_sources = target.part(rows), [each.part(rows) for each in sources]
        here, there = (each.tokens.to(device) for each in (prompts, whole.part(rows)))
        plain, due = (_logits(model, each) for each in (here, there))
        (own,), (theirs,) = (read_activations(model, [each], names) for each in (here, there))
        rounding = _rounding(model) * float(torch.stack([plain.abs().max(), due.abs().max()]).max())
        for check, cache, answer in ((OWN, own, plain), (WHOLE, theirs, due)):
            for layer, name in enumerate(names):
                patched = _logits(model, here, [(name, partial(hooks.patch, source=cache[name]))])
                _note(differences, (check, layer), difference := float((patched - answer).abs().max()))
                if not difference <= rounding:
                    raise ValueError(
                        f"layer {layer}: {check} fails by {difference:.3g} (rounding: {rounding:.3g}); patching the "
                        "residual stream is not exact in this model: something passes it by, or answers vary by chance."
                    )
        runs = read_activations(model, [each.tokens.to(device) for each in of_sources], reads)
        batch = Batch(rows, here, prompts, of_sources, runs)
        for edit in edits:
            chosen = list(edit.hooks(batch))
            check_names(set(model.hook_dict), [name for name, _ in chosen])
            check_edits(model, [name for name, _ in chosen])
            run, idle = watched(chosen)
            difference = float((_logits(model, here, run) - plain).abs().max())
            refuse_idle(idle, edit)
            for name, _ in chosen:
                _note(differences, (FIRES, name), difference)
    return pd.DataFrame([{"check": check, "at": at, "largest difference": x} for (check, at), x in differences.items()])


def _note(differences: dict[tuple[str, Any], float], key: tuple[str, Any], value: float) -> None:
    differences[key] = max(value, differences.get(key, 0.0))


def _backwards(prompts: Prompts) -> Prompts:
    return Prompts([row[::-1] for row in prompts.tolist()])


def _logits(model: Model, tokens: Tensor, fwd_hooks: Sequence[Hook] = ()) -> Float[Tensor, "row pos vocab"]:
    return model.run_with_hooks(tokens, fwd_hooks=list(fwd_hooks)).float()


def _rounding(model: Model) -> float:
    return torch.finfo(next(model.parameters()).dtype).eps ** 0.5
