"""Many models as one: the same numbers and gradients as the plain HookedTransformers it stands for."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from transformer_lens import HookedTransformer, HookedTransformerConfig

from unifylens.corpus.tokenization import PAD_ID
from unifylens.model import LanguageModules
from unifylens.modular import ModularTransformer
from unifylens.training.stack import (
    FEW_POSITIONS,
    OneByOne,
    Stacked,
    cross_entropy,
    network_of,
    stack_parameters,
    token_languages,
    unstack,
    unsupported,
)

D_VOCAB, N_POS, N_BATCH = 11, 5, 4


def network(seed=0, **values) -> HookedTransformer:
    """A HookedTransformer whose every parameter is random, so that none can be left out unnoticed."""
    fields = {"n_layers": 2, "d_model": 8, "n_ctx": 6, "n_heads": 2, "d_mlp": 12, "act_fn": "gelu", **values}
    languages = fields.pop("languages", 0)
    fields = {"d_head": fields["d_model"] // fields["n_heads"], "d_vocab": D_VOCAB, "device": "cpu", **fields}
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.filterwarnings("ignore", message="HookedTransformer is deprecated", category=DeprecationWarning)
        torch.manual_seed(seed)
        cfg = HookedTransformerConfig(**fields)
        if languages:
            of_token = torch.randint(-1, languages, (D_VOCAB,))
            cfg.language_modules = LanguageModules(fields["d_mlp"] // 4, languages, of_token)
        model = (ModularTransformer if languages else HookedTransformer)(cfg, move_to_device=False)
        for p in model.parameters():
            # where nothing is normalised, larger weights would blow float32's rounding up in any implementation
            p.data.copy_(torch.randn_like(p) / (2 if fields.get("normalization_type", "LN") else 4))
    return model


def networks(n, **values):
    return [network(seed, **values) for seed in range(n)]


def stacked(models, device="cpu"):
    """Their parameters with a leading K."""
    return stack_parameters([dict(model.named_parameters()) for model in models], device)


def together(models, way=Stacked):
    """What computes them, each by its own table of tokens' languages where it has one."""
    return way(models[0].cfg, token_language=token_languages([model.cfg for model in models]))


def plain(model, tokens):
    """Logits and, by layer, residual stream at every position, by TransformerLens itself."""
    logits, cache = model.run_with_cache(tokens)
    return logits, [cache["resid_post", layer] for layer in range(model.cfg.n_layers)]


positions = st.sampled_from(
    [
        {},
        {"positional_embedding_type": "rotary", "rotary_dim": 2},
        {"positional_embedding_type": "rotary", "rotary_dim": 2, "rotary_adjacent_pairs": True},
    ]
)


def local(n_local, window, n_layers):
    """Some first blocks that see a few tokens back alone; the last one sees all."""
    n_local = min(n_local, n_layers - 1)
    types = ["local"] * n_local + ["global"] * (n_layers - n_local)
    return {"use_local_attn": True, "window_size": window, "attn_types": types} if n_local else {}


shapes = st.builds(
    lambda fields, positions, n_local, window: fields | positions | local(n_local, window, fields["n_layers"]),
    st.fixed_dictionaries(
        {
            "n_layers": st.integers(1, 3),
            "n_heads": st.sampled_from([1, 2, 4]),
            "d_mlp": st.sampled_from([4, 12]),
            "act_fn": st.sampled_from(["gelu", "relu"]),
            "languages": st.sampled_from([0, 0, 2, 3]),
            "normalization_type": st.sampled_from(["LN", "LNPre", "RMS", "RMSPre", None]),
        }
    ),
    positions,
    st.integers(0, 2),
    st.integers(1, 3),
)
other_shapes = st.sampled_from(
    [
        {"act_fn": "silu"},
        {"act_fn": "gelu_new"},
        {"act_fn": "silu", "languages": 2},
        {"attn_only": True},
        {"gated_mlp": True},
        {"parallel_attn_mlp": True},
        {"n_key_value_heads": 1},
        {"attn_scores_soft_cap": 2.0},
        {"output_logits_soft_cap": 2.0},
        {"positional_embedding_type": "shortformer"},
        {"attention_dir": "bidirectional"},
        {"scale_attn_by_inverse_layer_idx": True},
        {"attn_types": ["local", "local"], "use_local_attn": True, "window_size": 2},
        {"attn_types": ["global", "local"], "use_local_attn": True, "window_size": 2},
    ]
)
queries = st.sampled_from(["all", "last", "one", "several", "ragged", "ragged several"])
precisions = st.sampled_from([torch.float32, torch.float64])


