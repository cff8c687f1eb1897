"""Hook functions: each changes what it says, where it is asked to, and nothing that belongs to the model."""

from functools import partial

import pytest
import torch
from conftest import native_shape
from hypothesis import given, settings
from hypothesis import strategies as st
from transformer_lens.hook_points import HookPoint

import unifylens as ul
from unifylens import native
from unifylens.model import initial_parameters, shape_of, with_parameters
from unifylens.patching import hooks, subspaces

ROWS, LENGTH, HEADS, WIDTH = 3, 5, 4, 6
RESIDUAL, Z = "blocks.0.hook_resid_pre", "blocks.0.attn.hook_z"
PARTNER = torch.tensor([2, 1, 0])
MASK = torch.tensor([[1, 0, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 0]]).bool()
SUBSPACE = subspaces.random(WIDTH, 2)
seeds = st.integers(0, 1000)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def at(name):
    point = HookPoint()
    point.name = name
    return point


STREAM, BY_HEAD = normal(ROWS, LENGTH, WIDTH), normal(ROWS, LENGTH, HEADS, WIDTH)
CENTRE = normal(WIDTH, seed=3)
# everything but where; on `STREAM` or, with heads, on `BY_HEAD`
FUNCTIONS = {
    "patch": lambda x: partial(hooks.patch, source=normal(*x.shape, seed=1)),
    "patch a subspace": lambda x: partial(hooks.patch, source=normal(*x.shape, seed=1), subspace=SUBSPACE),
    "swap": lambda x: partial(hooks.swap, partner=PARTNER),
    "swap a subspace": lambda x: partial(hooks.swap, partner=PARTNER, subspace=SUBSPACE),
    "project out": lambda x: partial(hooks.project_out, subspace=SUBSPACE),
    "project out around": lambda x: partial(hooks.project_out, subspace=SUBSPACE, around=CENTRE),
    "keep": lambda x: partial(hooks.keep, subspace=SUBSPACE),
    "keep around": lambda x: partial(hooks.keep, subspace=SUBSPACE, around=CENTRE),
    "steer": lambda x: partial(hooks.steer, vector=CENTRE, scale=2.0),
    "steer by row": lambda x: partial(hooks.steer, vector=normal(ROWS, WIDTH, seed=2)),
}
PLACES = {
    "all": (None, slice(None)),
    "one": (1, 1),
    "last": (-1, -1),
    "several": ([0, -2], [0, 3]),
    "a range": (range(2, 5), [2, 3, 4]),
    "mask": (MASK, None),
    "empty mask": (torch.zeros_like(MASK), None),
}


def asked(place):
    """Mask `[row, pos]` of a place, written out."""
    positions, columns = PLACES[place]
    if isinstance(positions, torch.Tensor):
        return positions
    mask = torch.zeros(ROWS, LENGTH, dtype=torch.bool)
    mask[:, columns] = True
    return mask


def test_what_numpy_and_pandas_hold_is_taken():
    mask, centre, ours = MASK.numpy().copy(), CENTRE.numpy().copy(), at(RESIDUAL)
    mask.setflags(write=False)
    for function, one, other in (
        (hooks.steer, {"vector": centre, "positions": mask}, {"vector": CENTRE, "positions": MASK}),
        (hooks.keep, {"subspace": SUBSPACE, "around": centre}, {"subspace": SUBSPACE, "around": CENTRE}),
        (hooks.project_out, {"subspace": SUBSPACE, "around": centre}, {"subspace": SUBSPACE, "around": CENTRE}),
        (hooks.patch, {"source": STREAM.flip(1).numpy()}, {"source": STREAM.flip(1)}),
        (hooks.swap, {"partner": PARTNER.tolist()}, {"partner": PARTNER}),
    ):
        assert torch.equal(function(STREAM, ours, **one), function(STREAM, ours, **other)), function.__name__
    with pytest.raises(ValueError, match="allowed is one row number"):
        hooks.swap(STREAM, ours, partner=[True, False, True])


