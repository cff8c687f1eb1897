"""Many models as one: the same numbers and gradients as the plain HookedTransformers it stands for."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from transformer_lens import HookedTransformer, HookedTransformerConfig

from unifylens.stack import forward, mean_cross_entropy, stack_parameters, unstack

D_VOCAB, N_POS, N_BATCH = 11, 5, 4


def network(seed=0, **values) -> HookedTransformer:
    """A HookedTransformer whose every parameter is random, so that none can be left out unnoticed."""
    fields = {"n_layers": 2, "d_model": 8, "n_ctx": 6, "n_heads": 2, "d_mlp": 12, "act_fn": "gelu", **values}
    fields = {"d_head": fields["d_model"] // fields["n_heads"], "d_vocab": D_VOCAB, "device": "cpu", **fields}
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.filterwarnings("ignore", message="HookedTransformer is deprecated", category=DeprecationWarning)
        torch.manual_seed(seed)
        model = HookedTransformer(HookedTransformerConfig(**fields), move_to_device=False)
        for p in model.parameters():
            p.data.copy_(torch.randn_like(p) / 2)
    return model


def networks(n, **values):
    return [network(seed, **values) for seed in range(n)]


def plain(model, tokens):
    """Logits and, by layer, residual stream at every position, by TransformerLens itself."""
    logits, cache = model.run_with_cache(tokens)
    return logits, [cache["resid_post", layer] for layer in range(model.cfg.n_layers)]


shapes = st.fixed_dictionaries(
    {
        "n_layers": st.integers(1, 3),
        "n_heads": st.sampled_from([1, 2, 4]),
        "d_mlp": st.sampled_from([4, 12]),
        "act_fn": st.sampled_from(["gelu", "relu"]),
        "normalization_type": st.sampled_from(["LN", "LNPre", "RMS", "RMSPre", None]),
    }
)
queries = st.sampled_from(["all", "same", "ragged"])


def question(kind, n_models, generator):
    """Tokens `[model, batch, pos]`, and the asked positions as `forward` and as indices take them."""
    tokens = torch.randint(D_VOCAB, (n_models, N_BATCH, N_POS), generator=generator)
    if kind == "all":
        return tokens, None
    if kind == "same":
        where = torch.randint(N_POS, (1,), generator=generator)
        return tokens, where.expand(n_models, N_BATCH).clone()
    return tokens, torch.randint(N_POS, (n_models, N_BATCH), generator=generator)


def asked(x, query):
    """Of `[batch, pos, width]`, the asked positions `[batch, query, width]`."""
    return x if query is None else x[torch.arange(len(x)), query][:, None]


@settings(max_examples=60)
@given(shapes, st.integers(1, 3), queries, st.sampled_from([torch.float32, torch.float64]), st.integers(0, 99))
def test_logits_and_residuals_are_those_of_each_model(shape, n_models, kind, dtype, seed):
    models = networks(n_models, dtype=dtype, **shape)
    tokens, query = question(kind, n_models, torch.Generator().manual_seed(seed))
    output = forward(stack_parameters(models), models[0].cfg, tokens, query)
    assert output.logits.dtype == dtype

    def close(found, expected):
        """Within 1e-5 or 1e-9 of the largest number: single entries cancel where nothing is normalised."""
        tolerance = (1e-5 if dtype == torch.float32 else 1e-9) * max(1.0, float(expected.detach().abs().max()))
        torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)

    for k, model in enumerate(models):
        logits, states = plain(model, tokens[k])
        at = None if query is None else query[k]
        close(output.logits[k], asked(logits, at))
        assert len(output.residual) == model.cfg.n_layers
        for found, state in zip(output.residual, states, strict=True):
            close(found[k], asked(state, at))


@settings(max_examples=40)
@given(shapes, st.integers(1, 3), queries, st.integers(0, 99))
def test_gradients_are_those_of_each_model(shape, n_models, kind, seed):
    models = networks(n_models, dtype=torch.float64, **shape)
    generator = torch.Generator().manual_seed(seed)
    tokens, query = question(kind, n_models, generator)
    n_asked = N_POS if query is None else 1
    due = torch.randint(D_VOCAB, (n_models, N_BATCH * n_asked), generator=generator)
    due[:, 0] = 3  # at least one that counts
    parameters = stack_parameters(models)
    losses = mean_cross_entropy(forward(parameters, models[0].cfg, tokens, query).logits.flatten(1, 2), due)
    losses.sum().backward()
    for k, model in enumerate(models):
        logits = asked(model(tokens[k]), None if query is None else query[k]).flatten(0, 1)
        loss = F.cross_entropy(logits, due[k], ignore_index=0)
        loss.backward()
        torch.testing.assert_close(losses[k], loss, rtol=1e-10, atol=1e-10)
        for name, p in model.named_parameters():
            expected = torch.zeros_like(p) if p.grad is None else p.grad
            torch.testing.assert_close(parameters[name].grad[k], expected, rtol=1e-8, atol=1e-10, msg=name)


@settings(max_examples=30)
@given(st.integers(1, 3), st.integers(1, 6), st.integers(0, 99), st.sampled_from([0, 4]))
def test_cross_entropy_is_torchs(n_models, n_tokens, seed, ignore):
    generator = torch.Generator().manual_seed(seed)
    logits = 30 * torch.randn(n_models, n_tokens, D_VOCAB, generator=generator, dtype=torch.float64)
    due = torch.randint(D_VOCAB, (n_models, n_tokens), generator=generator)
    due[:, 0] = 7
    weights = torch.rand(n_models, generator=generator, dtype=torch.float64)
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    found = mean_cross_entropy(ours, due, ignore)
    expected = torch.stack([F.cross_entropy(x, y, ignore_index=ignore) for x, y in zip(theirs, due, strict=True)])
    torch.testing.assert_close(found, expected)
    (found @ weights).backward()
    (expected @ weights).backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


@given(shapes, st.integers(1, 3))
@settings(max_examples=15)
def test_stacked_and_unstacked_again_is_the_same_model(shape, n_models):
    models = networks(n_models, **shape)
    parameters = stack_parameters(models)
    tokens = torch.arange(N_POS)[None]
    for k, model in enumerate(models):
        fresh = network(99, **shape)
        assert not torch.equal(fresh(tokens), model(tokens))
        loaded = fresh.load_state_dict(unstack(parameters, k), strict=False)
        assert not loaded.unexpected_keys and not {*loaded.missing_keys} & {n for n, _ in model.named_parameters()}
        assert torch.equal(fresh(tokens), model(tokens))
    unstack(parameters, 0)["embed.W_E"].zero_()
    assert parameters["embed.W_E"].abs().sum() > 0, "an unstacked model must not share memory with the stack"


def test_no_model_and_different_shapes_are_refused():
    with pytest.raises(ValueError, match="models is empty; allowed: one"):
        stack_parameters([])
    with pytest.raises(ValueError, match=r"models\[1\] differs in shape from models\[0\] at .*mlp"):
        stack_parameters([network(), network(d_mlp=16)])
    with pytest.raises(ValueError, match=r"models\[2\] differs in shape .*blocks\.1"):
        stack_parameters([network(), network(), network(n_layers=1)])


@pytest.mark.parametrize(
    ("field", "value", "values"),
    [
        ("positional_embedding_type", "rotary", {"rotary_dim": 4}),
        ("positional_embedding_type", "shortformer", {}),
        ("attn_only", True, {}),
        ("parallel_attn_mlp", True, {}),
        ("gated_mlp", True, {}),
        ("attention_dir", "bidirectional", {}),
        ("act_fn", "silu", {}),
        ("act_fn", "gelu_new", {}),
        ("use_attn_scale", False, {}),
        ("scale_attn_by_inverse_layer_idx", True, {}),
        ("use_local_attn", True, {"window_size": 2, "attn_types": ["local", "local"]}),
        ("attn_scores_soft_cap", 2.0, {}),
        ("output_logits_soft_cap", 2.0, {}),
    ],
)
def test_models_that_the_forward_does_not_compute_are_refused_by_name(field, value, values):
    with pytest.raises(ValueError) as error:
        stack_parameters([network(**{field: value}, **values)])
    assert f"{field}={value!r} is not supported" in str(error.value) and "allowed: (" in str(error.value)