class Question:
    """Tokens `[model, batch, pos]`, the asked positions, and tokens due there, some of them padding."""

    def __init__(self, kind, n_models, shared, seed, n_pos=N_POS):
        generator = torch.Generator().manual_seed(seed)
        self.tokens = torch.randint(1, D_VOCAB, (n_models, N_BATCH, n_pos), generator=generator)
        self.shared = int(shared and kind != "all")
        if self.shared:
            self.tokens[:, :, 0] = 1
        start = int(torch.randint(1, n_pos, (), generator=generator))
        self.query = {
            "all": None,
            "last": slice(n_pos - 1, n_pos),
            "one": slice(start, start + 1),
            "several": slice(start, n_pos),
            "ragged": torch.randint(1, n_pos, (n_models, N_BATCH, 1), generator=generator),
            "ragged several": torch.randint(1, n_pos, (n_models, N_BATCH, 3), generator=generator),
        }[kind]
        n_query = self.asked(self.tokens[0][..., None], 0).shape[1]
        self.due = torch.randint(D_VOCAB, (n_models, N_BATCH, n_query), generator=generator)
        self.due[:, 0] = 3  # at least one that counts

    def asked(self, x, member):
        """Of `[batch, pos, width]`, the asked positions `[batch, query, width]`."""
        if self.query is None or isinstance(self.query, slice):
            return x[:, self.query or slice(None)]
        return x.gather(1, self.query[member][..., None].expand(-1, -1, x.shape[2]))


def assert_close(found, expected, dtype=torch.float64):
    """Within 1e-5 or 1e-9 of the largest number: single entries cancel where nothing is normalised."""
    tolerance = (1e-5 if dtype == torch.float32 else 1e-9) * max(1.0, float(expected.detach().abs().max()))
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


def assert_same_outputs(way, models, question):
    """Logits and residual streams are TransformerLens' own."""
    output = way.forward(stacked(models), question.tokens, question.query, question.shared)
    dtype = models[0].cfg.dtype
    assert output.logits.dtype == dtype and len(output.residual) == models[0].cfg.n_layers
    for k, model in enumerate(models):
        logits, states = plain(model, question.tokens[k])
        assert_close(output.logits[k], question.asked(logits, k), dtype)
        for found, state in zip(output.residual, states, strict=True):
            assert_close(found[k], question.asked(state, k), dtype)


def assert_same_gradients(way, models, question):
    """Losses and gradients of every parameter are those that autograd finds for each model."""
    dtype = models[0].cfg.dtype
    losses, gradients = way.loss_and_gradients(
        stacked(models), question.tokens, question.due, question.query, question.shared
    )
    for k, model in enumerate(models):
        logits = question.asked(model(question.tokens[k]), k).flatten(0, 1)
        loss = F.cross_entropy(logits, question.due[k].flatten(), ignore_index=0)
        model.zero_grad()
        loss.backward()
        assert_close(losses[k], loss.detach(), dtype)
        scale = max(float(p.grad.abs().max()) for p in model.parameters() if p.grad is not None)
        for name, p in model.named_parameters():
            expected = torch.zeros_like(p) if p.grad is None else p.grad
            torch.testing.assert_close(
                gradients[name][k] / max(1, scale),
                expected / max(1, scale),
                rtol=0,
                atol=3e-5 if dtype == torch.float32 else 1e-9,
                msg=lambda text, name=name: f"{name}: {text}",
            )


@settings(max_examples=100)
@given(shapes, st.integers(1, 3), queries, st.booleans(), precisions, st.integers(0, 999))
def test_logits_and_residuals_are_those_of_each_model(shape, n_models, kind, shared, dtype, seed):
    models = networks(n_models, dtype=dtype, **shape)
    assert_same_outputs(together(models), models, Question(kind, n_models, shared, seed))


