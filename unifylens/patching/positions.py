"""Where an edit acts in prompts of any length: at numbers, under a mask, or where a role stands in each row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from unifylens.arguments import numbers, plain
from unifylens.patching import hooks
from unifylens.patching.prompts import Prompts
from unifylens.patching.stream import Tokens
from unifylens.patching.tensors import at_least_single


@dataclass(frozen=True)
class Batch:
    """Some rows of an experiment while they run, all of one length."""

    rows: Int[Tensor, " chosen"]
    """Which rows of all prompts these are."""
    target: Tokens
    prompts: Prompts
    """The target's prompts again, with their roles: `batch.prompts.at("subject")` is a mask of positions."""
    sources: Sequence[Prompts] = ()
    runs: Sequence[Mapping[str, Tensor]] = ()
    """Each source's activations at the hooks that the edits read."""

    @cached_property
    def source(self) -> Mapping[str, Tensor]:
        """The source run's activations; the mean, where there are several, from the end where lengths differ."""
        lengths, runs = {prompts.length for prompts in self.sources}, self.runs
        if len(lengths) > 1:
            runs = [{name: x[:, -min(lengths) :] for name, x in run.items()} for run in runs]
        return hooks.mean_cache(runs, list(runs[0])) if runs else {}


@dataclass(frozen=True, eq=False)
class Place:
    """The positions at which an edit acts, in the target and in its sources: as `hooks.patch` takes them, or a role."""

    positions: hooks.Positions = None
    role: str | None = None
    source_positions: hooks.Positions = None
    """Where in the source to take what is put at `positions`; None: at the same."""

    def __post_init__(self) -> None:
        """Raises ValueError where both are given, or a role in place of positions."""
        if isinstance(self.positions, str):
            raise ValueError(f"positions={self.positions!r}; allowed: numbers or a mask, or role={self.positions!r}.")
        object.__setattr__(self, "positions", hooks.mask_or_numbers(self.positions))
        if self.role is not None and self.positions is not None:
            raise ValueError(f"role={self.role!r} and positions are given; allowed: one of them.")
        if self.source_positions is None:
            return
        object.__setattr__(self, "source_positions", hooks.mask_or_numbers(self.source_positions))
        if self.role is not None or self.mask is not None or isinstance(self.source_positions, Tensor):
            other = "a mask" if self.role is None else f"role={self.role!r}"
            raise ValueError(
                f"source_positions are given with {other}; allowed: numbers for both positions and source_positions. A "
                "role or a mask says itself where it stands in the source."
            )

    @property
    def mask(self) -> Bool[Tensor, "row pos"] | None:
        """The mask, if it is one."""
        return self.positions if isinstance(self.positions, Tensor) else None

    def by_row(self) -> dict[str, int]:
        """`Edit.by_row`: a mask has rows, numbers and roles are the same for all."""
        return {} if self.mask is None else {"positions": len(self.mask)}

    def here(self, batch: Batch) -> hooks.Positions:
        """Positions in a batch of the target."""
        return self._in(batch.prompts, batch) if self._differs else self.positions

    @property
    def _differs(self) -> bool:
        """Whether it may be another position in each row."""
        return self.role is not None or self.mask is not None

    def _in(self, prompts: Prompts, batch: Batch) -> Bool[Tensor, "chosen pos"]:
        if self.role is not None:
            return prompts.at(self.role)
        return prompts.under(self.mask[batch.rows])

    def source(self, batch: Batch, name: str) -> dict[str, Any]:
        """What `hooks.patch` needs to put the sources' mean at a hook here: `source` and where."""
        here = self.here(batch)
        if self.source_positions is not None:
            return {"source": batch.source[name], "positions": here, "source_positions": self.source_positions}
        masks = [self._in(prompts, batch) for prompts in batch.sources] if self._differs else []
        if all(mask.shape == here.shape and torch.equal(mask, here) for mask in masks):
            return {"source": batch.source[name], "positions": here}
        parts = [run[name][mask] for run, mask in zip(batch.runs, masks, strict=True)]
        there = parts[0].new_zeros(*here.shape, *parts[0].shape[1:])
        there[here] = at_least_single(torch.stack(parts)).mean(0).to(there)
        return {"source": there, "positions": here}

    def check(self, target: Prompts, sources: Sequence[Prompts]) -> None:
        """Raise ValueError, naming the row, where target or sources lack it, or do not fit together."""
        every = {"target": target} | {f"source {i}": prompts for i, prompts in enumerate(sources)}
        if self.role is not None:
            for name, prompts in every.items():
                prompts.at(self.role, name)
        elif self.mask is not None:
            self._check_mask(every)
        elif self.positions is not None or self.source_positions is not None:
            self._check_numbers(every)
        else:
            for name, prompts in every.items():
                if (other := prompts.lengths != target.lengths).any():
                    row = int(other.nonzero()[0, 0])
                    raise ValueError(
                        f"the prompts of {name} have {int(prompts.lengths[row])} positions, these "
                        f"{int(target.lengths[row])} (row {row}): name the positions to patch from the end, such as "
                        "positions=-1, or by role, or use prompts of one length."
                    )

    def _check_mask(self, every: Mapping[str, Prompts]) -> None:
        mask, target = self.mask, every["target"]
        wanted = (len(target), target.width)
        if mask.dtype != torch.bool or mask.shape != wanted:
            raise ValueError(
                f"positions is a {mask.dtype} tensor of shape {list(mask.shape)}; allowed: numbers, or a mask "
                f"(torch.bool) of shape {list(wanted)}."
            )
        for name, prompts in every.items():
            if prompts.width != target.width:
                raise ValueError(
                    f"the prompts of {name} have {prompts.width} positions, these {target.width}: a mask is of both; "
                    "name the positions by numbers, such as positions=-1 for the last, or by role."
                )
            if (lost := mask.any(1) & ~prompts.under(mask).any(1)).any():
                raise ValueError(
                    f"the mask of positions names nothing but padding in row {int(lost.nonzero()[0, 0])} of {name}; "
                    "allowed: positions of the prompt, none in rows to leave alone."
                )
            if (other := prompts.under(mask).sum(1) != target.under(mask).sum(1)).any():
                raise ValueError(
                    f"the mask of positions has others in row {int(other.nonzero()[0, 0])} of {name} than of target, "
                    "as they are padded otherwise; name the positions from the end, such as positions=-1, or by role."
                )

    def _check_numbers(self, every: Mapping[str, Prompts]) -> None:
        counts = {}
        for name, prompts in every.items():
            in_source = name != "target" and self.source_positions is not None
            field = "source_positions" if in_source else "positions"
            given = getattr(self, field)
            if given is None:
                counts[field] = prompts.length
                continue
            shortest = int(prompts.lengths.min())
            whose = name if prompts.length else f"the shortest prompt of {name}"
            places = numbers(given, shortest, field, whose, from_end=True)
            counts[field] = len(places)
            if prompts.skipped.any() and (places >= 0).any():
                raise ValueError(
                    f"{field}={int(places.max())}: {name} was handed over with padding before its rows, where a "
                    "number from the start could mean two places; allowed: numbers from the end (-1 is the last), a "
                    "mask, or a role."
                )
        if len(set(counts.values())) > 1:
            raise ValueError(
                f"source_positions names {counts['source_positions']} positions, positions "
                f"{counts['positions'] or 'all of prompts of unequal length'}; allowed: as many."
            )
        self.check_mean(list(every.values())[1:])

    def check_mean(self, sources: Sequence[Prompts]) -> None:
        """Raise ValueError where several sources differ in length and it is unclear which positions go together."""
        if self.role is not None or not sources:
            return
        for prompts in sources[1:]:
            if (other := prompts.lengths != sources[0].lengths).any() and not self._from_end():
                row = int(other.nonzero()[0, 0])
                lengths = [int(prompts.lengths[row]) for prompts in sources]
                raise ValueError(
                    f"the sources' prompts of row {row} have lengths {lengths}; a mean over them needs one length, "
                    "positions counted from the end, such as positions=[-1], or a role."
                )

    def _from_end(self) -> bool:
        given = self.positions if self.source_positions is None else self.source_positions
        if given is None or self.mask is not None:
            return False
        places = plain(given)
        return max(places if hasattr(places, "__iter__") else [places]) < 0
