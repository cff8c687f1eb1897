"""Patching experiments against loops written out, on five kinds of model, none of them downloaded."""

import re
from functools import cache, partial

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformer_lens import patching as transformer_lens_patching
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources import build_bridge_from_module
from transformers import Gemma2Config, Gemma2ForCausalLM, GPT2Config, GPT2LMHeadModel

import unifylens as ul
from unifylens import patching
from unifylens.model import HOOKED
from unifylens.patching import edits, hooks, routes, subspaces
from unifylens.patching.edits import Edit, patch_at

ROWS, LENGTH, VOCABULARY, CONTEXT = 3, 5, 23, 8
SHAPE = {"d_model": 16, "n_layers": 2, "n_heads": 2, "d_mlp": 32}


def hooked(**values):
    return ul.build_model(ul.ModelConfig(**{**SHAPE, **values}), VOCABULARY, CONTEXT)


def native():
    rest = {"d_head": 8, "d_vocab": VOCABULARY, "n_ctx": CONTEXT, "act_fn": "gelu", "normalization_type": "LN"}
    return TransformerBridge.boot_native({**SHAPE, **rest})


def gpt2():
    config = GPT2Config(vocab_size=VOCABULARY, n_positions=CONTEXT, n_embd=16, n_layer=2, n_head=2, n_inner=32)
    return build_bridge_from_module(GPT2LMHeadModel(config).eval(), "GPT2LMHeadModel", hf_config=config)


def gemma2():
    config = Gemma2Config(
        vocab_size=VOCABULARY,
        max_position_embeddings=CONTEXT,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
    )
    return build_bridge_from_module(Gemma2ForCausalLM(config).eval(), "Gemma2ForCausalLM", hf_config=config)


MODELS = {
    "plain": hooked,
    "rotary": partial(
        hooked, act_fn="silu", normalization="RMS", positional_embedding_type="rotary", gated_mlp=True, n_heads=4
    ),
    "native": native,
    "gpt2": gpt2,
    "gemma2": gemma2,
    "attention only": partial(hooked, attn_only=True),
    "linear": partial(hooked, attn_only=True, normalization=None),
}


def made(kind, seed=0):
    """A model whose every weight is far from zero, so that everything matters."""
    model, generator = MODELS[kind](), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.3 * torch.randn(weight.shape, generator=generator))
    return model


@pytest.fixture(scope="module", params=["plain", "rotary", "native", "gpt2", "gemma2"])
def model(request):
    return made(request.param)


@pytest.fixture(scope="module")
def plain():
    return made("plain")


TARGET, SOURCE, OTHER = torch.randint(1, VOCABULARY, (3, ROWS, LENGTH), generator=torch.Generator().manual_seed(0))
RIGHT, WRONG = torch.tensor([3, 1, 4]), torch.tensor([5, 9, 2])
DIFFERENCE = {"difference": patching.logit_difference(RIGHT, WRONG)}
quiet = {"progress": False}


def differences(logits):
    """Right less wrong of each row, `logits[row, vocab]`."""
    return [float(row[right] - row[wrong]) for row, right, wrong in zip(logits, RIGHT, WRONG, strict=True)]


EDITED = re.compile(r"^blocks.\d.(hook_resid_(pre|post)|attn.hook_z|hook_(attn|mlp)_out|mlp.hook_post)$")


@cache
@torch.no_grad()
def read(model, tokens, row=None):
    """What a run writes where the tests edit, of all prompts or of one alone."""
    return model.run_with_cache(tokens if row is None else tokens[row : row + 1], names_filter=EDITED.match)[1]


@torch.no_grad()
def by_hand(model, where, target=TARGET, sources=(SOURCE,), sender=None):
    """Mean logit difference with some parts `{hook name: index}` from the sources' mean, one prompt at a time."""
    last = []
    for row in range(len(target)):
        caches = [read(sender or model, tokens, row) for tokens in sources]

        def put(x, hook, name, caches=caches):
            x = x.clone()
            x[where[name]] = sum(cache[name][where[name]] for cache in caches) / len(caches)
            return x

        fwd_hooks = [(name, partial(put, name=name)) for name in where]
        last.append(model.run_with_hooks(target[row : row + 1], fwd_hooks=fwd_hooks)[0, -1])
    return np.mean(differences(last))


def residual(layer):
    return f"blocks.{layer - 1}.hook_resid_post" if layer else "blocks.0.hook_resid_pre"


every = slice(None)
GROUPS = {"two blocks": {0: [0, 3, 31], 1: range(5, 9)}, "one": {1: [7]}}
# the experiment, and what a row of its result patches
EXPERIMENTS = {
    "by_layer_and_position": (
        patching.by_layer_and_position,
        lambda row: {residual(row.layer): (every, row.position)},
        lambda model: (SHAPE["n_layers"] + 1) * LENGTH,
    ),
    "by_layer_and_position, some": (
        partial(patching.by_layer_and_position, layers=[2, 0], positions=[-1, 1]),
        lambda row: {residual(row.layer): (every, row.position)},
        lambda model: 4,
    ),
    "by_head": (
        patching.by_head,
        lambda row: {f"blocks.{row.block}.attn.hook_z": (every, every, row.head)},
        lambda model: 2 * model.cfg.n_heads,
    ),
    "by_head at the end": (
        partial(patching.by_head, positions=[-1, -2]),
        lambda row: {f"blocks.{row.block}.attn.hook_z": (every, [-1, -2], row.head)},
        lambda model: 2 * model.cfg.n_heads,
    ),
    "by_component": (
        patching.by_component,
        lambda row: {f"blocks.{row.block}.hook_{'attn' if row.component == 'attention' else 'mlp'}_out": every},
        lambda model: 4,
    ),
    "by_neurons": (
        partial(patching.by_neurons, groups=GROUPS, positions=2),
        lambda row: {f"blocks.{b}.mlp.hook_post": (every, 2, list(ns)) for b, ns in GROUPS[row.group].items()},
        lambda model: 2,
    ),
}


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