# --- where ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("heads", ["no heads", None, 2, -1, [0, -2]])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_only_the_places_asked_for_change_and_only_in_a_copy(name, place, heads):
    before = STREAM if heads == "no heads" else BY_HEAD
    function, hook = FUNCTIONS[name](before), at(Z)
    untouched = before.clone()
    everywhere, mask = function(before, hook), asked(place)[..., None]
    where = {"positions": PLACES[place][0]}
    if heads != "no heads":
        where["heads"] = heads
        chosen = torch.zeros(HEADS, dtype=torch.bool)
        chosen[slice(None) if heads is None else heads] = True
        mask = (mask & chosen)[..., None]
    found = function(before, hook, **where)
    torch.testing.assert_close(found, torch.where(mask, everywhere, before))
    assert torch.equal(before, untouched) and found.data_ptr() != before.data_ptr()


# --- what ----------------------------------------------------------------------------------------------------


def test_patching_puts_the_source_there_from_a_cache_or_a_tensor():
    source = normal(ROWS, LENGTH, WIDTH, seed=1)
    for given_source in (source, {RESIDUAL: source, "other": STREAM}, source.double()):
        assert torch.equal(hooks.patch(STREAM, at(RESIDUAL), source=given_source), source)


def test_patching_a_subspace_moves_its_component_and_no_other():
    source = normal(ROWS, LENGTH, WIDTH, seed=1)
    found = hooks.patch(STREAM, at(RESIDUAL), source=source, subspace=SUBSPACE)
    torch.testing.assert_close(SUBSPACE.project(found), SUBSPACE.project(source))
    torch.testing.assert_close(found - SUBSPACE.project(found), STREAM - SUBSPACE.project(STREAM))


@given(seeds)
def test_patching_the_whole_space_is_patching(seed):
    source, whole = normal(ROWS, LENGTH, WIDTH, seed=seed), subspaces.random(WIDTH, WIDTH, seed=seed)
    found = hooks.patch(STREAM, at(RESIDUAL), source=source, subspace=whole, positions=[0, -1])
    torch.testing.assert_close(found, hooks.patch(STREAM, at(RESIDUAL), source=source, positions=[0, -1]))


@pytest.mark.parametrize("length", [1, 3, 9])
def test_positions_count_in_each_run_on_its_own(length):
    source = normal(ROWS, length, HEADS, WIDTH, seed=1)
    found = hooks.patch(BY_HEAD, at(Z), source=source, positions=-1, heads=1)
    assert torch.equal(found[:, -1, 1], source[:, -1, 1])
    assert torch.equal(found[:, :-1], BY_HEAD[:, :-1])


def test_a_mean_cache_holds_the_mean_of_each_entry():
    tokens = {"embed.hook_in": torch.zeros(2, 3, dtype=torch.long)}
    caches = [{RESIDUAL: normal(2, 3, 4, seed=i), Z: normal(2, 3, 2, 2, seed=i), **tokens} for i in range(3)]
    found = hooks.mean_cache(caches)
    assert set(found) == {RESIDUAL, Z}
    for name, mean in found.items():
        torch.testing.assert_close(mean, (caches[0][name] + caches[1][name] + caches[2][name]) / 3)
    assert set(hooks.mean_cache(caches, [Z])) == {Z}


@given(st.permutations(range(ROWS)), st.booleans())
def test_a_swap_is_a_patch_from_the_partners_run(partner, in_subspace):
    partner, subspace = torch.tensor(partner), SUBSPACE if in_subspace else None
    found = hooks.swap(STREAM, at(RESIDUAL), partner=partner, subspace=subspace)
    cache = {RESIDUAL: STREAM[partner]}
    assert torch.equal(found, hooks.patch(STREAM, at(RESIDUAL), source=cache, subspace=subspace))


@pytest.mark.parametrize("subspace", [None, SUBSPACE])
def test_swapping_pairs_twice_changes_nothing(subspace):
    swap = partial(hooks.swap, hook=at(RESIDUAL), partner=PARTNER, positions=[1, -1], subspace=subspace)
    torch.testing.assert_close(swap(swap(STREAM)), STREAM)
    assert not torch.allclose(swap(STREAM), STREAM)


