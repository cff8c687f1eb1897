"""Fine-tuning of the weights that a first run changed most."""

import math

import pytest
import torch
from conftest import assert_equal_runs, quietly, tiny, weights

import unifylens as ul
from unifylens.config import TrainConfig
from unifylens.corpus.corpus import Corpus
from unifylens.training import cost, sparse, store
from unifylens.training.adamw import StackedAdamW, is_frozen
from unifylens.training.sparse import most_changed, overlap
from unifylens.training.trainer import _Stack, train_stack

START = tiny(**{"corpus.parallel": 0.0})
DENSE = tiny(start=ul.Start(experiment=START))


def with_share(share, **changes):
    return DENSE.replace(**{"train.sparse": ul.Sparse(share=share), **changes})


def first(experiment):
    return {name: p[0] for name, p in _Stack([experiment]).parameters.items()}


def n_true(mask):
    return sum(int(m.sum()) for m in mask.values())


def none_of(shapes):
    return {name: torch.zeros(shape, dtype=torch.bool) for name, shape in shapes.items()}


# --- which weights move --------------------------------------------------------------------------------------

SHAPES = {"a": (4, 5), "b": (10,)}
PLANTED = [("a", (1, 2), 0.5), ("a", (3, 0), -0.7), ("b", (9,), -0.4)]


def test_planted_changes_are_the_mask():
    generator = torch.Generator().manual_seed(0)
    before = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    after = {name: p + 0.1 * torch.rand(p.shape, generator=generator) for name, p in before.items()}
    expected = none_of(SHAPES)
    for name, place, change in PLANTED:
        after[name][place] = before[name][place] + change
        expected[name][place] = True
    found = most_changed(before, after, 0.1)
    assert found.keys() == expected.keys() and all(torch.equal(found[name], m) for name, m in expected.items())


def test_of_equal_changes_the_first_are_taken():
    before = {"b": torch.zeros(100), "a": torch.zeros(7, 100)}
    found = most_changed(before, {"a": torch.ones(7, 100), "b": -torch.ones(100)}, 0.25)
    assert found["b"].all() and found["a"][0].all() and n_true(found) == 200


@pytest.mark.parametrize("share", [0.001, 0.0371, 0.5, 1.0])
@pytest.mark.parametrize("frozen", [(), ("embedding", "normalization")])
def test_the_share_of_trained_weights_is_exact(share, frozen):
    experiment = with_share(share, **{"train.frozen": frozen})
    found = sparse.mask(experiment)
    assert {name for name in first(experiment) if not is_frozen(name, experiment.train)} == found.keys()
    assert n_true(found) == round(share * sum(m.numel() for m in found.values()))
    assert ("embed.W_E" in found) == (not frozen)


def test_the_mask_is_where_the_first_run_moved_most():
    (dense,) = quietly(DENSE)
    before, found = weights(store.load(START)), sparse.mask(with_share(0.1))
    moved = {name: (p - before[name]).abs() for name, p in weights(dense).items()}
    inside = torch.cat([moved[name][m] for name, m in found.items()])
    outside = torch.cat([moved[name][~m] for name, m in found.items()])
    assert inside.min() >= outside.max() > 0


# --- what training does --------------------------------------------------------------------------------------


def test_weights_outside_the_mask_keep_their_bits_and_those_inside_move():
    experiment = with_share(0.1)
    assert experiment.train.weight_decay > 0
    (run,) = quietly(experiment)
    assert store.load(DENSE) is not None and store.load(START) is not None, "trained first, and in the store"
    before, found = weights(store.load(START)), sparse.mask(experiment)
    for step in run.steps:
        for name, p in weights(run, step).items():
            assert torch.equal(p[~found[name]], before[name][~found[name]]), (step, name)
    moved = torch.cat([(p != before[name])[found[name]] for name, p in weights(run).items()])
    assert moved.float().mean() > 0.99
    assert run.history["loss"].iloc[-1] < run.history["loss"].iloc[0]


def test_frozen_parts_stay_whole():
    experiment = with_share(0.5, **{"train.frozen": ("mlp",)})
    (run,) = quietly(experiment)
    before = weights(store.load(START))
    still = {name for name, p in weights(run).items() if torch.equal(p, before[name])}
    assert still >= {name for name in before if ".mlp." in name} and "embed.W_E" not in still


def test_all_weights_move_as_in_the_first_run_bit_for_bit():
    dense, everything = quietly(DENSE, with_share(1.0))
    assert_equal_runs(dense, everything)