# --- experiments ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_each_row_is_what_a_loop_over_prompts_gives(model, name):
    experiment, where, n_rows = EXPERIMENTS[name]
    table = experiment(model, TARGET, SOURCE, DIFFERENCE, **quiet)
    assert len(table) == n_rows(model)
    assert_close(table["difference"], [by_hand(model, where(row)) for row in table.itertuples()])
    assert table["difference"].nunique() > len(table) / 2


@torch.no_grad()
@pytest.mark.parametrize("kind", ["plain", "rotary", "attention only"])
def test_layers_and_positions_agree_with_transformer_lens(kind):
    model = made(kind)
    _, cache = model.run_with_cache(SOURCE)

    def metric(logits):
        return torch.tensor(np.mean(differences(logits[:, -1])))

    theirs = transformer_lens_patching.get_act_patch_resid_pre(model, TARGET, cache, metric)
    ours = patching.by_layer_and_position(model, TARGET, SOURCE, DIFFERENCE, layers=[0, 1], **quiet)
    assert_close(ours["difference"], theirs.flatten())


def test_a_model_without_mlps_has_attention_alone_as_component():
    table = patching.by_component(made("attention only"), TARGET, SOURCE, DIFFERENCE, **quiet)
    assert table["component"].tolist() == ["attention", "attention"]