def assert_same_states(way, models, question, layer):
    """What is computed at one position after some blocks, or the logits, and the gradient of a function of it."""
    dtype, tolerance = (d := models[0].cfg.dtype), 3e-5 if d == torch.float32 else 1e-9
    if question.query is None:
        question.query = slice(N_POS - 1, N_POS)
    elif isinstance(question.query, slice):
        question.query = slice(question.query.start, question.query.start + 1)
    else:
        question.query = question.query[:, :, :1]
    states = way.states(stacked(models), question.tokens, layer, question.query, question.shared)
    weights = torch.randn(states.values.shape, generator=torch.Generator().manual_seed(1), dtype=dtype)
    gradients = states.gradients(weights)
    for k, model in enumerate(models):
        seen, points = (
            [],
            ["blocks.0.hook_resid_pre", *(f"blocks.{i}.hook_resid_post" for i in range(len(model.blocks)))],
        )
        logits = model.run_with_hooks(
            question.tokens[k], fwd_hooks=[(point, lambda x, hook, seen=seen: seen.append(x)) for point in points]
        )
        values = question.asked(logits if layer is None else seen[layer], k)[:, 0]
        assert_close(states.values[k], values.detach(), dtype)
        model.zero_grad()
        (values * weights[k]).sum().backward()
        scale = max(1.0, *(float(p.grad.abs().max()) for p in model.parameters() if p.grad is not None))
        for name, p in model.named_parameters():
            expected = torch.zeros_like(p) if p.grad is None else p.grad
            found = gradients[name][k] if name in gradients else torch.zeros_like(p)
            torch.testing.assert_close(
                found / scale, expected / scale, rtol=0, atol=tolerance, msg=lambda t, n=name: n + t
            )


@settings(max_examples=100)
@given(shapes, st.integers(1, 3), queries, st.booleans(), precisions, st.integers(0, 999), st.data())
def test_states_and_their_gradients_are_those_of_each_model(shape, n_models, kind, shared, dtype, seed, data):
    models = networks(n_models, dtype=dtype, **shape)
    layer = data.draw(st.sampled_from([None, *range(models[0].cfg.n_layers + 1)]))
    assert_same_states(together(models), models, Question(kind, n_models, shared, seed), layer)


@settings(max_examples=100)
@given(shapes, st.integers(1, 3), queries, st.booleans(), precisions, st.integers(0, 999))
def test_gradients_are_those_of_each_model(shape, n_models, kind, shared, dtype, seed):
    models = networks(n_models, dtype=dtype, **shape)
    assert_same_gradients(together(models), models, Question(kind, n_models, shared, seed))


@settings(max_examples=20)
@given(shapes, queries, st.booleans(), st.integers(0, 999))
def test_long_sequences_are_computed_as_exactly(shape, kind, shared, seed):
    models = networks(2, dtype=torch.float64, n_ctx=FEW_POSITIONS + 4, **shape)
    question = Question(kind, 2, shared, seed, n_pos=FEW_POSITIONS + 3)
    assert_same_outputs(together(models), models, question)
    assert_same_gradients(together(models), models, question)


def test_one_network_takes_batches_of_several_shapes():
    models = networks(2, dtype=torch.float64)
    way = Stacked(models[0].cfg)
    for kind, shared, seed in (("last", 1, 0), ("last", 0, 1), ("all", 0, 2), ("several", 1, 3), ("last", 1, 4)):
        assert_same_gradients(way, models, Question(kind, 2, shared, seed))


@settings(max_examples=40)
@given(other_shapes, queries, st.integers(0, 999))
def test_other_shapes_are_computed_one_by_one(shape, kind, seed):
    models = networks(2, dtype=torch.float64, **shape)
    question = Question(kind, 2, False, seed)
    with pytest.warns(UserWarning, match="train one by one"):
        way = network_of(models[0].cfg, token_language=token_languages([model.cfg for model in models]))
    assert isinstance(way, OneByOne)
    assert_same_outputs(way, models, question)
    assert_same_gradients(way, models, question)
    assert_same_states(way, models, question, seed % 3 or None)


@settings(max_examples=10)
@given(shapes, queries, st.integers(0, 999))
def test_one_by_one_is_right_for_stacked_shapes_too(shape, kind, seed):
    models = networks(2, dtype=torch.float64, **shape)
    assert isinstance(network_of(models[0].cfg), Stacked)
    assert_same_gradients(together(models, OneByOne), models, Question(kind, 2, False, seed))


@pytest.mark.parametrize("way", [Stacked, OneByOne])
def test_bfloat16_is_near_and_not_the_same(way):
    models = networks(2)
    parameters, question = stacked(models), Question("last", 2, False, 0)
    exact = way(models[0].cfg)
    rounded = way(models[0].cfg, bfloat16=True)
    args = parameters, question.tokens, question.due, question.query
    (losses, gradients), (near, near_gradients) = exact.loss_and_gradients(*args), rounded.loss_and_gradients(*args)
    assert near.dtype == torch.float32 and not torch.equal(losses, near)
    torch.testing.assert_close(losses, near, rtol=0.05, atol=0.05)
    for name, gradient in gradients.items():
        assert near_gradients[name].dtype == torch.float32
        difference = (near_gradients[name] - gradient).norm() / gradient.norm().clamp(min=0.1)
        assert difference < 0.2, (name, difference)
    # what is read off a model is always computed in the precision of its weights
    assert torch.equal(exact.forward(*args[:2]).logits, rounded.forward(*args[:2]).logits)