def test_new_words_may_move_from_where_they_begin():
    old = tiny(**{"language.language_token": True})
    more = {"language.language_token": True, "language.n_languages": 3, "corpus.parallel": 1.0}
    experiment = with_share(0.2, start=ul.Start(experiment=old), **more)
    (run,) = quietly(experiment)
    before, found = first(experiment), sparse.mask(experiment)
    assert all(torch.equal(p[~found[name]], before[name][~found[name]]) for name, p in weights(run).items())
    assert before["embed.W_E"].shape[0] > weights(store.load(old))["embed.W_E"].shape[0]


def test_members_of_different_shares_train_as_they_do_one_by_one():
    experiments = [with_share(share) for share in (0.05, 0.3, 1.0, 0.1, 0.7)]  # more than one part of a stack
    assert len({cost.Member.of(e).key for e in experiments}) == 1
    assert cost.Member.of(DENSE).key != cost.Member.of(experiments[0]).key, "plain stacks stay as they are"
    quietly(DENSE)
    for experiment, result in zip(experiments, train_stack(experiments), strict=True):
        (alone,) = train_stack([experiment])
        for name, p in alone.checkpoints[40].items():
            if not name.endswith("b_K"):  # attention is blind to it: rounding errors move it
                torch.testing.assert_close(result.checkpoints[40][name], p, atol=1e-5, rtol=0)


def test_an_interrupted_training_goes_on_bit_for_bit(press_ctrl_c, monkeypatch, tmp_path):
    experiments = [with_share(0.1), with_share(0.4)]
    whole = quietly(*experiments)
    monkeypatch.setenv("UNIFYLENS_HOME", str(tmp_path / "interrupted"))
    quietly(DENSE)
    press_ctrl_c.at = (16, 17)
    with pytest.raises(KeyboardInterrupt):
        quietly(*experiments)
    press_ctrl_c.at, taken = None, len(press_ctrl_c.steps)
    for run, expected in zip(quietly(*experiments), whole, strict=True):
        assert_equal_runs(run, expected)
    assert press_ctrl_c.steps[taken:] == [(16, step) for step in range(18, 40)]


def test_a_worker_without_the_store_trains_the_first_run_itself(tmp_path, monkeypatch):
    experiment = with_share(0.1)
    (here,) = quietly(experiment)
    monkeypatch.setenv("UNIFYLENS_HOME", str(tmp_path / "elsewhere"))
    (there,) = train_stack([experiment])
    assert all(torch.equal(p, weights(here)[name]) for name, p in there.checkpoints[40].items())


def test_what_is_trained_first_is_trained_once(press_ctrl_c):
    runs = ul.sweep(DENSE, over={"train.sparse": [None, ul.Sparse(share=0.1), ul.Sparse(share=0.5)]}, progress=False)
    assert len(press_ctrl_c.steps) == 3 * 40, "the start, the first run, and a stack of two"
    assert [run.experiment for run in runs] == [DENSE, with_share(0.1), with_share(0.5)]


def test_a_stack_without_masks_keeps_nothing_and_one_with_them_what_was_foretold():
    def kept(experiments):
        return [tensor for part in _Stack(experiments).optimizer._kept.values() for _, *own in part for tensor in own]

    assert kept([DENSE, DENSE.replace(seed=0, **{"train.lr": 1e-3})]) == []
    experiments, corpus = [with_share(0.1), with_share(0.3)], Corpus.build(DENSE)
    told = [cost.parts_per_model(e, corpus) for e in (DENSE, *experiments)]
    assert {name for name, n_bytes in told[1].items() if n_bytes != told[0][name]} == {"weights"}
    foretold = sum(parts["weights"] - told[0]["weights"] for parts in told[1:])
    assert sum(tensor.nbytes for tensor in kept(experiments)) == foretold


def test_the_optimiser_moves_in_place_what_may_move():
    parameters = {"blocks.0.mlp.W_in": torch.ones(3, 4, 5), "blocks.0.mlp.b_in": torch.ones(3, 5)}
    masks = {name: torch.rand(p.shape) < 0.5 for name, p in parameters.items()}
    memory = {name: p.data_ptr() for name, p in parameters.items()}
    optimizer = StackedAdamW(parameters, [TrainConfig(lr=1e-2)] * 3, 2, masks)
    for step in range(60, 70):
        optimizer.set_rates(step)
        for part in optimizer.parts:
            optimizer.update(part, {name: torch.randn_like(p[part]) for name, p in parameters.items()})
        assert all(torch.equal(p != 1, masks[name]) for name, p in parameters.items())
    for part in optimizer.parts:
        optimizer.update(part, {name: torch.full_like(p[part], torch.nan) for name, p in parameters.items()})
    assert all(torch.equal(p.isnan(), masks[name]) and (p[~masks[name]] == 1).all() for name, p in parameters.items())
    assert {name: p.data_ptr() for name, p in parameters.items()} == memory