@torch.no_grad()
def test_patching_the_whole_stream_gives_the_sources_logits(model):
    seen = []
    edits = [patch_at(residual(layer), {"layer": layer}) for layer in range(3)]
    metrics = {"kept": lambda logits: seen.append(logits) or 0.0}
    patching.experiment(model, TARGET, edits, metrics, source=SOURCE, **quiet)
    assert len(seen) == 3
    for logits in seen:
        torch.testing.assert_close(logits, model(SOURCE)[:, -1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["by_layer_and_position", "by_path"])
def test_the_batch_size_changes_nothing(plain, name):
    metrics = {**DIFFERENCE, "spread": lambda logits: logits.std()}
    tables = [getattr(patching, name)(plain, TARGET, SOURCE, metrics, batch_size=n, **quiet) for n in (1, 2, None)]
    for table in tables[1:]:
        assert (table.columns == tables[0].columns).all()
        assert_close(table.iloc[:, 2:].astype(float), tables[0].iloc[:, 2:].astype(float))


def test_several_sources_are_their_mean(model):
    layers = {"layers": [0, 2], "positions": [1, 4]}
    table = patching.by_layer_and_position(model, TARGET, [SOURCE, OTHER], DIFFERENCE, **layers, **quiet)
    expected = [
        by_hand(model, {residual(row.layer): (every, row.position)}, sources=(SOURCE, OTHER))
        for row in table.itertuples()
    ]
    assert_close(table["difference"], expected)


@pytest.mark.parametrize("kind", ["rotary", "gpt2"])
def test_the_source_may_run_in_another_checkpoint(kind):
    model, sender = made(kind), made(kind, seed=1)
    table = patching.by_head(model, TARGET, SOURCE, DIFFERENCE, source_model=sender, **quiet)
    where = EXPERIMENTS["by_head"][1]
    assert_close(table["difference"], [by_hand(model, where(row), sender=sender) for row in table.itertuples()])


@pytest.mark.parametrize("length", [3, 7])
def test_prompts_of_another_length_are_patched_from_the_end(model, length):
    source = torch.randint(1, VOCABULARY, (ROWS, length), generator=torch.Generator().manual_seed(3))
    table = patching.by_layer_and_position(model, TARGET, source, DIFFERENCE, positions=[-1, -2], **quiet)
    expected = [
        by_hand(model, {residual(row.layer): (every, row.position)}, sources=(source,)) for row in table.itertuples()
    ]
    assert_close(table["difference"], expected)


def test_patching_within_the_whole_space_or_none_of_it(model):
    whole = subspaces.random(16, 16)
    by_layer = partial(patching.by_layer_and_position, model, TARGET, metrics=DIFFERENCE, layers=[1], **quiet)
    assert_close(by_layer(source=SOURCE, subspace=whole)["difference"], by_layer(source=SOURCE)["difference"])
    small = subspaces.random(16, 1)
    assert not np.allclose(by_layer(source=SOURCE, subspace=small)["difference"], by_layer(source=SOURCE)["difference"])


def test_edits_without_a_source_need_none(model):
    subspace = subspaces.random(16, 3)
    out = Edit({"edit": "out"}, lambda batch: [(residual(1), partial(hooks.project_out, subspace=subspace))])
    nothing = Edit({"edit": "nothing"}, lambda batch: [])
    table = patching.experiment(model, TARGET, [out, nothing], DIFFERENCE, **quiet).set_index("edit")["difference"]
    expected = by_hand(model, {})
    assert_close(table["nothing"], expected)
    assert abs(table["out"] - expected) > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("size", [None, 2])
def test_steering_adds_each_row_its_vector(model, size):
    own = torch.randn(ROWS, 16, generator=torch.Generator().manual_seed(0))
    edits = [
        patching.UNEDITED,
        *(
            patching.steer_at(residual(1), {"vector": i}, vector, positions=-1)
            for i, vector in enumerate((own, own[0]))
        ),
    ]
    found = patching.experiment(model, TARGET, edits, DIFFERENCE, batch_size=size, **quiet)["difference"]

    def add(x, hook, vector):
        return torch.cat([x[:, :-1], x[:, -1:] + vector.view(-1, 1, 16)], 1)

    runs = [
        model(TARGET),
        *(model.run_with_hooks(TARGET, fwd_hooks=[(residual(1), partial(add, vector=v))]) for v in (own, own[0])),
    ]
    assert_close(found, [DIFFERENCE["difference"](logits[:, -1]) for logits in runs])


@torch.no_grad()
def test_the_last_logits_are_those_of_a_plain_run(model):
    torch.testing.assert_close(patching.last_logits(model, TARGET), model(TARGET)[:, -1])


PATTERNS = ["plain", "rotary", "gpt2", "gemma2"] + ["native"] * (not HOOKED)  # TransformerLens 3 passes over the last


@torch.no_grad()
@pytest.mark.parametrize("model", PATTERNS, indirect=True)
def test_heads_attend_as_in_the_source_with_its_pattern(model):
    pattern, z, found = "blocks.0.attn.hook_pattern", "blocks.0.attn.hook_z", {}
    _, source = model.run_with_cache(SOURCE)
    _, target = model.run_with_cache(TARGET)
    edits = [(pattern, partial(hooks.impose_pattern, source=source)), (z, lambda x, hook: found.update(z=x.clone()))]
    model.run_with_hooks(TARGET, fwd_hooks=edits)
    values = target["blocks.0.attn.hook_v"]
    values = values.repeat_interleave(model.cfg.n_heads // values.shape[2], 2)
    torch.testing.assert_close(found["z"], torch.einsum("rhqk,rkhd->rqhd", source[pattern], values))
    everywhere = [(f"blocks.{n}.attn.hook_pattern", partial(hooks.impose_pattern, source=source)) for n in range(2)]
    imposed = patching.experiment(model, TARGET, [Edit({}, lambda batch: everywhere)], DIFFERENCE, **quiet)
    assert_close(imposed["difference"], np.mean(differences(model.run_with_hooks(TARGET, fwd_hooks=everywhere)[:, -1])))


@pytest.mark.parametrize(
    ("kind", "name", "told"),
    [
        ("gpt2", "blocks.1.hook_resid_mid", "reaches the MLP alone; allowed: blocks.1.hook_attn_out"),
        ("native", "blocks.0.hook_resid_mid", "reaches the MLP alone; allowed: blocks.0.hook_attn_out"),
        ("native", "blocks.0.attn.hook_attn_scores", "passes over edits at .*; allowed: blocks.0.attn.hook_z"),
        *[("native", "blocks.1.attn.hook_pattern", "passes over edits at .*; allowed: blocks.1.attn.hook_z")] * HOOKED,
    ],
)
def test_edits_that_a_bridge_passes_over_are_refused(kind, name, told):
    model, edit = made(kind), Edit({}, lambda batch: [(name, lambda x, hook: x * 0)])
    with pytest.raises(ValueError, match=f"{told}"):
        patching.experiment(model, TARGET, [edit], DIFFERENCE, **quiet)
    assert n_hooks(model) == 0


@pytest.mark.skipif(not HOOKED, reason="HookedTransformer is TransformerLens 3's")
@pytest.mark.parametrize("name", ["hook_resid_mid", "attn.hook_pattern", "attn.hook_attn_scores"])
def test_a_hooked_transformer_follows_all_edits(plain, name):
    edit = Edit({}, lambda batch: [(f"blocks.1.{name}", lambda x, hook: x * 0)])
    table = patching.experiment(plain, TARGET, [edit, patching.UNEDITED], DIFFERENCE, **quiet)
    assert table["difference"].nunique() == 2


@pytest.mark.skipif(not HOOKED, reason="HookedTransformer is TransformerLens 3's")
@pytest.mark.parametrize(
    ("name", "switch"),
    [
        ("hook_attn_in", "use_attn_in"),
        *[(f"hook_{part}_input", "use_split_qkv_input") for part in "qkv"],
        ("attn.hook_result", "use_attn_result"),
        ("hook_mlp_in", "use_hook_mlp_in"),
    ],
)
def test_hooks_that_are_switched_off_are_refused(name, switch):
    model, name = made("plain"), f"blocks.1.{name}"
    edit, told = Edit({}, lambda batch: [(name, lambda x, hook: x * 0)]), rf"{name} .*model.set_{switch}\(True\)"
    for edits_of, source in ((edit, None), (patch_at(name, {}), SOURCE), (Edit({}, lambda batch: [], (name,)), SOURCE)):
        with pytest.raises(ValueError, match=told):
            patching.experiment(model, TARGET, [edits_of], DIFFERENCE, source=source, **quiet)
    getattr(model, f"set_{switch}")(True)
    edited = [patching.UNEDITED, edit, patch_at(name, {})]
    table = patching.experiment(model, TARGET, edited, DIFFERENCE, source=SOURCE, **quiet)
    assert table["difference"].nunique() == 3
    with pytest.raises(ValueError, match=told):
        patching.experiment(model, TARGET, edited, DIFFERENCE, source=SOURCE, source_model=made("plain"), **quiet)


@pytest.mark.skipif(not HOOKED, reason="HookedTransformer is TransformerLens 3's")
def test_the_input_of_attention_is_refused_where_it_is_split():
    model, edit = made("plain"), Edit({}, lambda batch: [("blocks.1.hook_attn_in", lambda x, hook: x * 0)])
    model.set_use_attn_in(True)
    model.set_use_split_qkv_input(True)
    with pytest.raises(ValueError, match=r"hook_attn_in .*set_use_split_qkv_input\(False\)"):
        patching.experiment(model, TARGET, [edit], DIFFERENCE, **quiet)


# --- paths ---------------------------------------------------------------------------------------------------


def place(component):
    """Hook name of a component's output, and its index there (without positions)."""
    block, head = re.fullmatch(r"(?:L|MLP)(\d)(?:H(\d))?", component).groups()
    return (f"blocks.{block}.attn.hook_z", int(head)) if head else (f"blocks.{block}.hook_mlp_out", None)


@torch.no_grad()
def path_by_hand(model, sender, receiver, position):
    """All outputs but the sender's frozen as in the target run; what the receiver then writes is put in."""
    target, source = read(model, TARGET), read(model, SOURCE)
    outputs = [name for name in target if re.search(r"(attn.hook_z|^blocks.\d.hook_mlp_out)$", name)]
    (sends, head), written = place(sender), {}

    def freeze(x, hook, name):
        written[name] = x.clone()
        frozen = target[name].clone()
        if name == sends:
            part = (every, position) if head is None else (every, position, head)
            frozen[part] = source[name][part]
        return frozen

    def answer(x, hook, name, head):
        if head is None:
            return written[name]
        x = x.clone()
        x[:, :, head] = written[name][:, :, head]
        return x

    logits = model.run_with_hooks(TARGET, fwd_hooks=[(name, partial(freeze, name=name)) for name in outputs])
    if receiver != "logits":
        name, head = place(receiver)
        logits = model.run_with_hooks(TARGET, fwd_hooks=[(name, partial(answer, name=name, head=head))])
    return np.mean(differences(logits[:, -1]))


@pytest.mark.parametrize(
    ("kind", "position"),
    [("plain", -1), ("plain", 2), ("rotary", -1), ("native", -1), ("gpt2", 2), ("attention only", -1)],
)
def test_a_path_is_what_freezing_everything_else_leaves(kind, position):
    model = made(kind)
    table = patching.by_path(model, TARGET, SOURCE, DIFFERENCE, position=position, **quiet)
    expected = [path_by_hand(model, row.sender, row.receiver, position) for row in table.itertuples()]
    assert_close(table["difference"], expected)
    logits = table[table["receiver"] == "logits"]["difference"]
    assert (logits.nunique() == len(logits)) == (position == -1)  # the last logits read the last position alone


def test_paths_lead_from_each_component_to_each_later_one(plain):
    table = patching.by_path(plain, TARGET, SOURCE, DIFFERENCE, **quiet)
    later = {"L0": ["MLP0", "L1H0", "L1H1", "MLP1", "logits"], "MLP0": ["L1H0", "L1H1", "MLP1", "logits"]}
    later.update(L1=["MLP1", "logits"], MLP1=["logits"])
    expected = [(s, r) for s in ("L0H0", "L0H1", "MLP0", "L1H0", "L1H1", "MLP1") for r in later[s.split("H")[0]]]
    assert list(zip(table["sender"], table["receiver"], strict=True)) == expected
    some = patching.by_path(plain, TARGET, SOURCE, DIFFERENCE, receivers=["MLP1", "logits"], **quiet)
    assert some.equals(table[table["receiver"].isin(["MLP1", "logits"])].reset_index(drop=True))


@torch.no_grad()
def test_direct_effects_of_a_model_without_norms_are_what_a_head_writes():
    model = made("linear")
    table = patching.by_path(model, TARGET, SOURCE, DIFFERENCE, **quiet).query("receiver == 'logits'")
    _, target = model.run_with_cache(TARGET)
    _, source = model.run_with_cache(SOURCE)
    for row in table.itertuples():
        name, head = place(row.sender)
        sent = (source[name] - target[name])[:, -1, head] @ model.blocks[int(name[7])].attn.W_O[head]
        logits = model(TARGET)[:, -1] + sent @ model.W_U
        assert_close(row.difference, np.mean(differences(logits)))
    assert len(table) == 4


@pytest.mark.parametrize("kind", ["gemma2"] + ["parallel"] * HOOKED)
def test_paths_are_refused_where_outputs_do_not_simply_add(kind):
    model = hooked(parallel_attn_mlp=True) if kind == "parallel" else made(kind)
    with pytest.raises(ValueError, match=r"by_path needs outputs that add .*Use by_head and by_component\."):
        patching.by_path(model, TARGET, SOURCE, DIFFERENCE, **quiet)


# --- metrics -------------------------------------------------------------------------------------------------

LOGITS = torch.tensor([[0.0, 1.0, 3.0], [2.0, 0.0, 0.0]])
FIRST, LAST = torch.tensor([0, 0]), torch.tensor([2, 2])
SHARES = np.exp(LOGITS.numpy()) / np.exp(LOGITS.numpy()).sum(1, keepdims=True)


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (patching.logit_difference(LAST, FIRST), (3 - 2) / 2),
        (patching.probability(LAST), SHARES[:, 2].mean()),
        (patching.answered(LAST), 0.5),
        (patching.answered(torch.tensor([1, 1])), 0.0),
        (patching.answered_among(torch.tensor([[True, False, True], [True, False, False]])), 1.0),
        (patching.answered_among(torch.tensor([[True, True, False], [True, False, False]])), 0.5),
        (patching.Metric(lambda logits: logits[:, 0]), 1.0),
    ],
)
def test_metrics_by_hand(metric, expected):
    found = metric(LOGITS)
    assert isinstance(found, float) and found == pytest.approx(expected)