@pytest.mark.parametrize("around", [None, CENTRE])
def test_what_is_projected_out_and_what_is_kept_add_up(around):
    out, kept = (f(STREAM, at(RESIDUAL), subspace=SUBSPACE, around=around) for f in (hooks.project_out, hooks.keep))
    centre = torch.zeros(WIDTH) if around is None else around
    torch.testing.assert_close(out + kept, STREAM + centre)
    torch.testing.assert_close(SUBSPACE.project(out), SUBSPACE.project(centre).expand_as(out))
    torch.testing.assert_close(kept - SUBSPACE.project(kept), (centre - SUBSPACE.project(centre)).expand_as(kept))


def test_steering_adds_one_vector_to_all_rows_or_one_to_each():
    by_row = normal(ROWS, WIDTH, seed=2)
    for before, spread in ((STREAM, by_row[:, None]), (BY_HEAD, by_row[:, None, None])):
        torch.testing.assert_close(hooks.steer(before, at(Z), vector=CENTRE, scale=-0.5), before - 0.5 * CENTRE)
        torch.testing.assert_close(hooks.steer(before, at(Z), vector=by_row), before + spread)


@pytest.mark.parametrize("heads", [None, 1, [0, -1]])
@pytest.mark.parametrize("place", PLACES)
def test_imposing_a_pattern_replaces_the_attention_of_queries(place, heads):
    ours, theirs = (normal(ROWS, HEADS, LENGTH, LENGTH, seed=seed).softmax(-1) for seed in range(2))
    name = "blocks.0.attn.hook_pattern"
    found = hooks.impose_pattern(ours, at(name), source={name: theirs}, queries=PLACES[place][0], heads=heads)
    chosen = torch.zeros(HEADS, dtype=torch.bool)
    chosen[slice(None) if heads is None else heads] = True
    mask = asked(place)[:, None, :] & chosen[:, None]
    assert torch.equal(found, torch.where(mask[..., None], theirs, ours))


# --- in models -----------------------------------------------------------------------------------------------

