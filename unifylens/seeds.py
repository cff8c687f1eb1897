"""Random numbers by purpose: moving one dial leaves every other draw as it was."""

from __future__ import annotations

import numpy as np


def rng(seed: int, purpose: str) -> np.random.Generator:
    """Random generator of one purpose, so that moving one dial leaves every other draw as it was."""
    return np.random.default_rng([seed, *purpose.encode()])


def torch_seed(seed: int, purpose: str, index: int = 0) -> int:
    """Seed of one purpose for `torch.Generator.manual_seed`; `index` numbers the draws of that purpose."""
    return int(np.random.SeedSequence([seed, index, *purpose.encode()]).generate_state(1, np.uint64)[0] >> 1)