def test_a_metric_refuses_another_number_of_rows():
    with pytest.raises(ValueError, match="3 rows, but the metric was made for 2"):
        patching.answered(LAST)(torch.zeros(3, 3))


def test_a_plain_function_gets_the_logits_of_all_rows(plain):
    table = patching.by_head(
        plain,
        TARGET,
        SOURCE,
        {**DIFFERENCE, "same": lambda logits: np.mean(differences(logits)), "rows": len},
        batch_size=2,
        **quiet,
    )
    assert_close(table["same"], table["difference"])
    assert (table["rows"] == ROWS).all()


# --- nothing stays behind ------------------------------------------------------------------------------------


def n_hooks(model):
    return sum(len(point.fwd_hooks) + len(point.bwd_hooks) for point in model.hook_dict.values())


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("where", ["an experiment", "the receiver's run of a path", "a path"])
def test_no_hook_stays_behind_an_error(model, error, where, monkeypatch):
    def fail(activation, hook, **kwargs):
        raise error("in mid-run")

    if where == "an experiment":
        edits = [Edit({}, lambda batch: [(residual(1), fail), (residual(2), fail)])]
        run = partial(patching.experiment, model, TARGET, edits, DIFFERENCE, **quiet)
    else:
        monkeypatch.setattr(hooks, "patch" if where == "a path" else "steer", fail)
        monkeypatch.setattr(routes, "_outputs_add_up", lambda model: True)
        run = partial(patching.by_path, model, TARGET, SOURCE, DIFFERENCE, **quiet)
    before = n_hooks(model)
    with pytest.raises(error, match="in mid-run"):
        run()
    assert n_hooks(model) == before == 0
    assert not any(point._forward_hooks for point in model.hook_dict.values())


