"""A `HookedTransformer` with a module per language in each MLP, after X-MOD (arXiv 2205.06266)."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.hook_points import HookPoint


class Gate(HookPoint):
    """`hook_post` of an MLP, where modules of other languages than the prompt's are zeroed before any hook looks."""

    by_row: Bool[Tensor, "row neuron"]
    """Which of the last neurons, those of modules, are of each prompt's language."""

    def forward(self, x: Float[Tensor, "row pos d_mlp"]) -> Float[Tensor, "row pos d_mlp"]:
        """Neurons with their gate."""
        n_modular = self.by_row.shape[1]
        shared, modular = x.split([x.shape[2] - n_modular, n_modular], 2)
        return super().forward(torch.cat([shared, modular * self.by_row[:, None]], 2))


class ModularTransformer(HookedTransformer):
    """Reads the language off the whole prompt, and gates every block's MLP with it.

    Which language a token belongs to is a buffer that no state dict holds; it comes from the configuration.
    """

    def __init__(self, cfg: Any, **options: Any) -> None:
        super().__init__(cfg, **options)
        self.register_buffer("token_language", cfg.language_modules.token_language, persistent=False)
        for block in self.blocks:
            block.mlp.hook_post = Gate()
        self.setup()  # names of hooks

    def forward(self, input: Any, *args: Any, **options: Any) -> Any:
        """As in TransformerLens. Raises ValueError where it does not see the tokens of the whole prompt."""
        if not isinstance(input, Tensor) or input.is_floating_point():
            raise ValueError("a model with language_neurons reads the language off its input; allowed: token IDs.")
        for name in ("start_at_layer", "past_kv_cache"):
            if options.get(name) is not None:
                raise ValueError(f"{name} leaves a model with language_neurons without its prompt; allowed: None.")
        tokens = input if input.ndim == 2 else input[None]
        (gate,) = self.cfg.language_modules.gate(tokens[None].to(self.token_language.device), self.token_language[None])
        for block in self.blocks:
            block.mlp.hook_post.by_row = gate
        return super().forward(input, *args, **options)