@settings(max_examples=30)
@given(st.integers(1, 3), st.integers(1, 6), st.integers(0, 99), st.sampled_from([1, 30, 3000]))
def test_cross_entropy_is_torchs(n_models, n_tokens, seed, scale):
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(n_models, n_tokens, D_VOCAB, generator=generator, dtype=torch.float64)
    due = torch.randint(D_VOCAB, (n_models, n_tokens), generator=generator)
    due[:, 0] = 7
    theirs = logits.clone().requires_grad_()
    losses, gradient = cross_entropy(logits, due)
    expected = torch.stack([F.cross_entropy(x, y, ignore_index=PAD_ID) for x, y in zip(theirs, due, strict=True)])
    torch.testing.assert_close(losses, expected.detach())
    expected.sum().backward()
    torch.testing.assert_close(gradient, theirs.grad)


def test_cross_entropy_of_what_is_not_finite_is_not_finite():
    logits = torch.zeros(4, 2, D_VOCAB)
    logits[1, 0, 2], logits[2, 0, 2], logits[3] = torch.nan, torch.inf, -torch.inf
    losses, _ = cross_entropy(logits, torch.full((4, 2), 2))
    assert losses.isfinite().tolist() == [True, False, False, False]


@given(shapes, st.integers(1, 3))
@settings(max_examples=15)
def test_stacked_and_unstacked_again_is_the_same_model(shape, n_models):
    models = networks(n_models, **shape | {"languages": 0})
    parameters = stacked(models)
    tokens = torch.arange(N_POS)[None]
    for k, model in enumerate(models):
        fresh = network(99, **shape | {"languages": 0})
        assert not torch.equal(fresh(tokens), model(tokens))
        loaded = fresh.load_state_dict(unstack(parameters, k), strict=False)
        assert not loaded.unexpected_keys and not {*loaded.missing_keys} & {n for n, _ in model.named_parameters()}
        assert torch.equal(fresh(tokens), model(tokens))
    unstack(parameters, 0)["embed.W_E"].zero_()
    assert parameters["embed.W_E"].abs().sum() > 0, "an unstacked model must not share memory with the stack"


def test_no_model_and_different_shapes_are_refused():
    with pytest.raises(ValueError, match="members is empty; allowed: one"):
        stack_parameters([])
    with pytest.raises(ValueError, match=r"members\[1\] differs in shape from members\[0\] at .*mlp"):
        stacked([network(), network(d_mlp=16)])
    with pytest.raises(ValueError, match=r"members\[2\] differs in shape .*blocks\.1"):
        stacked([network(), network(), network(n_layers=1)])


@settings(max_examples=12)
@given(other_shapes)
def test_what_the_stack_does_not_compute_is_named(shape):
    (field, value), *_ = shape.items()
    cfg = network(**shape).cfg
    reason = unsupported(cfg)
    assert f"{field}={value!r} is not computed by the stack (supported: " in reason
    with pytest.raises(ValueError, match=f"{field}=.* is not computed by the stack"):
        Stacked(cfg)
    assert unsupported(network().cfg) is None


@pytest.mark.parametrize("kind", ["last", "several", "ragged"])
@pytest.mark.parametrize(
    "shape",
    [{}, {"positional_embedding_type": "rotary", "rotary_dim": 4}, local(1, 2, 2), {"languages": 2}],
    ids=str,
)
def test_everything_stays_on_the_device_of_the_parameters(kind, shape):
    """Meta tensors know shapes and devices only, so nothing can be read back or come out elsewhere."""
    models = networks(2, **shape)
    question = Question(kind, 2, True, 0)
    parameters = stacked(models, "meta")
    tokens, due = question.tokens.to("meta"), question.due.to("meta")
    query = question.query.to("meta") if kind == "ragged" else question.query
    way = Stacked(models[0].cfg)
    losses, gradients = way.loss_and_gradients(parameters, tokens, due, query, question.shared)
    output = way.forward(parameters, tokens, query, question.shared)
    assert {x.device.type for x in (losses, output.logits, *output.residual, *gradients.values())} == {"meta"}
    assert {name: g.shape for name, g in gradients.items()} == {name: p.shape for name, p in parameters.items()}