def test_hooks_of_ones_own_stay(model):
    point = model.hook_dict[residual(1)]
    point.add_hook(lambda activation, hook: None)
    before = n_hooks(model)
    try:
        patching.by_layer_and_position(model, TARGET, SOURCE, DIFFERENCE, positions=[-1], **quiet)
        assert n_hooks(model) == before > 0
    finally:
        model.reset_hooks()


def test_layers_are_whole_numbers_of_any_kind(plain):
    for layer in (1, np.int64(1), torch.tensor(1)):
        assert patching.residual(plain, layer) == "blocks.1.hook_resid_pre"
    for layer in (1.0, True, np.True_, "1", None):
        with pytest.raises(ValueError, match=re.escape(f"layer={layer!r}; allowed: one whole number, 0")):
            patching.residual(plain, layer)


# --- refusals ------------------------------------------------------------------------------------------------

by_layer = patching.by_layer_and_position
LONGER = torch.ones(ROWS, 7, dtype=torch.long)


def by_neurons(model, **options):
    return patching.by_neurons(model, TARGET, SOURCE, DIFFERENCE, groups=GROUPS, **options)


def steered(model, vector):
    return patching.experiment(model, TARGET, [patching.steer_at(residual(1), {}, vector)], DIFFERENCE, **quiet)


BAD = {
    "no edits": (lambda m: patching.experiment(m, TARGET, [], DIFFERENCE), ["edits is empty", "at least one"]),
    "no groups": (lambda m: patching.by_neurons(m, TARGET, SOURCE, DIFFERENCE, groups={}), ["edits is empty"]),
    "no metrics": (lambda m: patching.by_head(m, TARGET, SOURCE, {}), ["metrics is empty", "at least one"]),
    "no source": (
        lambda m: patching.experiment(m, TARGET, [patch_at(residual(1), {})], DIFFERENCE),
        ["source=None", residual(1)],
    ),
    "one prompt without its row": (
        lambda m: by_layer(m, TARGET[0], SOURCE[0], DIFFERENCE, positions=[-1]),
        ["target is torch.int64 of shape [5]", "[row, pos]"],
    ),
    "no rows": (lambda m: by_layer(m, TARGET[:0], SOURCE[:0], DIFFERENCE), ["target", "shape [0, 5]", "one row"]),
    "no positions": (lambda m: patching.by_head(m, TARGET[:, :0], SOURCE, DIFFERENCE), ["target", "shape [3, 0]"]),
    "no token IDs": (lambda m: by_layer(m, TARGET, SOURCE.float(), DIFFERENCE), ["source 0 is torch.float32"]),
    "rows": (lambda m: by_layer(m, TARGET, SOURCE[:2], DIFFERENCE), ["source 0 has 2 prompts", "target 3"]),
    "token beyond the vocabulary": (
        lambda m: by_layer(m, TARGET, SOURCE + VOCABULARY, DIFFERENCE),
        ["source 0 holds token", "vocabulary has 23", "another model"],
    ),
    "token below 0": (lambda m: by_layer(m, TARGET * 0 - 1, SOURCE, DIFFERENCE), ["target holds token -1"]),
    "sources of unequal lengths": (
        lambda m: by_layer(m, TARGET, [SOURCE, LONGER], DIFFERENCE, positions=[3]),
        ["row 0", "lengths [5, 7]", "one length", "positions=[-1]", "role"],
    ),
    "unequal lengths": (
        lambda m: by_layer(m, TARGET, LONGER, DIFFERENCE),
        ["lengths [5, 7]", "positions=[-1]", "by role"],
    ),
    "unequal lengths at all positions": (
        lambda m: patching.by_head(m, TARGET, LONGER, DIFFERENCE),
        ["7 positions, these 5", "positions=-1"],
    ),
    "rows at a time": (lambda m: by_layer(m, TARGET, SOURCE, DIFFERENCE, batch_size=0), ["batch_size=0", "1 or more"]),
    "metric of other rows": (
        lambda m: by_layer(m, TARGET[:2], SOURCE[:2], DIFFERENCE),
        ["metric 'difference' was made for 3 rows; target has 2"],
    ),
    "metric of other tokens": (
        lambda m: by_layer(m, TARGET, SOURCE, {"p": patching.probability(torch.full((ROWS,), VOCABULARY))}),
        ["metric's tokens", "from 23 to 23", "0 to 22"],
    ),
    "receiver": (
        lambda m: patching.by_path(m, TARGET, SOURCE, DIFFERENCE, receivers=["L0H7"]),
        ["receivers holds 'L0H7'", "L0H0", "logits"],
    ),
    "layer": (
        lambda m: by_layer(m, TARGET, SOURCE, DIFFERENCE, layers=[3]),
        ["layer=3", "2 blocks", "0 (embedding) to 2 (after the last)"],
    ),
    "layer below 0": (lambda m: by_layer(m, TARGET, SOURCE, DIFFERENCE, layers=[-1]), ["layer=-1"]),
    "position": (lambda m: by_layer(m, TARGET, SOURCE, DIFFERENCE, positions=[5]), ["positions=5", "allowed: -5 to 4"]),
    "position of a path": (
        lambda m: patching.by_path(m, TARGET, SOURCE[:, :3], DIFFERENCE, position=3),
        ["position=3", "have 3", "allowed: -3 to 2"],
    ),
    "neuron": (
        lambda m: patching.by_neurons(m, TARGET, SOURCE, DIFFERENCE, groups={"a": {0: [32]}}),
        ["chosen=[32]", "0 to 31"],
    ),
    "block of neurons": (
        lambda m: patching.by_neurons(m, TARGET, SOURCE, DIFFERENCE, groups={"a": {2: [0]}}),
        ["no hook 'blocks.2.mlp.hook_post'", "nearest: blocks."],
    ),
    "mask of other rows": (
        lambda m: patching.by_head(m, TARGET, SOURCE, DIFFERENCE, positions=torch.ones(2, LENGTH) > 0),
        ["positions has 2 rows, target 3", "one for each prompt"],
    ),
    "mask of other rows, batch by batch": (
        lambda m: by_neurons(m, positions=torch.ones(4, LENGTH) > 0, batch_size=2),
        ["positions has 4 rows, target 3"],
    ),
    "more vectors than rows": (lambda m: steered(m, torch.ones(4, 16)), ["vector has 4 rows, target 3"]),
    "fewer vectors than rows": (lambda m: steered(m, torch.ones(1, 16)), ["vector has 1 rows, target 3"]),
    "a number for a vector": (lambda m: steered(m, 1.0), ["vector has shape []", "[row, d]"]),
    "name to read": (
        lambda m: patching.experiment(m, TARGET, [patch_at("blocks.0.hook_residpost", {})], DIFFERENCE, source=SOURCE),
        ["no hook 'blocks.0.hook_residpost'", "blocks.0.hook_resid_post"],
    ),
    "name to edit": (
        lambda m: patching.experiment(m, TARGET, [Edit({}, lambda b: [("hook_embd", None)])], DIFFERENCE),
        ["no hook 'hook_embd'", "hook_embed"],
    ),
    "name like no other": (
        lambda m: patching.experiment(m, TARGET, [Edit({}, lambda b: [("???", None)])], DIFFERENCE),
        ["no hook '???'; nearest: none."],
    ),
}


