"""What one would use instead of unifylens to train small models; nothing here imports unifylens.

Each route builds its models, all from `torch.manual_seed(seed)`, and returns a `Training`.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import warnings
from collections.abc import Callable, Sequence
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.common import Size, Training

LR = 1e-3
STEPS_PER_PASS = 20  # of `package_train`, which trains by whole passes
WEIGHT_DECAY = 0.1


def sequences(size: Size, seed: int) -> Tensor:
    """Random sequences `[row, position]`: token 0, then any others."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, size.d_vocab, (size.n_rows, size.length), generator=generator)
    tokens[:, 0] = 0
    return tokens


def draws(size: Size, device: str, seeds: Sequence[int]) -> Callable[[], Tensor]:
    """A function that draws a batch for every model, `[model, batch, position]`, each from its own sequences."""
    data = torch.stack([sequences(size, seed) for seed in seeds]).to(device)
    models = torch.arange(len(seeds), device=device)[:, None]
    generator = torch.Generator(device).manual_seed(seeds[0])
    shape = (len(seeds), size.batch)

    def draw() -> Tensor:
        return data[models, torch.randint(size.n_rows, shape, generator=generator, device=device)]

    return draw


def hooked(size: Size, device: str, seed: int):
    """A plain `HookedTransformer`."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    config = HookedTransformerConfig(
        n_layers=size.n_layers,
        d_model=size.d_model,
        n_ctx=size.length,
        d_head=size.d_model // size.n_heads,
        n_heads=size.n_heads,
        d_mlp=size.d_mlp,
        act_fn="gelu",
        d_vocab=size.d_vocab,
        normalization_type="LN",
        device=device,
    )
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="HookedTransformer is deprecated", category=DeprecationWarning)
        return HookedTransformer(config)


def answer_loss(logits: Tensor, tokens: Tensor, n_answer: int) -> Tensor:
    """Cross-entropy on the answer; the logits are those of all tokens but the last, which predicts nothing."""
    return F.cross_entropy(logits[:, -n_answer:].flatten(0, 1), tokens[:, -n_answer:].flatten())


def plain_loop(size: Size, device: str = "cpu", seed: int = 0) -> Training:
    """The loop that anybody writes first."""
    model = hooked(size, device, seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=WEIGHT_DECAY)
    draw = draws(size, device, [seed])

    def step() -> Tensor:
        tokens = draw()[0]
        loss = answer_loss(model(tokens[:, :-1]), tokens, size.n_answer)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return Training(step, n_models=1)


class Rows(torch.utils.data.Dataset):
    """Sequences in the form that `transformer_lens.train` reads."""

    def __init__(self, tokens: Tensor) -> None:
        self.tokens = tokens

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        return {"tokens": self.tokens[row]}


def package_train(size: Size, device: str = "cpu", seed: int = 0, model: nn.Module | None = None) -> Training:
    """The package's own `transformer_lens.train.train`: one call is a pass over some sequences; loss on every token."""
    module = importlib.import_module("transformer_lens.train")
    model = hooked(size, device, seed) if model is None else model
    data = Rows(sequences(size, seed)[: STEPS_PER_PASS * size.batch])
    config = module.HookedTransformerTrainConfig(
        num_epochs=1,
        batch_size=size.batch,
        lr=LR,
        seed=seed,
        weight_decay=WEIGHT_DECAY,
        optimizer_name="AdamW",
        device=device,
        print_every=None,
    )

    def step() -> None:
        # it has no switch for its progress bars, nor for saying where the model is
        with patch.object(module, "tqdm", lambda iterable: iterable), contextlib.redirect_stdout(io.StringIO()):
            module.train(model, config, data)

    return Training(step, n_models=1, n_steps=-(-len(data) // size.batch))


def vmap_loop(size: Size, n_models: int, device: str = "cpu") -> Training:
    """PyTorch's way to train an ensemble: `vmap` of the gradient of a functional call, one optimiser for all."""
    models = [hooked(size, device, seed) for seed in range(n_models)]
    parameters, buffers = torch.func.stack_module_state(models)
    parameters = {name: p.detach() for name, p in parameters.items()}  # their gradients come from `torch.func`
    optimizer = torch.optim.AdamW(parameters.values(), lr=LR, weight_decay=WEIGHT_DECAY, fused=True)
    draw = draws(size, device, range(n_models))
    model = models[0]
    del models

    def loss_of_one(parameters: dict[str, Tensor], buffers: dict[str, Tensor], tokens: Tensor) -> Tensor:
        logits = torch.func.functional_call(model, (parameters, buffers), (tokens[:, :-1],))
        return answer_loss(logits, tokens, size.n_answer)

    gradients_of_all = torch.func.vmap(torch.func.grad_and_value(loss_of_one))

    def step() -> Tensor:
        gradients, losses = gradients_of_all(parameters, buffers, draw())
        for name, p in parameters.items():
            # the fused optimiser reads gradients in memory order, wrong where `vmap` gives them other strides
            p.grad = gradients[name].contiguous()
        optimizer.step()
        return losses.mean()

    return Training(step, n_models)


class Attention(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        self.n_heads = size.n_heads
        self.qkv = nn.Linear(size.d_model, 3 * size.d_model)
        self.out = nn.Linear(size.d_model, size.d_model)

    def forward(self, x: Tensor) -> Tensor:
        heads = self.qkv(x).unflatten(-1, (3, self.n_heads, -1)).permute(2, 0, 3, 1, 4)  # [qkv, batch, head, pos, _]
        z = F.scaled_dot_product_attention(*heads.unbind(), is_causal=True)
        return self.out(z.transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        self.before_attention = nn.LayerNorm(size.d_model)
        self.attention = Attention(size)
        self.before_mlp = nn.LayerNorm(size.d_model)
        self.up = nn.Linear(size.d_model, size.d_mlp)
        self.down = nn.Linear(size.d_mlp, size.d_model)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.before_attention(x))
        return x + self.down(F.gelu(self.up(self.before_mlp(x))))


class CompactGPT(nn.Module):
    """A GPT in the style of nanoGPT with the parameters of the `HookedTransformer`, so the unembedding has a bias."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.embedding = nn.Embedding(size.d_vocab, size.d_model)
        self.position = nn.Embedding(size.length, size.d_model)
        self.blocks = nn.Sequential(*(Block(size) for _ in range(size.n_layers)))
        self.norm = nn.LayerNorm(size.d_model)
        self.unembedding = nn.Linear(size.d_model, size.d_vocab)
        for name, p in self.named_parameters():
            if p.ndim == 2:
                nn.init.normal_(p, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens) + self.position.weight[: tokens.shape[1]]
        return self.unembedding(self.norm(self.blocks(x)))


def compact_gpt(size: Size, device: str = "cpu", seed: int = 0) -> Training:
    """A compact GPT written by hand, with PyTorch's fused attention and optimiser."""
    torch.manual_seed(seed)
    model = CompactGPT(size).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=WEIGHT_DECAY, fused=True)
    draw = draws(size, device, [seed])
    ignored = size.length - 1 - size.n_answer

    def step() -> Tensor:
        tokens = draw()[0]
        due = tokens[:, 1:].clone()
        due[:, :ignored] = -1
        loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), due.flatten(), ignore_index=-1)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return Training(step, n_models=1)