TOKENS = torch.randint(2, 30, (2, 4, 6), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def models():
    """The dish's model and a native bridge of the same weights, far from linear."""
    shape = shape_of(ul.ModelConfig(d_model=16, n_layers=2, n_heads=2, d_mlp=32), d_vocab=30, n_ctx=8)
    parameters = {name: 3 * p for name, p in initial_parameters(shape).items()}
    plain, bridge = with_parameters(shape, parameters), native.bridge(native_shape(shape), parameters)
    return plain, bridge


def in_model(name, source):
    """Hooks that do what a function's name says, anywhere in the model."""
    subspace = subspaces.random(16, 3)
    z = "blocks.1.attn.hook_z"
    return {
        "patch": [("blocks.0.hook_resid_post", partial(hooks.patch, source=source, positions=[1, -1]))],
        "patch heads": [(z, partial(hooks.patch, source=source, heads=1))],
        "patch a subspace": [("blocks.0.hook_mlp_out", partial(hooks.patch, source=source, subspace=subspace))],
        "patch a mean": [("blocks.0.hook_mlp_out", partial(hooks.patch, source=hooks.mean_cache([source] * 2)))],
        "swap": [("blocks.1.hook_resid_pre", partial(hooks.swap, partner=torch.tensor([1, 0, 3, 2]), positions=2))],
        "project out": [("blocks.0.hook_resid_post", partial(hooks.project_out, subspace=subspace))],
        "keep": [("blocks.0.hook_attn_out", partial(hooks.keep, subspace=subspace, positions=-1))],
        "steer": [("blocks.1.hook_resid_pre", partial(hooks.steer, vector=normal(16), scale=0.5))],
        "steer heads": [(z, partial(hooks.steer, vector=normal(8), heads=0))],
        "several at once": [
            (z, partial(hooks.patch, source=source, heads=1, positions=-1)),
            ("blocks.0.hook_resid_post", partial(hooks.project_out, subspace=subspace)),
            ("blocks.0.hook_resid_post", partial(hooks.steer, vector=normal(16))),
        ],
    }[name]


IN_MODEL = (
    "patch, patch heads, patch a subspace, patch a mean, swap, project out, keep, steer, steer heads, several at once"
)


@torch.no_grad()
@pytest.mark.parametrize("name", IN_MODEL.split(", "))
def test_a_bridge_and_a_hooked_transformer_of_the_same_weights_agree(models, name):
    found = []
    for model in models:
        _, source = model.run_with_cache(TOKENS[1])
        found.append(model.run_with_hooks(TOKENS[0], fwd_hooks=in_model(name, source)))
    torch.testing.assert_close(*found, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(found[0], models[0](TOKENS[0]), atol=1e-3)


@torch.no_grad()
def test_hooks_at_one_place_follow_one_another(models):
    vector, subspace = normal(16), subspaces.random(16, 3)
    steer = partial(hooks.steer, vector=vector)
    out = partial(hooks.project_out, subspace=subspace)
    name = "blocks.0.hook_resid_post"
    for model in models:
        both = model.run_with_hooks(TOKENS[0], fwd_hooks=[(name, steer), (name, out)])
        composed = model.run_with_hooks(TOKENS[0], fwd_hooks=[(name, lambda x, hook: out(steer(x, hook), hook))])
        torch.testing.assert_close(both, composed)


@settings(max_examples=15)
@given(seeds)
@torch.no_grad()
def test_patching_everything_at_layer_0_turns_the_target_into_the_source(models, seed):
    target, source = torch.randint(0, 30, (2, 3, 5), generator=torch.Generator().manual_seed(seed))
    for model in models:
        logits, cache = model.run_with_cache(source, names_filter=[RESIDUAL])
        found = model.run_with_hooks(target, fwd_hooks=[(RESIDUAL, partial(hooks.patch, source=cache))])
        torch.testing.assert_close(found, logits)


# --- refusals ------------------------------------------------------------------------------------------------

CACHE = {RESIDUAL: STREAM, Z: BY_HEAD}
PATTERN = normal(ROWS, HEADS, LENGTH, LENGTH)
BAD = {
    "position beyond the end": (
        lambda: hooks.patch(STREAM, at(RESIDUAL), source=STREAM, positions=[0, 5]),
        ["positions=5", RESIDUAL, "has 5", "allowed: -5 to 4"],
    ),
    "position before the start": (
        lambda: hooks.project_out(STREAM, at(RESIDUAL), subspace=SUBSPACE, positions=-6),
        ["positions=-6", "allowed: -5 to 4"],
    ),
    "position that the source lacks": (
        lambda: hooks.patch(STREAM, at(RESIDUAL), source=STREAM[:, :2], positions=3),
        ["positions=3", "has 2", "allowed: -2 to 1"],
    ),
    "head": (
        lambda: hooks.keep(BY_HEAD, at(Z), subspace=SUBSPACE, heads=4),
        ["heads=4", Z, "has 4", "allowed: -4 to 3"],
    ),
    "heads where there are none": (
        lambda: hooks.patch(STREAM, at(RESIDUAL), source=STREAM, heads=0),
        ["heads=0", RESIDUAL, "[3, 5, 6]", "attn.hook_z"],
    ),
    "mask of another shape": (
        lambda: hooks.steer(STREAM, at(RESIDUAL), vector=CENTRE, positions=MASK.T),
        ["positions", "[5, 3]", "(torch.bool) of shape [3, 5]"],
    ),
    "mask of numbers": (
        lambda: hooks.steer(STREAM, at(RESIDUAL), vector=CENTRE, positions=MASK.long()),
        ["positions", "torch.int64", "[3, 5]", "(torch.bool)"],
    ),
    "entry that was not cached": (
        lambda: hooks.patch(STREAM, at("blocks.0.hook_resid_mid"), source=CACHE),
        ["'blocks.0.hook_resid_mid'", "names_filter", f"Did you mean {RESIDUAL!r}?"],
    ),
    "empty entry": (
        lambda: hooks.patch(STREAM, at(RESIDUAL), source={RESIDUAL: torch.empty(0)}),
        [repr(RESIDUAL), "names_filter"],
    ),
    "rows": (
        lambda: hooks.patch(STREAM, at(RESIDUAL), source=STREAM[:2]),
        [RESIDUAL, "[2, 5, 6]", "[3, 5, 6]", "rows and widths must be equal"],
    ),
    "width": (
        lambda: hooks.patch(STREAM, at(RESIDUAL), source=STREAM[..., :4], positions=-1),
        ["[3, 5, 4]", "rows and widths must be equal"],
    ),
    "length": (
        lambda: hooks.patch(STREAM, at(RESIDUAL), source=STREAM[:, 1:]),
        ["4 positions", "these 5", "positions=-1"],
    ),
    "length under a mask": (
        lambda: hooks.patch(STREAM, at(RESIDUAL), source=STREAM[:, 1:], positions=MASK),
        ["4 positions", "these 5", "positions=-1"],
    ),
    "subspace of another width": (
        lambda: hooks.project_out(STREAM[..., :4], at(RESIDUAL), subspace=SUBSPACE),
        ["width 4", "lies in 6"],
    ),
    "partner for too few rows": (
        lambda: hooks.swap(STREAM, at(RESIDUAL), partner=torch.tensor([1, 0])),
        ["partner=[1, 0]", "0 to 2", "each of the 3 rows"],
    ),
    "partner that is not there": (
        lambda: hooks.swap(STREAM, at(RESIDUAL), partner=torch.tensor([1, 0, 3])),
        ["partner=[1, 0, 3]", "0 to 2"],
    ),
    "partner counted from the end": (
        lambda: hooks.swap(STREAM, at(RESIDUAL), partner=torch.tensor([1, 0, -1])),
        ["partner=[1, 0, -1]", "0 to 2"],
    ),
    "vector": (
        lambda: hooks.steer(STREAM, at(RESIDUAL), vector=CENTRE[:5]),
        ["vector", "[5]", RESIDUAL, "[6] or [3, 6]"],
    ),
    "vectors for other rows": (
        lambda: hooks.steer(STREAM, at(RESIDUAL), vector=normal(2, WIDTH)),
        ["vector", "[2, 6]", "[6] or [3, 6]"],
    ),
    **{
        f"{f.__name__} around {shape}": (
            lambda f=f, shape=shape: f(STREAM, at(RESIDUAL), subspace=SUBSPACE, around=torch.ones(shape)),
            [f"around has shape {list(shape)}", RESIDUAL, "[6]"],
        )
        for f in (hooks.project_out, hooks.keep)
        for shape in ((), (1,), (5,), (ROWS, WIDTH), (LENGTH, WIDTH), (ROWS, LENGTH, WIDTH))
    },
    "pattern elsewhere": (
        lambda: hooks.impose_pattern(BY_HEAD, at(Z), source=BY_HEAD),
        ["attn.hook_pattern", Z],
    ),
    "pattern of another length": (
        lambda: hooks.impose_pattern(PATTERN, at("blocks.0.attn.hook_pattern"), source=PATTERN[..., :4, :4], queries=0),
        ["[3, 4, 4, 4]", "[3, 4, 5, 5]", "must be equal"],
    ),
    "mean of nothing": (lambda: hooks.mean_cache([]), ["caches is empty", "one cache or more"]),
    "mean of unequal shapes": (
        lambda: hooks.mean_cache([CACHE, {RESIDUAL: STREAM[:, 1:], Z: BY_HEAD}]),
        [RESIDUAL, "[[3, 5, 6], [3, 4, 6]]", "one shape"],
    ),
    "mean of a missing entry": (
        lambda: hooks.mean_cache([CACHE], ["blocks.0.attn.hook_zz"]),
        ["'blocks.0.attn.hook_zz'", f"Did you mean {Z!r}?"],
    ),
}


@pytest.mark.parametrize(("call", "told"), BAD.values(), ids=BAD)
def test_refusals_name_what_does_not_fit(call, told):
    with pytest.raises((ValueError, KeyError)) as error:
        call()
    assert isinstance(error.value, KeyError) == (
        "names_filter" in str(error.value) or "Did you mean" in str(error.value)
    )
    assert not [part for part in told if part not in error.value.args[0]], error.value


def test_an_empty_cache_is_named_as_such():
    with pytest.raises(KeyError, match=r"was not in that run\.\W$"):
        hooks.patch(STREAM, at(RESIDUAL), source={})