@pytest.mark.parametrize(("call", "told"), BAD.values(), ids=BAD)
@pytest.mark.parametrize("model", ["plain", "gpt2"], indirect=True)
def test_refusals_name_what_does_not_fit(model, call, told):
    with pytest.raises(ValueError) as error:
        call(model)
    assert not [part for part in told if part not in str(error.value)], error.value
    assert n_hooks(model) == 0


@pytest.mark.parametrize(("field", "ours", "theirs"), [("d_vocab", VOCABULARY, 30), ("d_model", 16, 8)])
def test_a_source_model_of_another_shape_is_refused(plain, field, ours, theirs):
    values = {"d_vocab": VOCABULARY, "n_ctx": CONTEXT, field: theirs}
    other = ul.build_model(
        ul.ModelConfig(**{**SHAPE, "d_model": values.pop("d_model", 16)}), values["d_vocab"], values["n_ctx"]
    )
    with pytest.raises(ValueError, match=f"source_model has {field}={theirs}, the model {ours}"):
        patching.by_head(plain, TARGET, SOURCE, DIFFERENCE, source_model=other, **quiet)


# --- numpy and pandas ----------------------------------------------------------------------------------------

KINDS = {"list": lambda x: x.tolist(), "numpy": lambda x: x.numpy(), "pandas": lambda x: pd.Series(x.numpy())}


@pytest.mark.parametrize("kind", KINDS)
def test_metrics_take_columns_of_any_kind(kind):
    of = KINDS[kind]
    assert patching.logit_difference(of(LAST), of(FIRST))(LOGITS) == 0.5
    assert patching.probability(of(LAST))(LOGITS) == pytest.approx(SHARES[:, 2].mean())
    assert patching.answered(of(LAST))(LOGITS) == 0.5
    mask = torch.tensor([[True, True, False], [True, False, False]])
    assert patching.answered_among(mask.tolist() if kind == "list" else pd.DataFrame(mask.numpy()))(LOGITS) == 0.5
    assert patching.Metric(lambda logits, x: logits[:, 0] * x, of(LAST))(LOGITS) == 2.0


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: patching.answered(LAST[:, None]), r"tokens are torch.int64 of shape \[2, 1\]; allowed: .* \[row\]"),
        (lambda: patching.probability(LAST[:, None].numpy()), r"of shape \[2, 1\]"),
        (lambda: patching.logit_difference(LAST, FIRST[None]), r"of shape \[1, 2\]"),
        (lambda: patching.answered(LAST.double()), "tokens are torch.float64"),
        (lambda: patching.answered([True, False]), "tokens are torch.bool"),
        (lambda: patching.answered(2), "single number 2; allowed: an entry for each row"),
        (lambda: patching.Metric(lambda x, y: x, 2), "single number 2"),
        (lambda: patching.answered_among([1, 2]), r"allowed is torch.int64 of shape \[2\]; it must be a mask"),
        (
            lambda: patching.answered_among(torch.ones(2, 2, dtype=bool))(LOGITS),
            "2 tokens a row; the vocabulary has 3",
        ),
        (lambda: patching.answered([2, 3])(LOGITS), "from 2 to 3; allowed: token IDs from 0 to 2"),
        (lambda: patching.answered([-1, 0])(LOGITS), "from -1 to 0"),
        (
            lambda: patching.Metric(lambda x, y: x.argmax(-1) == y, LAST[:, None])(LOGITS),
            r"values have shape \[2, 2\] for 2 rows, with columns of shape \[2, 1\]; allowed: one number a row",
        ),
        (lambda: patching.Metric(lambda x: x)(LOGITS), r"values have shape \[2, 3\] for 2 rows"),
        (lambda: patching.Metric(lambda x: x.mean())(LOGITS), r"values have shape \[\] for 2 rows"),
    ],
)
def test_columns_that_would_be_broadcast_are_refused(make, told):
    with pytest.raises(ValueError, match=told):
        make()


def test_a_metric_of_another_shape_is_refused_batch_by_batch(plain):
    column = patching.Metric(lambda logits, due: (logits.argmax(-1) == due).float(), RIGHT[:, None])
    for size in (None, 1, 2):
        with pytest.raises(ValueError, match="allowed: one number a row"):
            patching.by_head(plain, TARGET, SOURCE, {"x": column}, batch_size=size, **quiet)


def equal(a, b):
    pd.testing.assert_frame_equal(a, b, check_exact=True)