def test_a_soft_prompt_moves_the_vector_in_front_of_prompts_and_nothing_else():
    tuned = DENSE.replace(**{"train.soft_prompt": True})
    before, run, other = weights(quietly(START)[0]), *quietly(tuned, DENSE)
    after = weights(run)
    moved = {name: (p != before[name]).nonzero() for name, p in after.items() if not torch.equal(p, before[name])}
    assert list(moved) == ["embed.W_E"]
    assert moved["embed.W_E"][:, 0].unique().tolist() == [run.corpus.tokenizer.special["<bos>"]]
    assert len(moved["embed.W_E"]) == run.experiment.model.d_model
    assert len({tuned.key(3), DENSE.key(3)}) == 2 and not torch.equal(after["embed.W_E"], weights(other)["embed.W_E"])
    with pytest.raises(ValueError, match=r"frozen=.*one vector moves"):
        tuned.replace(**{"train.frozen": ("mlp",)})


# --- settings ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda: tiny(**{"train.sparse": ul.Sparse(share=0.1)}),
            r"train\.sparse=Sparse\(share=0\.1\) needs a start whose weights most keep; allowed: None, or a start\.",
        ),
        (
            lambda: tiny(**{"train.soft_prompt": True}),
            r"train\.soft_prompt=True needs a start whose weights all stay; allowed: False, or a start\.",
        ),
        (
            lambda: with_share(0.1, **{"train.soft_prompt": True}),
            r"train: soft_prompt=True conflicts with sparse=Sparse\(share=0\.1\): one vector moves; allowed: "
            r"sparse=None\.",
        ),
        (lambda: ul.Sparse(share=0.0), r"share=0\.0; allowed: number above 0 to 1\."),
        (lambda: ul.Sparse(share=1.5), r"share=1\.5; allowed: number above 0 to 1\."),
        (lambda: with_share(-1.0), r"share=-1\.0; allowed: number above 0 to 1\."),
        (
            lambda: quietly(with_share(1e-9)),
            r"train\.sparse\.share=1e-09 leaves none of \d+ weights to move; allowed: from [\d.e-]+ on\.",
        ),
        (
            lambda: sparse.mask(DENSE),
            r"experiment\.train\.sparse is None, and all weights move; allowed: a Sparse, or train\.soft_prompt=True\.",
        ),
        (
            lambda: overlap(none_of(SHAPES), none_of({**SHAPES, "b": (3,)})),
            r"other differs from one in parameters or shapes at \['b'\]; allowed: masks of one shape\.",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(make, said):
    with pytest.raises(ValueError, match=rf"^{said}$"):
        make()
    assert not store.runs().shape[0]


def test_the_share_has_a_part_in_the_key_and_none_where_it_is_left_alone():
    experiments = [DENSE, with_share(0.1), with_share(0.2), tiny(start=ul.Start(experiment=with_share(0.1)))]
    assert len({e.key(3) for e in experiments}) == len(experiments)
    for experiment in experiments:
        again = ul.Experiment.model_validate_json(experiment.model_dump_json())
        assert again == experiment and again.key(3) == experiment.key(3)
    assert sparse.first_run(experiments[1]) == DENSE
    assert DENSE.key(3) == "f25ac990f58b9f35b416", "as before there was such a setting"


# --- overlap -------------------------------------------------------------------------------------------------


def test_the_overlap_of_planted_masks():
    one, other = none_of(SHAPES), none_of(SHAPES)
    one["a"][0], one["b"][:5] = True, True  # 10
    other["a"][:2], other["b"][3:5] = True, True  # 12, of which 7 in both
    assert overlap(one, other) == overlap(other, one) == 7 / 15
    assert overlap(one, one) == 1 and overlap(one, {name: ~m for name, m in one.items()}) == 0
    assert overlap(none_of(SHAPES), one) == 0 and math.isnan(overlap(none_of(SHAPES), none_of(SHAPES)))


@pytest.mark.parametrize(("p", "q"), [(0.1, 0.1), (0.05, 0.4)])
def test_random_masks_overlap_as_is_expected_by_chance(p, q):
    generator = torch.Generator().manual_seed(0)
    one, other = ({"a": torch.rand(400, 500, generator=generator) < share} for share in (p, q))
    assert overlap(one, other) == pytest.approx(p * q / (p + q - p * q), rel=0.05)
