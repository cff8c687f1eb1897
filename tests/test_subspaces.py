"""Subspaces: projections, and directions planted in states that must be found again."""

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unifylens.patching import subspaces
from unifylens.patching.subspaces import Subspace

seeds = st.integers(0, 1000)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def alike(a, b):
    """Whether two subspaces are the same, whatever their bases."""
    return torch.allclose(a.basis.T @ a.basis, b.basis.T @ b.basis, atol=1e-5)


# --- projections ---------------------------------------------------------------------------------------------


@given(seeds, st.integers(1, 7), st.integers(0, 3))
def test_a_projection_is_idempotent_and_leaves_the_rest_orthogonal(seed, rank, extra):
    subspace, states = subspaces.random(rank + extra, rank, seed), normal(3, 4, rank + extra, seed=seed + 1)
    inside = subspace.project(states)
    outside = states - inside
    torch.testing.assert_close(subspace.project(inside), inside, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(subspace.project(outside), torch.zeros_like(outside), atol=1e-5, rtol=0)
    torch.testing.assert_close((inside * outside).sum(-1), torch.zeros(3, 4), atol=1e-5, rtol=0)
    assert (inside.norm(dim=-1) <= states.norm(dim=-1) * (1 + 1e-5)).all()
    assert subspace.rank == rank


def test_states_keep_their_precision():
    subspace = subspaces.random(6, 2)
    for dtype in (torch.bfloat16, torch.float64):
        assert subspace.project(normal(3, 6).to(dtype)).dtype == dtype


@given(seeds, st.integers(1, 4), st.integers(1, 6))
def test_a_span_holds_its_vectors_and_no_more(seed, rank, n_vectors):
    vectors = normal(n_vectors, rank, seed=seed) @ normal(rank, 6, seed=seed + 1)
    found = subspaces.span(vectors)
    assert found.rank == min(rank, n_vectors)
    torch.testing.assert_close(found.project(vectors), vectors, atol=1e-4, rtol=1e-4)


def test_a_span_of_fewer_dimensions_is_of_the_strongest():
    a, b, c = torch.eye(5)[:3]
    vectors = torch.stack([2 * a, 9 * b, 9 * b, 5 * c])
    assert alike(subspaces.span(vectors, rank=1), subspaces.span(b[None]))
    assert alike(subspaces.span(vectors, rank=2), subspaces.span(torch.stack([b, c])))
    assert alike(subspaces.span(vectors.bfloat16()), subspaces.neurons([0, 1, 2], 5))


def test_random_subspaces_are_those_of_their_seed():
    first, again, other = (subspaces.random(8, 3, seed) for seed in (0, 0, 1))
    assert first.rank == 3 and torch.equal(first.basis, again.basis) and not alike(first, other)


def test_random_vectors_are_as_long_as_the_given_ones():
    vectors = torch.randn(5, 8) * torch.arange(5)[:, None]
    first, again, other = (subspaces.random_like(vectors, seed) for seed in (0, 0, 1))
    torch.testing.assert_close(first.norm(dim=1), vectors.norm(dim=1))
    assert torch.equal(first, again) and not torch.allclose(first[1:], other[1:])


def test_neurons_are_single_coordinates():
    states = normal(2, 3, 6)
    kept = torch.zeros_like(states)
    kept[..., [4, 1]] = states[..., [4, 1]]
    assert torch.equal(subspaces.neurons([4, 1], 6).project(states), kept)
    assert subspaces.neurons(range(2, 6), 6).rank == 4


# --- languages -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_languages", [2, 3])
@pytest.mark.parametrize("n_groups", [None, 1, 3])
def test_planted_shifts_are_found_exactly(n_languages, n_groups):
    group = torch.arange(12) % (n_groups or 1)
    planted = normal(n_groups or 1, n_languages, 5, seed=1)
    states = normal(12, 5) + planted[group].transpose(0, 1)
    shifts = subspaces.language_shifts(states, None if n_groups is None else group)
    for a in range(n_languages):
        for b in range(n_languages):
            torch.testing.assert_close(shifts[:, b] - shifts[:, a], planted[:, b] - planted[:, a], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(shifts.sum(1), torch.zeros(n_groups or 1, 5), atol=1e-5, rtol=0)


def test_groups_without_facts_have_no_mean():
    states, group = normal(2, 4, 3), torch.tensor([3, 0, 3, 0])
    means = subspaces.group_means(states, group)
    assert means.shape == (2, 4, 3)
    torch.testing.assert_close(means[:, 0], states[:, [1, 3]].mean(1))
    torch.testing.assert_close(means[:, 3], states[:, [0, 2]].mean(1))
    assert means[:, 1:3].isnan().all()
    assert subspaces.language_shifts(states, group)[1:3].isnan().all()


def noisy(directions, n_facts=60, seed=0):
    """States `[language, fact, 8]` shifted by each language's direction; most of their variance is along the last."""
    spread = torch.tensor([0.1] * 7 + [10.0])
    return directions[:, None] + spread * normal(len(directions), n_facts, 8, seed=seed)


def accuracy(subspace, fit_on, test_on):
    """Share of states nearest to their own language's mean, within the subspace."""
    means = subspace.project(fit_on.mean(1))
    nearest = torch.cdist(subspace.project(test_on).flatten(0, 1), means).argmin(1)
    return float((nearest == torch.arange(len(test_on)).repeat_interleave(test_on.shape[1])).float().mean())


def test_differences_between_groups_are_shared_by_languages_and_lie_within_coarser_groups():
    group, within = torch.tensor([0, 0, 3, 3, 4, 4]), torch.tensor([1, 1, 1, 1, 0, 0])
    own, language = torch.randn(6, 8).double(), torch.randn(2, 1, 8).double()
    found = subspaces.group_differences(own + language, group, within)
    means = own.view(3, 2, 8).mean(1)
    torch.testing.assert_close(
        found, torch.stack([means[0] - means[:2].mean(0), means[1] - means[:2].mean(0), means[2] * 0])
    )
    with pytest.raises(ValueError, match="group 0 lies in more than one"):
        subspaces.group_differences(own + language, group, torch.arange(6))


def test_the_discriminant_finds_a_language_direction_under_larger_variance():
    axis = torch.eye(8)
    fit_on, test_on = (noisy(torch.stack([axis[0], -axis[0]]) / 2, seed=seed) for seed in (0, 1))
    found = subspaces.discriminant(fit_on)
    difference = subspaces.span((fit_on[0] - fit_on[1]).mean(0, keepdim=True))
    assert found.rank == 1
    assert abs(float(found.basis[0, 0])) > 0.99
    assert abs(float(difference.basis[0, 0])) < 0.9  # the mean difference holds the variance that happened to be left
    assert accuracy(found, fit_on, test_on) == 1.0 > accuracy(difference, fit_on, test_on)


def test_a_discriminant_of_fewer_dimensions_is_of_the_best_told_languages():
    axis = torch.eye(8)
    # languages 0 and 1 lie far apart along the broad axis, 2 a little off along a narrow one
    within = torch.tensor([0.1] * 7 + [1.0]) * torch.cat([axis, -axis])
    states = torch.stack([6 * axis[7], -6 * axis[7], 0.2 * axis[1]])[:, None] + within
    for rank, expected in ((1, axis[[7]]), (2, axis[[1, 7]]), (None, axis[[1, 7]])):
        assert alike(subspaces.discriminant(states, rank), subspaces.span(expected))


@pytest.mark.parametrize(
    "of", [torch.Tensor.numpy, torch.Tensor.tolist, list], ids=["numpy", "list", "list of tensors"]
)
def test_states_and_labels_may_come_from_elsewhere(of):
    states, group = normal(2, 6, 4), torch.tensor([0, 0, 1, 1, 2, 2])
    vectors = states[0]
    assert alike(Subspace(subspaces.span(of(vectors[:2])).basis.float()), subspaces.span(vectors[:2]))
    plane = subspaces.random(4, 2)
    torch.testing.assert_close(Subspace(of(plane.basis)).basis.float(), plane.basis)
    torch.testing.assert_close(plane.project(of(vectors)).float(), plane.project(vectors))
    torch.testing.assert_close(subspaces.random_like(of(vectors)).float(), subspaces.random_like(vectors))
    calls = {
        "means": lambda f: subspaces.group_means(f(states), f(group)),
        "shifts": lambda f: subspaces.language_shifts(f(states), f(group)),
        "differences": lambda f: subspaces.group_differences(f(states), f(group), f(group * 0)),
    }
    for call in calls.values():
        torch.testing.assert_close(call(of).float(), call(lambda x: x))


# --- refusals ------------------------------------------------------------------------------------------------

STATES = normal(2, 6, 4)
BAD = {
    "not orthonormal": (lambda: Subspace(torch.ones(1, 4)), ["not orthonormal", "subspaces.span"]),
    "not orthogonal": (lambda: Subspace(torch.tensor([[1.0, 0], [0.6, 0.8]])), ["not orthonormal"]),
    "nan in the basis": (lambda: Subspace(torch.full((1, 4), torch.nan)), ["not orthonormal"]),
    "one vector": (lambda: Subspace(torch.eye(4)[0]), ["[4]", "[rank, d_model]"]),
    "no vector": (lambda: Subspace(torch.zeros(0, 4)), ["[0, 4]", "rank 1 or more"]),
    "width": (lambda: subspaces.random(4, 2).project(normal(3, 5)), ["width 5", "lies in 4"]),
    "span of nan": (lambda: subspaces.span(torch.full((1, 4), torch.nan)), ["[1, 4]", "finite"]),
    "span of one vector": (lambda: subspaces.span(torch.ones(4)), ["[4]", "[vector, d_model]"]),
    "span of zeros": (lambda: subspaces.span(torch.zeros(2, 4)), ["all zero"]),
    "span of nothing": (lambda: subspaces.span(torch.zeros(0, 4)), ["span nothing"]),
    "rank of a span": (lambda: subspaces.span(torch.ones(3, 4), rank=2), ["rank=2", "span 1 dimension", "1 to 1"]),
    "rank 0": (lambda: subspaces.span(torch.ones(3, 4), rank=0), ["rank=0", "1 to 1"]),
    "random rank": (lambda: subspaces.random(4, 5), ["rank=5", "1 to d_model=4"]),
    "random rank 0": (lambda: subspaces.random(4, 0), ["rank=0", "1 to d_model=4"]),
    "neuron": (lambda: subspaces.neurons([0, 4], 4), ["chosen=[0, 4]", "0 to 3"]),
    "neuron twice": (lambda: subspaces.neurons([1, 1], 4), ["chosen=[1, 1]", "different"]),
    "no neuron": (lambda: subspaces.neurons([], 4), ["chosen=[]", "at least one"]),
    "one language": (lambda: subspaces.language_shifts(STATES[:1]), ["[1, 6, 4]", "2 languages or more"]),
    "no facts": (lambda: subspaces.discriminant(STATES[:, :0]), ["[2, 0, 4]", "[language, fact, d_model]"]),
    "rank of a discriminant": (lambda: subspaces.discriminant(STATES, rank=2), ["rank=2", "1 to 1"]),
    "rank 0 of a discriminant": (lambda: subspaces.discriminant(STATES, rank=0), ["rank=0", "1 to 1"]),
    "labels": (lambda: subspaces.language_shifts(STATES, torch.zeros(5, dtype=int)), ["[5]", "[6]"]),
    "labels of another kind": (
        lambda: subspaces.group_means(STATES, torch.zeros(6)),
        ["group is torch.float32", "[6]"],
    ),
    "labels that are texts": (lambda: subspaces.group_means(STATES, ["a"] * 6), ["group holds no numbers", "[6]"]),
    "coarser labels": (lambda: subspaces.group_differences(STATES, [0] * 6, [0] * 5), ["within", "[5]", "[6]"]),
    "means of one language": (
        lambda: subspaces.group_means(STATES[0], [0] * 6),
        ["[6, 4]", "[language, fact, d_model]"],
    ),
    "span of texts": (lambda: subspaces.span(["a", "b"]), ["vectors of type list holds no numbers"]),
    "span of unequal lengths": (lambda: subspaces.span([[1.0], [1.0, 2.0]]), ["vectors", "unequal length"]),
    "basis of texts": (lambda: Subspace([["a"]]), ["basis of type list holds no numbers", "[rank, d_model]"]),
    "random like a number": (lambda: subspaces.random_like(2.0), ["single number 2.0", "[*row, d_model]"]),
    "projection of texts": (lambda: subspaces.random(4, 2).project("a"), ["states of type str holds no numbers"]),
    "label below 0": (lambda: subspaces.group_means(STATES, torch.arange(6) - 1), ["group", "from 0"]),
}


@pytest.mark.parametrize(("call", "told"), BAD.values(), ids=BAD)
def test_refusals_name_what_does_not_fit(call, told):
    with pytest.raises(ValueError) as error:
        call()
    assert not [part for part in told if not re.search(re.escape(part), str(error.value))], error.value


# --- what one has and the other has not ----------------------------------------------------------------------


def test_what_is_longer_in_one_is_found_and_what_is_alike_is_not():
    shared, alone = torch.eye(6)[:2], torch.eye(6)[2:4]
    own = normal(200, 2, seed=1) @ (5 * shared) + normal(200, 2, seed=2) @ alone
    other = normal(200, 2, seed=1) @ (5 * shared)
    assert torch.allclose(subspaces.beyond(own, other, 2).basis.abs().sum(0)[2:4], torch.tensor([1.0, 1.0]), atol=0.6)
    assert subspaces.beyond(own, other, 2).project(alone).norm(dim=1).min() > 0.9
    assert subspaces.span(own, 2).project(alone).norm(dim=1).max() < 0.3, "the strongest directions are the shared ones"
    with pytest.raises(ValueError, match="rank=1: own vectors are longer in 0 directions"):
        subspaces.beyond(other, 2 * other, 1)
    with pytest.raises(ValueError, match=r"own, other have \[200, 6\], \[3, 5\]"):
        subspaces.beyond(own, normal(3, 5), 1)
