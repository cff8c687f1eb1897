"""Blocks before the first edit are not run again, and nothing changes by that."""

from functools import partial

import pandas as pd
import pytest
import torch

import unifylens as ul
from unifylens import patching
from unifylens.model import HOOKED
from unifylens.patching import edits

pytestmark = pytest.mark.skipif(not HOOKED, reason="a bridge runs all its blocks, wherever it starts")

N_LAYERS = 3
TARGET, SOURCE = torch.randint(1, 20, (2, 12, 4), generator=torch.Generator().manual_seed(0))
DIFFERENCE = {"difference": patching.logit_difference(TARGET[:, 0], SOURCE[:, 1])}
KINDS = {
    "usual": {},
    "rotary": {"positional_embedding_type": "rotary", "normalization": "RMS", "gated_mlp": True},
    "parallel": {"parallel_attn_mlp": True},
}
quiet = {"progress": False, "batch_size": 5}


def build(**changes):
    config = ul.ModelConfig(d_model=16, n_layers=N_LAYERS, n_heads=2, d_mlp=32, **changes)
    return ul.build_model(config, d_vocab=20, n_ctx=4, seed=1)


def runs_of_blocks(model, experiment):
    """How often each block is run."""
    counts = [0] * N_LAYERS

    def count(block, *_):
        counts[block] += 1

    handles = [b.register_forward_pre_hook(partial(count, i)) for i, b in enumerate(model.blocks)]
    table = experiment(model)
    for handle in handles:
        handle.remove()
    return counts, table


GROUPS = {"a": {2: [0], 1: [3]}, "b": {0: [1]}, "c": {2: [5]}, "d": {2: [6]}}
EXPERIMENTS = {
    "layers": lambda m: patching.by_layer_and_position(m, TARGET, SOURCE, DIFFERENCE, **quiet),
    "heads": lambda m: patching.by_head(m, TARGET, SOURCE, DIFFERENCE, **quiet),
    "neurons": lambda m: patching.by_neurons(
        m,
        TARGET,
        SOURCE,
        DIFFERENCE,
        groups={"a": {2: [0], 1: [3]}, "b": {0: [1]}, "c": {2: [5]}, "d": {2: [6]}},
        **quiet,
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("experiment", EXPERIMENTS.values(), ids=EXPERIMENTS)
def test_results_are_the_same_to_the_bit(kind, experiment, monkeypatch):
    model = build(**KINDS[kind])
    fewer, table = runs_of_blocks(model, experiment)
    monkeypatch.setattr(edits, "can_resume", lambda model: False)
    all_runs, expected = runs_of_blocks(model, experiment)
    pd.testing.assert_frame_equal(table, expected, check_exact=True)
    assert table["difference"].nunique() > 2
    assert sum(fewer) < sum(all_runs)


def test_blocks_run_from_the_first_edit_on():
    n_batches, n_positions = 3, 4
    counts, _ = runs_of_blocks(build(), EXPERIMENTS["layers"])
    # the source's run and that of the target; then each layer's, the last of which is after the last block
    per_place = [1, 2, 4]
    assert counts == [n_batches * (2 + n_positions * n) for n in per_place]


def test_a_hook_that_writes_into_what_it_is_given_changes_nothing_else():
    def zero(activation, hook):
        activation[:] = 0
        return activation

    model = build()
    whole = patching.Edit({"edit": "nothing"}, lambda batch: [("blocks.2.hook_resid_pre", lambda x, hook: x)])
    edit = patching.Edit({"edit": "zero"}, lambda batch: [("blocks.2.hook_resid_pre", zero)])
    table = patching.experiment(model, TARGET, [whole, edit, edit, whole], DIFFERENCE, **quiet)
    values = table["difference"].tolist()
    assert values[0] == values[3] != values[1] == values[2]
    assert values[0] == pytest.approx(DIFFERENCE["difference"](model(TARGET)[:, -1].detach()), abs=1e-6)


@pytest.mark.parametrize("name", ["hook_embed", "unembed.hook_in", "ln_final.hook_normalized"])
def test_hooks_outside_blocks_see_the_whole_run(name):
    model = build()
    counts, _ = runs_of_blocks(
        model,
        lambda m: patching.experiment(
            m, TARGET, [patching.Edit({}, lambda batch: [(name, lambda x, hook: x)])] * 3, DIFFERENCE, **quiet
        ),
    )
    assert counts == [3 * (1 + 3)] * N_LAYERS


def test_few_edits_are_run_as_they_are():
    edits = [patching.patch_at("blocks.2.hook_resid_pre", {}, positions=-1)] * 2
    counts, _ = runs_of_blocks(
        build(), lambda m: patching.experiment(m, TARGET, edits, DIFFERENCE, source=SOURCE, **quiet)
    )
    assert counts == [3 * (1 + 2)] * N_LAYERS


def test_a_model_that_masks_padding_by_its_tokenizer_is_run_whole():
    model = build()
    assert edits.can_resume(model)
    model.tokenizer = object()
    assert not edits.can_resume(model)


def test_hooks_of_ones_own_act_once():
    model = build()
    double = lambda activation, hook: 2 * activation  # noqa: E731
    own = [(f"blocks.{name}", double) for name in ("0.hook_resid_post", "1.hook_resid_post", "2.hook_resid_pre")]
    with torch.no_grad():
        expected = DIFFERENCE["difference"](patching.last_logits(model, TARGET, own))
    for hook in own:
        model.add_perma_hook(*hook)
    same = patching.Edit({}, lambda batch: [("blocks.2.hook_resid_pre", lambda x, hook: x)])
    table = patching.experiment(model, TARGET, [same] * 3, DIFFERENCE, **quiet)
    assert table["difference"].tolist() == pytest.approx([expected] * 3, abs=1e-6)
