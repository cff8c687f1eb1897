"""AdamW for a stack whose members have their own learning rate and weight decay; a step as one CUDA graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, groupby
from threading import Lock

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from unifylens.config import TrainConfig
from unifylens.training.stack import Parameters

PART_SIZE = 4
"""Members that a step computes together on a CPU: what they need stays in its cache."""

SIGNS = {
    "embedding": ("embed.W_E", "pos_embed."),
    "attention": (".attn.",),
    "mlp": (".mlp.",),
    "normalization": (".ln1.", ".ln2.", "ln_final."),
    "unembedding": ("unembed.",),
}
"""What the names of a part's parameters have in them."""

_RECORDING = Lock()


def is_frozen(name: str, config: TrainConfig) -> bool:
    """Whether a parameter belongs to a part that is not trained."""
    if config.soft_prompt:
        return name != "embed.W_E"
    return any(sign in name for part in config.frozen for sign in SIGNS[part])


class StackedAdamW:
    """PyTorch's fused AdamW; decay acts on embeddings and weight matrices only.

    Members are updated part by part. Neighbours with equal settings are updated as one.
    """

    def __init__(
        self, parameters: Parameters, configs: list[TrainConfig], part_size: int, masks: Parameters | None = None
    ) -> None:
        """`configs` are the members' settings; a part holds at most `part_size` members.

        `masks` `[model, ...]` are True where weights may move; others stay what they are now. None: all may.
        """
        n_models = len(configs)
        self.configs = configs
        self.parts = [slice(i, min(i + part_size, n_models)) for i in range(0, n_models, part_size)]
        self.parameters = {part.start: {name: p[part] for name, p in parameters.items()} for part in self.parts}
        """Parameters of each part, by its first member."""
        self.on_gpu = next(iter(parameters.values())).is_cuda
        self.rates: list[float] | Tensor = torch.zeros(n_models, device="cuda") if self.on_gpu else [0.0] * n_models
        """Learning rate of every member."""
        self.moments = {
            f"{moment}/{name}": torch.zeros_like(p) for moment in ("mean", "square") for name, p in parameters.items()
        }
        bits = [(parameters[name].view(torch.int32), mask) for name, mask in (masks or {}).items()]
        kept = [(now, mask, now.clone()) for now, mask in bits]
        self._kept = {
            part.start: [(now[part], mask[part], first[part]) for now, mask, first in kept] for part in self.parts
        }
        """Of each part: the bits of parameters, which weights may move, and the bits that the others stay."""
        self._groups = {part.start: list(self._grouped(parameters, part)) for part in self.parts}

    def _grouped(self, parameters: Parameters, part: slice) -> Iterator[_Group]:
        runs = groupby(range(part.start, part.stop), key=lambda k: (self.configs[k].lr, self.configs[k].weight_decay))
        for _, run in runs:
            members = list(run)
            run = slice(members[0], members[-1] + 1)
            for decays in (True, False):
                trained = [name for name in parameters if not is_frozen(name, self.configs[0])]  # stacks share it
                names = [name for name in trained if (".W_" in name) == decays]
                yield _Group(
                    names=names,
                    members=slice(run.start - part.start, run.stop - part.start),
                    first=run.start,
                    config=self.configs[run.start],
                    decay=self.configs[run.start].weight_decay if decays else 0.0,
                    parameters=[parameters[name][run] for name in names],
                    means=[self.moments[f"mean/{name}"][run] for name in names],
                    squares=[self.moments[f"square/{name}"][run] for name in names],
                    steps=[torch.zeros((), device=parameters[name].device) for name in names],
                )

    def set_rates(self, step: int) -> None:
        """Learning rates of 0-based step `step`."""
        rates = [config.lr_at(step) for config in self.configs]
        if isinstance(self.rates, Tensor):
            self.rates.copy_(torch.tensor(rates))
        else:
            self.rates = rates

    def update(self, part: slice, gradients: Parameters) -> None:
        """Move the members of one of the `parts` by their gradients."""
        alone = len(self._groups[part.start]) == 2  # one setting: no need to cut the gradients
        for group in self._groups[part.start]:
            adamw(
                group.parameters,
                [gradients[name] if alone else gradients[name][group.members] for name in group.names],
                group.means,
                group.squares,
                [],
                group.steps,
                foreach=False,
                fused=True,
                capturable=self.on_gpu,
                amsgrad=False,
                maximize=False,
                beta1=group.config.betas[0],
                beta2=group.config.betas[1],
                lr=self.rates[group.first],
                weight_decay=group.decay,
                eps=1e-8,
            )
        for now, may_move, first in self._kept[part.start]:
            # exact, and several times as fast as `torch.where` on scattered weights
            now.bitwise_xor_(first).mul_(may_move).bitwise_xor_(first)

    def load(self, moments: dict[str, Tensor], step: int) -> None:
        """Go on from saved `moments` after `step` steps."""
        for name, tensor in self.moments.items():
            tensor.copy_(moments[name])
        for groups in self._groups.values():
            for group in groups:
                for count in group.steps:
                    count.fill_(step)


@dataclass
class _Group:
    """Neighbours of equal settings, and the views that PyTorch's AdamW takes."""

    names: list[str]
    members: slice
    first: int
    config: TrainConfig
    decay: float
    parameters: list[Tensor]
    means: list[Tensor]
    squares: list[Tensor]
    steps: list[Tensor]


class Graph:
    """A function of tensors replayed as one CUDA graph: small models wait for launches longer than for arithmetic."""

    WARM_UP = 3

    def __init__(self, function: Callable[..., None]) -> None:
        """`function` takes lists of tensors of fixed shapes, works in place, and reads nothing back."""
        self.function = function
        self.calls = 0

    def __call__(self, *inputs: list[Tensor]) -> None:
        """The first calls run as they are; then the function is recorded, and from there on replayed."""
        self.calls += 1
        if self.calls <= self.WARM_UP:
            self.function(*inputs)
            return
        if self.calls == self.WARM_UP + 1:
            self.inputs = [[tensor.clone() for tensor in tensors] for tensors in inputs]
            self.graph = torch.cuda.CUDAGraph()
            # other threads go on meanwhile, but to begin another recording waits for the whole device
            with _RECORDING, torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
                self.function(*self.inputs)
        for own, given in zip(chain(*self.inputs), chain(*inputs), strict=True):
            own.copy_(given)
        self.graph.replay()
