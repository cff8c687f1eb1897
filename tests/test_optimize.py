"""AdamW of a stack: every member as PyTorch's own optimiser would move it, with its own settings."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unifylens.config import TrainConfig
from unifylens.training.adamw import StackedAdamW

SHAPES = {"embed.W_E": (5, 3), "blocks.0.ln1.w": (3,), "blocks.0.mlp.b_in": (4,), "blocks.0.mlp.W_in": (3, 4)}
STEPS = 12


def gradients(step, n_models):
    generator = torch.Generator().manual_seed(step)
    return {name: torch.randn(n_models, *shape, generator=generator) for name, shape in SHAPES.items()}


def stacked(configs, part_size, parameters):
    optimizer = StackedAdamW(parameters, configs, part_size)

    def move(step):
        optimizer.set_rates(step)
        moves = gradients(step, len(configs))
        for part in optimizer.parts:
            optimizer.update(part, {name: g[part] for name, g in moves.items()})

    return optimizer, move


def start(n_models):
    generator = torch.Generator().manual_seed(99)
    return {name: torch.randn(n_models, *shape, generator=generator) for name, shape in SHAPES.items()}


def by_pytorch(config, member, n_models):
    """One member moved by `torch.optim.AdamW`, the plain implementation."""
    leaves = {name: p[member].clone().requires_grad_() for name, p in start(n_models).items()}
    groups = [
        {"params": [p for n, p in leaves.items() if ".W_" in n], "weight_decay": config.weight_decay},
        {"params": [p for n, p in leaves.items() if ".W_" not in n], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, betas=config.betas)
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = config.lr_at(step)
        for name, g in gradients(step, n_models).items():
            leaves[name].grad = g[member]
        optimizer.step()
    return {name: p.detach() for name, p in leaves.items()}


rates = st.sampled_from([1e-3, 1e-2])
decays = st.sampled_from([0.0, 0.5, 2.0])


@settings(max_examples=30)
@given(st.lists(st.tuples(rates, decays), min_size=1, max_size=7), st.integers(1, 8))
def test_every_member_is_moved_as_by_pytorch(values, part_size):
    configs = [TrainConfig(steps=STEPS, warmup=3, lr=lr, weight_decay=decay) for lr, decay in values]
    parameters = start(len(configs))
    memory = {name: p.data_ptr() for name, p in parameters.items()}
    optimizer, move = stacked(configs, part_size, parameters)
    assert [part.stop - part.start for part in optimizer.parts][:-1] == [part_size] * ((len(configs) - 1) // part_size)
    for step in range(STEPS):
        move(step)
    assert {name: p.data_ptr() for name, p in parameters.items()} == memory, "moved in place"
    for member, config in enumerate(configs):
        for name, expected in by_pytorch(config, member, len(configs)).items():
            torch.testing.assert_close(parameters[name][member], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("at", [1, 7])
def test_it_goes_on_from_saved_moments(at):
    configs = [TrainConfig(steps=STEPS, warmup=3, lr=lr) for lr in (1e-3, 1e-2, 1e-2)]
    parameters = start(3)
    optimizer, move = stacked(configs, 2, parameters)
    for step in range(at):
        move(step)
    saved = {name: p.clone() for name, p in parameters.items()}
    moments = {name: m.clone() for name, m in optimizer.moments.items()}
    for step in range(at, STEPS):
        move(step)
    again, move_again = stacked(configs, 2, saved)
    again.load(moments, at)
    for step in range(at, STEPS):
        move_again(step)
    assert all(torch.equal(saved[name], p) for name, p in parameters.items())