def test_places_may_be_single_numbers_and_come_from_numpy_and_pandas(plain):
    by_layer = partial(patching.by_layer_and_position, plain, TARGET, SOURCE, DIFFERENCE, **quiet)
    wanted = by_layer(layers=[1, 2], positions=[-1])
    for layers in (np.arange(1, 3), pd.Series([1, 2]), torch.tensor([1, 2]), [False, True, True]):
        for positions in (-1, np.int64(-1), pd.Series([-1])):
            equal(by_layer(layers=layers, positions=positions), wanted)
    equal(by_layer(layers=1, positions=-1), wanted[:1])
    equal(by_layer(positions=[False] * 4 + [True], layers=1), by_layer(positions=4, layers=1))
    by_head = partial(patching.by_head, plain, TARGET, SOURCE, DIFFERENCE, **quiet)
    mask = torch.arange(LENGTH).expand(ROWS, LENGTH) > torch.arange(ROWS)[:, None]
    for one, other in (
        (np.int64(2), 2),
        (np.array([0, 3]), [0, 3]),
        (torch.tensor([0, 3]), [0, 3]),
        (pd.Series([0, 3]), [0, 3]),
        ([True, False, False, True, False], [0, 3]),
        (mask.numpy(), mask),
        (pd.DataFrame(mask.numpy()), mask),
    ):
        equal(by_head(positions=one), by_head(positions=other))
    table = by_head()
    experiment = partial(patching.experiment, plain, TARGET, metrics=DIFFERENCE, source=SOURCE, **quiet)
    name = "blocks.1.attn.hook_z"
    column = next(column for column in table if column != "head" and column != "difference")
    assert table[column].iloc[3] == 1, "the fourth row is of block 1"
    found = experiment(edits=[patch_at(name, {}, heads=heads) for heads in (table["head"][3], 1, pd.Series([0, 1]))])
    assert found["difference"][0] == found["difference"][1] == table["difference"][3] != found["difference"][2]
    groups = {"a": {0: [3, 5]}}
    wanted = patching.by_neurons(plain, TARGET, SOURCE, DIFFERENCE, groups=groups, **quiet)
    for chosen in (np.array([3, 5]), torch.tensor([3, 5]), pd.Series([3, 5]), np.isin(np.arange(32), [3, 5])):
        groups = {"a": {np.int64(0): chosen}}
        equal(patching.by_neurons(plain, TARGET, SOURCE, DIFFERENCE, groups=groups, **quiet), wanted)
    by_path = partial(patching.by_path, plain, TARGET, SOURCE, DIFFERENCE, **quiet)
    equal(by_path(position=np.int64(1), receivers="logits"), by_path(position=1, receivers=["logits"]))


@pytest.mark.parametrize("kind", KINDS)
def test_prompts_and_vectors_may_come_from_elsewhere(plain, kind):
    def of(x):
        return pd.DataFrame(x.numpy()) if kind == "pandas" else KINDS[kind](x)

    wanted = patching.by_layer_and_position(plain, TARGET, SOURCE, DIFFERENCE, **quiet)
    equal(patching.by_layer_and_position(plain, of(TARGET), of(SOURCE), DIFFERENCE, **quiet), wanted)
    both = [
        patching.by_head(plain, TARGET, f([SOURCE, OTHER]), DIFFERENCE, **quiet) for f in (list, lambda x: map(of, x))
    ]
    equal(*both)
    path = patching.by_path(plain, TARGET, SOURCE, DIFFERENCE, **quiet)
    equal(patching.by_path(plain, of(TARGET), of(SOURCE), DIFFERENCE, **quiet), path)
    vector = torch.arange(16) / 8
    steered = [
        patching.experiment(plain, TARGET, [patching.steer_at("hook_embed", {}, v, positions=1)], DIFFERENCE, **quiet)
        for v in (vector, vector.numpy())
    ]
    equal(*steered)


@torch.no_grad()
def test_prompts_of_plain_runs_may_come_from_elsewhere(plain):
    logits, states = patching.run_prompts(plain, TARGET)
    for of in (torch.Tensor.numpy, torch.Tensor.tolist, lambda x: pd.DataFrame(x.numpy())):
        assert torch.equal(patching.last_logits(plain, of(TARGET)), patching.last_logits(plain, TARGET))
        found = patching.run_prompts(plain, of(TARGET))
        assert torch.equal(found[0], logits) and all(map(torch.equal, found[1], states))
    for run in (patching.last_logits, patching.run_prompts):
        for prompts, told in (
            (TARGET[0], r"torch.int64 of shape \[5\]; it must be token IDs"),
            (TARGET / 2, "prompts is torch.float32"),
            (TARGET > 5, "prompts is torch.bool"),
            ([[1, 2], []], "row 1 of prompts is empty"),
            (["Paris is"], "hold no numbers"),
        ):
            with pytest.raises(ValueError, match=told):
                run(plain, prompts)


def unedited(model, metric):
    return patching.experiment(model, TARGET, patching.UNEDITED, {"x": metric}, **quiet)


