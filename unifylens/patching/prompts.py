"""Prompts of any length, and where in each row a role stands: its subject's last token, its relation, its end.

Rows of one length run together, so nothing is ever padded: exact for every model and position encoding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Int
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from unifylens.arguments import numbers
from unifylens.patching.tensors import as_tensor, holds_numbers, is_whole

if TYPE_CHECKING:
    from unifylens.patching.stream import Model

LAST = "last"
"""The role that every prompt has: its last token, whose logits are the answer."""
LACKS = -1
"""Position of a role that a row lacks."""


@dataclass(frozen=True, init=False, eq=False, repr=False)
class Prompts:
    """Rows of token IDs, of one length or not, and at which position of its row each role stands.

    >>> prompts = ul.patching.Prompts([[5, 6, 7], [5, 8, 9, 7]], roles={"subject": [1, 2]})
    >>> prompts
    Prompts: 2 rows of 3 to 4 tokens; roles: subject, last
    >>> prompts.roles["last"].tolist()
    [2, 3]
    """

    tokens: Int[Tensor, "row pos"]
    """Each row from position 0 on; what stands behind a row's end means nothing."""
    lengths: Int[Tensor, " row"]
    roles: Mapping[str, Int[Tensor, " row"]]
    """Position of each role in its row, -1 where the row lacks it; `last` is always there."""
    skipped: Int[Tensor, " row"]
    """Tokens of padding that stood before each row in what was handed over."""
    width: int
    """Positions of a mask that names some: as wide as what was handed over."""

    def __init__(
        self,
        rows: ArrayLike | Tensor | Sequence[ArrayLike | Tensor],
        roles: Mapping[str, ArrayLike | Tensor] | None = None,
        *,
        pad: int | None = None,
        mask: ArrayLike | Tensor | None = None,
    ) -> None:
        """`rows` are a table `[row, pos]`, or lists or tensors of any length: these tokens, and none of them padding.

        Of a padded table say what is: the token `pad` at either end of a row, or a `mask` `[row, pos]` of what is not,
        such as a tokenizer's `attention_mask` (needed where a token that begins prompts also pads). `roles` are
        positions `[row]` in what is handed over, padding included; -1 where a row lacks the role.

        Raises ValueError, naming row and role, for an empty row, what are no token IDs, padding inside a row, or a
        position outside of it.
        """
        if isinstance(rows, Prompts):
            raise ValueError("rows are Prompts already; allowed: token IDs, [row, pos] or rows of any length.")
        tokens, lengths = _table(rows, "prompts")
        if pad is not None and mask is not None:
            raise ValueError(f"pad={pad} and a mask are given; allowed: one of them.")
        if pad is not None and not is_whole(pad):
            raise ValueError(f"pad={pad!r}; allowed: the token ID of padding, a whole number.")
        inside = _inside(tokens, lengths)
        if pad is not None:
            inside = inside & (tokens != pad)
        if mask is not None:
            inside = inside & _checked_mask(mask, tokens)
        padding = "mask" if mask is not None else f"padding (token {pad})"
        _fill(self, *_without(tokens, inside, "prompts", padding), tokens.shape[1], {} if roles is None else roles)

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.tokens)

    def __repr__(self) -> str:
        """How many rows of which lengths, and which roles."""
        few, many = int(self.lengths.min()), int(self.lengths.max())
        lengths = f"{few} tokens" if few == many else f"{few} to {many} tokens"
        return f"Prompts: {len(self)} rows of {lengths}; roles: {', '.join(self.roles)}"

    def __getstate__(self) -> dict[str, Any]:
        """What a pickle or a copy holds."""
        return {**vars(self), "roles": dict(self.roles)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """From a pickle or a copy."""
        vars(self).update({**state, "roles": MappingProxyType(state["roles"])})

    def __getitem__(self, rows: ArrayLike | Tensor | slice | int) -> Prompts:
        """Some rows, by number, mask or slice. Raises ValueError for rows that are not there."""
        if isinstance(rows, slice):
            rows = range(*rows.indices(len(self)))
        return self.part(torch.from_numpy(numbers(rows, len(self), "rows", "the prompts", from_end=True)))

    def part(self, rows: Int[Tensor, " chosen"]) -> Prompts:
        """Some rows by their numbers, which are not looked at."""
        lengths = self.lengths[rows]
        part = object.__new__(Prompts)
        vars(part).update(
            tokens=self.tokens[rows, : int(lengths.max())],
            lengths=lengths,
            skipped=self.skipped[rows],
            width=self.width,
            roles=MappingProxyType({name: at[rows] for name, at in self.roles.items()}),
        )
        return part

    @property
    def length(self) -> int | None:
        """Tokens of every row, None where they differ."""
        few, many = int(self.lengths.min()), int(self.lengths.max())
        return few if few == many else None

    def tolist(self) -> list[list[int]]:
        """Token IDs of each row, without any padding, as tokenizers decode them."""
        return [row[:n] for row, n in zip(self.tokens.tolist(), self.lengths.tolist(), strict=True)]

    def at(self, role: str, name: str = "prompts") -> Bool[Tensor, "row pos"]:
        """Where a role stands, as a mask. Raises ValueError, naming row and role, where a row lacks it."""
        if role not in self.roles:
            raise ValueError(f"{name} has no role {role!r}; allowed: {', '.join(self.roles)}.")
        at = self.roles[role]
        if (at < 0).any():
            row = int((at < 0).nonzero()[0, 0])
            raise ValueError(
                f"row {row} of {name} lacks the role {role!r} (position {LACKS}); allowed: rows that all have it."
            )
        return torch.arange(self.tokens.shape[1]) == at[:, None]

    def place(self, at: ArrayLike | Tensor | int | str, name: str = "position") -> Int[Tensor, " row"]:
        """One position in each row: of a number for all, of one a row in what was handed over, or of a role."""
        if isinstance(at, str):
            return self.at(at).int().argmax(1)
        try:
            given = as_tensor(at).cpu()
        except (ValueError, TypeError, RuntimeError):
            given = torch.empty(0, dtype=torch.bool)
        if not holds_numbers(given) or given.shape not in ((), self.lengths.shape):
            raise ValueError(
                f"{name} is {given.dtype} of shape {list(given.shape)}; allowed: one number, one for each of the "
                f"{len(self)} rows, or a role: {', '.join(self.roles)}."
            )
        if not given.ndim and given >= 0 and self.skipped.any():
            raise ValueError(
                f"{name}={int(given)}: the prompts were handed over with padding before their rows, where a number "
                "from the start could mean two places; allowed: numbers from the end (-1 is the last), or one for each "
                "row."
            )
        said = given.long().expand(len(self))
        own = torch.where(said < 0, self.lengths + said, said - self.skipped)
        if (outside := (own < 0) | (own >= self.lengths)).any():
            row = int(outside.nonzero()[0, 0])
            first, n = int(self.skipped[row]), int(self.lengths[row])
            raise ValueError(
                f"{name}={int(said[row])}: row {row} has {n} tokens; allowed: {first} to {first + n - 1}, or from the "
                f"end {-n} to -1."
            )
        return own

    def under(self, mask: Bool[Tensor, "row width"]) -> Bool[Tensor, "row pos"]:
        """A mask of positions in what was handed over, as one of positions in the rows."""
        columns = torch.arange(self.tokens.shape[1])
        there = (self.skipped[:, None] + columns).clamp(max=self.width - 1).to(mask.device)
        return mask.gather(1, there) & (columns < self.lengths[:, None]).to(mask.device)


def _fill(
    prompts: Prompts,
    tokens: Int[Tensor, "row pos"],
    lengths: Int[Tensor, " row"],
    skipped: Int[Tensor, " row"],
    width: int,
    roles: Mapping[str, Any],
) -> Prompts:
    if not isinstance(roles, Mapping):
        raise ValueError(f"roles is a {type(roles).__name__}; allowed: a dict of positions [row] by name.")
    own = {name: _role(name, at, lengths, skipped) for name, at in roles.items()}
    end = lengths - 1
    if (elsewhere := own.setdefault(LAST, end) != end).any():
        raise ValueError(
            f"role {LAST!r} of row {int(elsewhere.nonzero()[0, 0])} is not its last token, which every prompt has "
            "under that name; name the role otherwise."
        )
    vars(prompts).update(tokens=tokens, lengths=lengths, skipped=skipped, width=width, roles=MappingProxyType(own))
    return prompts


def by_length(*several: Prompts) -> Iterator[Int[Tensor, " chosen"]]:
    """Rows of one length, in each of several prompts; the shortest first, each in their order."""
    lengths = torch.stack([prompts.lengths for prompts in several], 1)
    if (lengths == lengths[0]).all():
        yield torch.arange(len(lengths))
        return
    _, group = lengths.unique(dim=0, return_inverse=True)
    for number in range(int(group.max()) + 1):
        yield (group == number).nonzero()[:, 0]


def in_order(parts: Sequence[Tensor], rows: Sequence[Int[Tensor, " chosen"]]) -> Tensor:
    """Parts that belong to some rows each, in the order of the rows."""
    if len(parts) == 1:
        return parts[0]
    order = torch.cat(list(rows))
    whole = torch.cat(list(parts))
    in_place = bool((order[1:] > order[:-1]).all())
    return whole if in_place else whole[order.argsort().to(whole.device)]


def as_prompts(model: Model, given: Any, name: str = "prompts") -> Prompts:
    """Prompts of a model, as they were handed over; of a table or lists, without the model's padding.

    What pads is what the model's tokenizer says, or its `cfg.pad_token_id`, as models of the dish and of `transformers`
    do. A model with neither knows of no padding: hand over rows of unequal length, or `Prompts(table, pad=...)`.

    Raises ValueError, naming row and token, for what are no token IDs of the model, prompts longer than its context,
    padding inside a row, and rows that may be padded with a token that also begins or ends prompts, or is unknown.
    """
    if isinstance(given, Prompts):
        prompts = given
    else:
        tokens, lengths = _table(given, name)
        inside = _inside(tokens, lengths)
        pad, unclear = padding(model)
        if unclear:
            _refuse_unclear(tokens, inside, pad, name)
        elif pad is not None:
            inside = inside & (tokens != pad)
        rest = _without(tokens, inside, name, f"padding (token {pad}; if it is none here, hand over Prompts(...))")
        prompts = _fill(object.__new__(Prompts), *rest, tokens.shape[1], {})
    strange = (prompts.tokens < 0) | (prompts.tokens >= model.cfg.d_vocab)
    if strange.any() and (strange & _inside(prompts.tokens, prompts.lengths)).any():
        token = prompts.tokens[strange & _inside(prompts.tokens, prompts.lengths)][0]
        raise ValueError(
            f"{name} holds token {int(token)}; the model's vocabulary has {model.cfg.d_vocab}: were the prompts made "
            "for another model?"
        )
    longest, limit = int(prompts.lengths.max()), _context(model)
    if limit is not None and longest > limit:
        row = int(prompts.lengths.argmax())
        raise ValueError(f"row {row} of {name} has {longest} tokens; the model's context is n_ctx={limit}.")
    return prompts


def sources_of(model: Model, source: Any) -> list[Prompts]:
    """The sources' prompts, none, one or several. Raises ValueError as `as_prompts` does."""
    if source is None:
        return []
    if isinstance(source, Mapping):
        raise ValueError(
            f"source is a {type(source).__name__} of {', '.join(map(str, source))}; allowed: prompts, such as "
            'tokenizer(texts)["input_ids"], or a list of several, such as list(sources.values()).'
        )
    if isinstance(source, (Prompts, Tensor)) or hasattr(source, "__array__") or not hasattr(source, "__iter__"):
        several = [source]
    else:
        several = list(source)
        if several and all(map(_is_row, several)):
            several = [several]
    return [as_prompts(model, given, f"source {i}") for i, given in enumerate(several)]


def _is_row(given: Any) -> bool:
    """Whether it is one prompt, and not a table of them."""
    if getattr(getattr(given, "dtype", None), "kind", None) == "O":  # a column of lists
        given = list(given)
    if hasattr(given, "ndim") or not isinstance(given, Sequence):
        return getattr(given, "ndim", None) == 1
    return not any(hasattr(x, "__iter__") and getattr(x, "ndim", 1) for x in given)


def _table(given: Any, name: str) -> tuple[Int[Tensor, "row pos"], Int[Tensor, " row"]]:
    """Rows as one table, and their lengths."""
    try:
        tokens = as_tensor(given)
    except (ValueError, TypeError, RuntimeError):
        return _ragged(given, name)
    if tokens.ndim != 2 or not tokens.numel() or not holds_numbers(tokens):
        raise ValueError(
            f"{name} is {tokens.dtype} of shape {list(tokens.shape)}; it must be token IDs [row, pos], one row and "
            "position or more."
        )
    return tokens.to(torch.long, copy=True), torch.full((len(tokens),), tokens.shape[1])


def _ragged(given: Any, name: str) -> tuple[Int[Tensor, "row pos"], Int[Tensor, " row"]]:
    rows = []
    for number, row in enumerate(given if hasattr(given, "__iter__") else [given]):
        try:
            tokens = as_tensor(row)
        except (ValueError, TypeError, RuntimeError):
            raise ValueError(
                f"{name} of type {type(given).__name__} hold no numbers; allowed: token IDs [row, pos], or rows of any "
                'length, such as tokenizer(texts)["input_ids"].'
            ) from None
        if not tokens.numel():
            raise ValueError(f"row {number} of {name} is empty; allowed: one token or more.")
        if tokens.ndim != 1 or not holds_numbers(tokens):
            raise ValueError(
                f"row {number} of {name} is {tokens.dtype} of shape {list(tokens.shape)}; it must be token IDs [pos]."
            )
        rows.append(tokens.long())
    return pad_sequence(rows, batch_first=True), torch.tensor([len(row) for row in rows])


def _inside(tokens: Int[Tensor, "row pos"], lengths: Int[Tensor, " row"]) -> Bool[Tensor, "row pos"]:
    return (torch.arange(tokens.shape[1]) < lengths[:, None]).to(tokens.device)


def _checked_mask(mask: ArrayLike | Tensor, tokens: Int[Tensor, "row pos"]) -> Bool[Tensor, "row pos"]:
    try:
        given = as_tensor(mask)
    except (ValueError, TypeError, RuntimeError):
        raise ValueError(
            f"mask of type {type(mask).__name__} holds no numbers, or rows of unequal length; allowed: 1 where a token "
            f"is part of the prompt and 0 where it pads, of shape {list(tokens.shape)}."
        ) from None
    if given.shape != tokens.shape or not ((given == 0) | (given == 1)).all():
        raise ValueError(
            f"mask is {given.dtype} of shape {list(given.shape)}; allowed: 1 where a token is part of the prompt and 0 "
            f"where it pads, of shape {list(tokens.shape)}."
        )
    return given.bool().to(tokens.device)


def _without(
    tokens: Int[Tensor, "row pos"], inside: Bool[Tensor, "row pos"], name: str, padding: str
) -> tuple[Int[Tensor, "row pos"], Int[Tensor, " row"], Int[Tensor, " row"]]:
    """Rows from their first to their last token inside, their lengths, and how many tokens stood before."""
    kept = inside.cpu()
    if not kept.any(1).all():
        raise ValueError(f"row {int((~kept.any(1)).nonzero()[0, 0])} of {name} is nothing but {padding}.")
    skipped = kept.int().argmax(1)
    lengths = kept.shape[1] - kept.flip(1).int().argmax(1) - skipped
    if (broken := kept.sum(1) != lengths).any():
        raise ValueError(
            f"row {int(broken.nonzero()[0, 0])} of {name} has {padding} between its tokens; allowed: at its ends."
        )
    if skipped.any():
        columns = (skipped[:, None] + torch.arange(int(lengths.max()))).clamp(max=tokens.shape[1] - 1)
        tokens = tokens.gather(1, columns.to(tokens.device))
    return tokens[:, : int(lengths.max())], lengths, skipped


def _role(
    name: str, given: ArrayLike | Tensor, lengths: Int[Tensor, " row"], skipped: Int[Tensor, " row"]
) -> Int[Tensor, " row"]:
    try:
        said = as_tensor(given).cpu()
    except (ValueError, TypeError, RuntimeError):
        said = torch.empty(0, dtype=torch.bool)
    if said.shape != lengths.shape or not holds_numbers(said):
        raise ValueError(
            f"role {name!r} is {said.dtype} of shape {list(said.shape)}; allowed: one position a row, "
            f"[{len(lengths)}], {LACKS} where the row lacks it."
        )
    said = said.long()
    at = said - skipped
    outside = ((at < 0) | (at >= lengths)) & (said != LACKS)
    if outside.any():
        row = int(outside.nonzero()[0, 0])
        first = int(skipped[row])
        raise ValueError(
            f"role {name!r} of row {row} is at {int(said[row])}; allowed: {first} to "
            f"{first + int(lengths[row]) - 1}, or {LACKS} where the row lacks it."
        )
    return torch.where(said == LACKS, LACKS, at)


def padding(model: Model) -> tuple[int | None, bool]:
    """The token that pads prompts of a model, and whether it may also be part of them."""
    tokenizer = getattr(model, "tokenizer", None)
    says = model.cfg if tokenizer is None else tokenizer
    pad = getattr(says, "pad_token_id", None)
    if not is_whole(pad):
        return None, False
    ends = [getattr(says, f"{end}_token_id", None) for end in ("bos", "eos", "unk", "cls", "sep")]
    return int(pad), any(pad in (end if isinstance(end, (list, tuple)) else [end]) for end in ends)


def _refuse_unclear(
    tokens: Int[Tensor, "row pos"], inside: Bool[Tensor, "row pos"], pad: int | None, name: str
) -> None:
    """Refuse rows that begin or end with unequal numbers of a token that pads and is part of prompts."""
    other, lengths = ((tokens != pad) & inside).cpu(), inside.sum(1).cpu()
    behind = tokens.shape[1] - lengths
    rows = "rows" if behind.any() else "table"
    ways = f"Prompts({rows}, mask=attention_mask)"
    if rows == "table":
        ways = f'rows of unequal length (tokenizer(texts)["input_ids"]), {ways}'
    for side, flags, outside in (("begin", other, 0), ("end", other.flip(1), behind)):
        counts = torch.where(flags.any(1), flags.int().argmax(1) - outside, lengths)
        if (different := counts != counts[0]).any():
            row = int(different.nonzero()[0, 0])
            raise ValueError(
                f"rows of {name} {side} with different numbers of token {pad} (row 0 with {int(counts[0])}, row {row} "
                f"with {int(counts[row])}), which pads but may also be part of prompts (it begins or ends them, or is "
                f"unknown). Hand over {ways}, Prompts({rows}, pad={pad}) where all of them are padding, or "
                f"Prompts({rows}) where none is."
            )


def _context(model: Model) -> int | None:
    """Longest prompt that a model can read; None where positions are computed as far as they are asked for."""
    learned = getattr(model.cfg, "positional_embedding_type", None) == "standard" and hasattr(model, "pos_embed")
    return model.cfg.n_ctx if learned or is_hooked(model) or is_native(model) else None


def is_hooked(model: Model) -> bool:
    """Whether it is a `HookedTransformer`; the class itself is gone from TransformerLens 4."""
    return "HookedTransformer" in {kind.__name__ for kind in type(model).__mro__}


def is_native(model: Model) -> bool:
    """Whether it is TransformerLens' own network in a bridge, such as the dish's with TransformerLens 4."""
    network = type(getattr(model, "original_model", None))
    return network.__module__.startswith("transformer_lens.model_bridge.sources.native")