def test_edits_may_be_one_or_come_one_by_one(plain):
    found = unedited(plain, DIFFERENCE["difference"])
    equal(found, patching.experiment(plain, TARGET, [patching.UNEDITED], {"x": DIFFERENCE["difference"]}, **quiet))
    several = [patching.UNEDITED, patching.steer_at(residual(1), {"vector": 0}, torch.ones(16))]
    both = [
        patching.experiment(plain, TARGET, f(several), DIFFERENCE, batch_size=np.int64(2), **quiet)
        for f in (iter, list)
    ]
    equal(*both)
    for number in (torch.tensor(2), np.float32(2), 2):
        assert unedited(plain, lambda logits, number=number: number)["x"].tolist() == [2]


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda m: by_layer(m, TARGET, SOURCE, DIFFERENCE, positions=True), "positions=True: "),
        (lambda m: by_layer(m, TARGET, SOURCE, DIFFERENCE, positions="last"), "positions='last': target has 5"),
        (lambda m: by_layer(m, TARGET, SOURCE, DIFFERENCE, positions=[]), "positions is empty"),
        (lambda m: by_layer(m, TARGET, SOURCE, DIFFERENCE, layers=1.0), "layers=1.0: the model has 3"),
        (lambda m: by_layer(m, TARGET, SOURCE, DIFFERENCE, layers=[True, False]), "layers is a mask with 2 entries"),
        (lambda m: patching.by_head(m, TARGET, SOURCE, DIFFERENCE, positions=1.5), "positions=1.5: "),
        (lambda m: patching.by_head(m, TARGET, SOURCE, DIFFERENCE, positions=[1, 2, 1]), "names one twice"),
        (lambda m: patching.by_head(m, TARGET, SOURCE, DIFFERENCE, positions=[4, -1]), "names one twice"),
        (
            lambda m: patching.by_head(m, TARGET, SOURCE, DIFFERENCE, positions=[True, False]),
            "a mask with 2 entries",
        ),
        (lambda m: patching.by_path(m, TARGET, SOURCE, DIFFERENCE, position=[1]), "position=.1.; allowed: one"),
        (lambda m: patching.by_path(m, TARGET, SOURCE, DIFFERENCE, position=True), "position=True; allowed: one"),
        (lambda m: by_layer(m, ["a b", "c d"], SOURCE, DIFFERENCE), "target of type list hold no numbers"),
        (lambda m: by_layer(m, TARGET, [[1, 2], [3]], DIFFERENCE), "lengths .1, 2, 5."),
        (lambda m: patching.by_head(m, TARGET, [[1, 2], [3]], DIFFERENCE), "source 0 has 2 prompts, target 3"),
        (lambda m: by_layer(m, TARGET, SOURCE, DIFFERENCE["difference"]), "metrics is a Metric; allowed: a dict"),
        (lambda m: by_layer(m, TARGET > 5, SOURCE, DIFFERENCE), "target is torch.bool of shape"),
        (lambda m: by_layer(m, TARGET, SOURCE, DIFFERENCE, batch_size=2.0), "batch_size=2.0: .* a whole number, 1 or"),
        (lambda m: by_layer(m, TARGET, SOURCE, DIFFERENCE, batch_size=True), "batch_size=True: .* a whole number"),
        (lambda m: patching.experiment(m, TARGET, 5, DIFFERENCE), "edits holds a int; allowed: Edit"),
        (lambda m: patching.experiment(m, TARGET, [print], DIFFERENCE), "edits holds a builtin.* allowed: Edit"),
        (lambda m: unedited(m, lambda logits: logits[:, 0]), r"metric 'x' gave values of shape \[3\]; allowed: one"),
        (lambda m: unedited(m, lambda logits: "0.5"), "metric 'x' gave '0.5'; allowed: one number"),
        (lambda m: unedited(m, patching.Metric(lambda logits: "half")), r"values have shape \[\] for 3 rows"),
        (lambda m: unedited(m, 0.5), "metric 'x' is a float; allowed: a function of logits"),
    ],
)
def test_places_and_prompts_of_another_kind_are_refused(plain, call, told):
    with pytest.raises(ValueError, match=told):
        call(plain)
    assert n_hooks(plain) == 0


# --- memory --------------------------------------------------------------------------------------------------


@given(st.integers(0, 10**9), st.integers(0, 10**9))
def test_rows_at_a_time_grow_with_free_memory_between_their_bounds(plain, a, b):
    def rows(free, reads=()):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(edits, "free_bytes", lambda device: free)
            return edits.rows_at_a_time(plain, LENGTH, 10, reads)

    few, many = sorted([a, b])
    assert 1 <= rows(few) <= rows(many) <= edits.MOST_ROWS
    assert rows(a, [residual(1)] * 50) <= rows(a)
    assert rows(0) == 1 and rows(10**12) == edits.MOST_ROWS


def test_masks_and_vectors_by_row_are_cut_with_the_rows(plain):
    mask = torch.arange(LENGTH) > torch.arange(ROWS)[:, None]
    vectors = torch.arange(ROWS * 16).view(ROWS, 16) / 20
    steer = patching.steer_at(residual(1), {}, vectors, positions=mask.numpy())

    def of_size(size):
        options = {"batch_size": size, **quiet}
        tables = [
            patching.by_head(plain, TARGET, SOURCE, DIFFERENCE, positions=mask, **options),
            patching.by_component(plain, TARGET, SOURCE, DIFFERENCE, positions=mask.numpy(), **options),
            patching.by_neurons(plain, TARGET, SOURCE, DIFFERENCE, groups=GROUPS, positions=mask, **options),
            patching.experiment(plain, TARGET, [steer], DIFFERENCE, **options),
        ]
        return pd.concat(tables)["difference"]

    for size in (1, 2):
        assert_close(of_size(size), of_size(None))
    assert (of_size(None)[:4] - patching.by_head(plain, TARGET, SOURCE, DIFFERENCE, **quiet)["difference"]).any()


def test_an_experiment_runs_with_hardly_any_memory(plain, monkeypatch):
    expected = patching.by_head(plain, TARGET, SOURCE, DIFFERENCE, **quiet)["difference"]
    monkeypatch.setattr(edits, "free_bytes", lambda device: 0)
    assert_close(patching.by_head(plain, TARGET, SOURCE, DIFFERENCE, **quiet)["difference"], expected)


def test_a_metric_does_not_take_a_labels_place(plain):
    with pytest.raises(ValueError, match="metrics has 'head', which labels an edit, too"):
        patching.by_head(plain, TARGET, SOURCE, {"head": DIFFERENCE["difference"]}, **quiet)


@pytest.mark.parametrize(
    ("make", "kind", "told"),
    [
        (lambda: patching.Edit("ablate", lambda batch: []), TypeError, r"labels='ablate'; allowed: a dict, such as"),
        (lambda: patching.probability(["Paris"]), ValueError, "tokens are words, such as 'Paris'; allowed: token IDs"),
        (
            lambda: hooks.project_out(torch.zeros(1, 1, 4), None, subspace=torch.eye(4)),
            TypeError,
            r"subspace is a Tensor; allowed: a Subspace, such as subspaces.span",
        ),
    ],
    ids=["labels", "words", "vectors"],
)
def test_what_is_easily_mistaken_is_refused_by_name(make, kind, told):
    with pytest.raises(kind, match=told):
        make()
