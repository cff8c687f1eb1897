"""Prompts of any length and their roles, against loops over single prompts that are not padded."""

import copy
import pickle
from functools import cache, partial

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import tiny
from test_patching import MODELS, hooked, made, residual
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformer_lens.model_bridge.sources import build_bridge_from_module
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

import unifylens as ul
from unifylens import patching
from unifylens.corpus.tokenization import PAD_ID
from unifylens.model import HOOKED, shape_of, untrained_like
from unifylens.patching import Prompts, hooks, subspaces
from unifylens.patching.edits import Edit, patch_at, steer_at
from unifylens.pretrained.roles import _end_of_last

quiet = {"progress": False}
LENGTHS = {"target": [3, 5, 4, 5, 2, 3], "source": [4, 5, 4, 2, 6, 3], "other": [2, 6, 3, 3, 3, 5]}
SUBJECT = {"target": [1, 2, 0, 3, 1, 1], "source": [2, 0, 3, 1, 4, 1], "other": [0, 5, 1, 2, 2, 0]}
DUE = torch.tensor([3, 1, 4, 5, 9, 2])
METRIC = {"m": patching.Metric(lambda logits, due: logits.gather(1, due[:, None])[:, 0], DUE)}


def rows_of(side):
    """Prompts as lists; no token pads any of the models."""
    draw = torch.Generator().manual_seed(len(side))
    return [torch.randint(3, 23, (n,), generator=draw).tolist() for n in LENGTHS[side]]


TARGET, SOURCE, OTHER = map(rows_of, LENGTHS)


def with_roles(side):
    return Prompts(rows_of(side), {"subject": SUBJECT[side]})


def padded(rows, side, pad, more=0):
    width = max(map(len, rows)) + more
    filled = [[pad] * (width - len(row)) for row in rows]
    return torch.tensor([f + row if side == "left" else row + f for f, row in zip(filled, rows, strict=True)])


@cache
def model_of(kind):
    return made(kind)


@cache
def activation(model, name, row):
    """What stands at a hook while a prompt is run alone."""
    return model.run_with_cache(torch.tensor([row]), names_filter=name)[1][name]


KINDS = pytest.mark.parametrize("kind", ["plain", "rotary", "native", "gpt2", "gemma2"])


@torch.no_grad()
def by_hand(model, name, where=None, sources=(SOURCE,), target=TARGET):
    """Mean logit of the due token, with places `where(row, side)` of each prompt from the sources' mean."""
    due = []
    for i, row in enumerate(target):
        caches = [activation(model, name, tuple(rows[i])) for rows in sources]

        def put(x, hook, caches=caches, i=i):
            x = x.clone()
            x[:, where(i, "target")] = sum(c[:, where(i, s)] for c, s in zip(caches, ("source", "other"), strict=False))
            x[:, where(i, "target")] /= len(caches)
            return x

        fwd_hooks = [] if where is None else [(name, put)]
        due.append(float(model.run_with_hooks(torch.tensor([row]), fwd_hooks=fwd_hooks)[0, -1, DUE[i]]))
    return np.mean(due)


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


# --- the same numbers as prompts alone ------------------------------------------------------------------------


@KINDS
@torch.no_grad()
def test_rows_of_any_length_are_run_as_if_alone(kind):
    model = model_of(kind)
    alone = [model.run_with_cache(torch.tensor([row])) for row in TARGET]
    for given in (TARGET, [torch.tensor(row) for row in TARGET], [np.array(row) for row in TARGET], Prompts(TARGET)):
        logits, states = patching.run_prompts(model, given)
        close(patching.last_logits(model, given), [out[0, -1] for out, _ in alone])
        close(logits, [out[0, -1] for out, _ in alone])
        for layer in range(3):
            close(states[layer], [cache[residual(layer)][0, -1] for _, cache in alone])
    at, last = torch.tensor(SUBJECT["target"]), torch.tensor(SUBJECT["target"]).sub(1).clamp(0)
    for position, answered in ((at, last), ("subject", last)):
        logits, states = patching.run_prompts(model, with_roles("target"), position, answered)
        close(logits, [out[0, i] for (out, _), i in zip(alone, last, strict=True)])
        close(states[1], [cache[residual(1)][0, i] for (_, cache), i in zip(alone, at, strict=True)])
    unedited = patching.experiment(model, TARGET, patching.UNEDITED, METRIC, batch_size=1, **quiet)["m"]
    close(unedited, by_hand(model, residual(0)))


@KINDS
def test_positions_from_the_end_need_no_equal_lengths(kind):
    model = model_of(kind)
    one = [by_hand(model, residual(layer), lambda i, s, p=p: p) for layer in range(3) for p in (-1, -2)]
    both = [by_hand(model, residual(layer), lambda i, s: -1, (SOURCE, OTHER)) for layer in range(3)]
    for size in (None, 1):
        by_layer = partial(patching.by_layer_and_position, model, TARGET, metrics=METRIC, batch_size=size, **quiet)
        table = by_layer(source=SOURCE, positions=[-1, -2])
        assert list(zip(table["layer"], table["position"], strict=True)) == [(n, p) for n in range(3) for p in (-1, -2)]
        close(table["m"], one)
        close(by_layer(source=[SOURCE, OTHER], positions=-1)["m"], both)


@KINDS
@pytest.mark.parametrize("several", [False, True])
def test_roles_are_patched_where_they_stand(kind, several):
    model = model_of(kind)
    source = [with_roles("source"), with_roles("other")] if several else with_roles("source")
    rows = (SOURCE, OTHER) if several else (SOURCE,)
    table = patching.by_layer_and_role(model, with_roles("target"), source, METRIC, batch_size=2, **quiet)
    assert list(table) == ["layer", "role", "m"] and table["role"].tolist() == ["subject", "last"] * 3

    def where(role):
        return lambda i, side: SUBJECT[side][i] if role == "subject" else -1

    close(table["m"], [by_hand(model, residual(r.layer), where(r.role), rows) for r in table.itertuples()])
    some = patching.by_layer_and_role(
        model, with_roles("target"), source, METRIC, roles="subject", layers=[2, 0], **quiet
    )
    close(some["m"], [table["m"][4], table["m"][0]])


@pytest.mark.parametrize("kind", ["plain", "gpt2"])
def test_every_experiment_takes_roles(kind):
    model, sides = model_of(kind), (with_roles("target"), with_roles("source"))
    at = partial(lambda i, side: SUBJECT[side][i])
    heads = patching.by_head(model, *sides, METRIC, role="subject", **quiet)

    def by_head(row):
        z = f"blocks.{row.block}.attn.hook_z"

        def where(i, side):
            return (SUBJECT[side][i], row.head)

        return sum_over_rows(model, z, where)

    close(heads["m"], [by_head(row) for row in heads.itertuples()])
    parts = patching.by_component(model, *sides, METRIC, role="subject", **quiet)
    names = {"attention": "attn", "MLP": "mlp"}
    close(
        parts["m"],
        [by_hand(model, f"blocks.{r.block}.hook_{names[r.component]}_out", at) for r in parts.itertuples()],
    )
    whole = {"a": {0: range(32)}}
    neurons = patching.by_neurons(model, *sides, METRIC, groups=whole, role="subject", **quiet)
    close(neurons["m"], by_hand(model, "blocks.0.mlp.hook_post", at))


@torch.no_grad()
def sum_over_rows(model, name, where):
    """As `by_hand`, with any index of one prompt's activation."""
    due = []
    for i, row in enumerate(TARGET):
        source = activation(model, name, tuple(SOURCE[i]))

        def put(x, hook, source=source, i=i):
            x = x.clone()
            x[(0, *where(i, "target"))] = source[(0, *where(i, "source"))]
            return x

        due.append(float(model.run_with_hooks(torch.tensor([row]), fwd_hooks=[(name, put)])[0, -1, DUE[i]]))
    return np.mean(due)


@pytest.mark.parametrize("kind", ["plain", "gpt2"])
@pytest.mark.parametrize("where", [{"role": "subject"}, {"position": -1}], ids=str)
def test_paths_of_unequal_prompts_are_those_of_each_alone(kind, where):
    model, rows = model_of(kind), [1, 3, 4]  # the subject of the last is its last token
    sides = with_roles("target")[rows], with_roles("source")[rows]
    metric = {"m": patching.Metric(METRIC["m"].value, DUE[rows])}
    table = patching.by_path(model, *sides, metric, receivers=["L1H0", "MLP1", "logits"], **where, **quiet)
    alone = []
    for i in rows:
        metric = {"m": patching.Metric(METRIC["m"].value, DUE[i : i + 1])}
        part = [with_roles(side)[i] for side in ("target", "source")]
        alone.append(
            patching.by_path(model, *part, metric, receivers=["L1H0", "MLP1", "logits"], **where, **quiet)["m"]
        )
    close(table["m"], np.mean(alone, 0))
    assert table["m"].nunique() > 5


@KINDS
@torch.no_grad()
def test_a_vector_is_added_where_a_role_stands(kind):
    model, vectors = model_of(kind), torch.randn(6, 16, generator=torch.Generator().manual_seed(0))
    edit = steer_at(residual(1), {}, vectors, role="subject")
    found = patching.experiment(model, with_roles("target"), edit, METRIC, **quiet)["m"]
    due = []
    for i, row in enumerate(TARGET):
        steer = partial(hooks.steer, vector=vectors[i], positions=SUBJECT["target"][i])
        due.append(float(model.run_with_hooks(torch.tensor([row]), fwd_hooks=[(residual(1), steer)])[0, -1, DUE[i]]))
    close(found, np.mean(due))
    same = Edit(
        {},
        lambda batch: [
            (residual(1), partial(hooks.steer, vector=vectors[batch.rows], positions=batch.prompts.at("subject")))
        ],
    )
    close(patching.experiment(model, with_roles("target"), same, METRIC, **quiet)["m"], found)


# --- padding --------------------------------------------------------------------------------------------------

NAMED = [kind for kind in ("plain", "rotary", "gemma2")]  # which say what pads


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", NAMED)
@torch.no_grad()
def test_what_a_model_says_pads_is_taken_off(kind, side):
    model = model_of(kind)
    target, source = padded(TARGET, side, 0, more=1), padded(SOURCE, side, 0)
    close(patching.last_logits(model, target), patching.last_logits(model, TARGET))
    for found, expected in zip(
        patching.run_prompts(model, target)[1], patching.run_prompts(model, TARGET)[1], strict=True
    ):
        close(found, expected)
    by_layer = partial(patching.by_layer_and_position, model, metrics=METRIC, positions=[-1, -2], **quiet)
    pd.testing.assert_frame_equal(by_layer(target, source=source), by_layer(TARGET, source=SOURCE))
    own = torch.tensor(SUBJECT["target"])
    shift = (target.shape[1] - torch.tensor(LENGTHS["target"])) * (side == "left")
    states = patching.run_prompts(model, target, own + shift)[1]
    close(states[1], patching.run_prompts(model, TARGET, own)[1][1])


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", ["native", "gpt2"])
def test_padding_is_named_where_a_model_does_not_say(kind, side):
    model = model_of(kind)
    table = padded(TARGET, side, 2)
    mask = (table != 2).long()
    expected = patching.last_logits(model, TARGET).detach()
    for prompts in (Prompts(table, pad=2), Prompts(table, mask=mask), Prompts(table.tolist(), mask=mask.tolist())):
        assert prompts.tolist() == TARGET
        close(patching.last_logits(model, prompts).detach(), expected)


@pytest.mark.parametrize("side", ["left", "right"])
def test_roles_and_masks_stand_in_what_was_handed_over(side):
    shift = {
        name: np.array([max(LENGTHS[name]) - n for n in LENGTHS[name]]) * (side == "left")
        for name in ("target", "source")
    }
    model = model_of("plain")
    target, source = (
        Prompts(padded(rows_of(name), side, 2), {"subject": SUBJECT[name] + shift[name]}, pad=2) for name in shift
    )
    assert target.roles["subject"].tolist() == SUBJECT["target"]
    expected = patching.by_layer_and_role(model, with_roles("target"), with_roles("source"), METRIC, **quiet)
    pd.testing.assert_frame_equal(patching.by_layer_and_role(model, target, source, METRIC, **quiet), expected)
    # a mask that is true at each subject of the target, wherever padding put it
    table = padded(TARGET, side, 0)
    mask = torch.arange(table.shape[1]) == torch.as_tensor(SUBJECT["target"] + shift["target"])[:, None]
    vector = torch.ones(16)
    by_mask, by_role = (
        patching.experiment(model, prompts, steer_at(residual(1), {}, vector, **where), METRIC, **quiet)
        for prompts, where in ((table, {"positions": mask}), (with_roles("target"), {"role": "subject"}))
    )
    pd.testing.assert_frame_equal(by_mask, by_role)


def test_a_mask_names_the_same_columns_of_target_and_source():
    """Rows padded on the left by different amounts: the last two columns are each prompt's last two tokens."""
    model, table = model_of("rotary"), padded(TARGET, "left", 0, more=1)
    source = padded(SOURCE, "left", 0)
    assert table.shape == source.shape
    mask = torch.zeros(table.shape, dtype=torch.bool)
    mask[:, -2:] = True
    by_mask = patching.by_head(model, table, source, METRIC, positions=mask, **quiet)
    pd.testing.assert_frame_equal(by_mask, patching.by_head(model, TARGET, SOURCE, METRIC, positions=[-1, -2], **quiet))
    mask[3, 1] = True  # of the target's row it is a token, of the source's padding
    with pytest.raises(ValueError, match="the mask of positions has others in row 3 of source 0 than of target"):
        patching.by_head(model, table, source, METRIC, positions=mask, **quiet)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """Tiny random models from folders, by family: Llama's has a token that pads, GPT-2's one for everything."""
    raw, models = Tokenizer(WordLevel({f"w{i}": i for i in range(23)}, unk_token="w3")), {}
    for family, sizes, special in (
        ("llama", {"num_key_value_heads": 1, "intermediate_size": 32}, {"pad_token": "w0", "bos_token": "w1"}),
        ("gpt2", {}, {"bos_token": "w2"}),
    ):
        folder = tmp_path_factory.mktemp(family)
        PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="w2", **special).save_pretrained(folder)
        sizes |= {"vocab_size": 23, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
        torch.manual_seed(0)
        config = AutoConfig.for_model(family, bos_token_id=1, eos_token_id=2, initializer_range=0.5, **sizes)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        models[family] = ul.pretrained.load(folder).model
    return models


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@torch.no_grad()
def test_loaded_models_say_what_they_say_to_prompts_alone(loaded, family):
    model = loaded[family]
    alone = torch.stack([model.original_model(torch.tensor([row])).logits[0, -1] for row in TARGET])
    close(patching.last_logits(model, TARGET), alone)
    close(patching.run_prompts(model, Prompts(TARGET))[0], alone)
    for side, verb in (("left", "begin"), ("right", "end")):
        pad = {"llama": 0, "gpt2": 2}[family]
        table = padded(TARGET, side, pad)
        if family == "gpt2":  # where one token pads, begins and ends texts
            told = rf"rows of target {verb} with different numbers of token 2 \(row 0 with 2, row 1 with 0\), .*mask="
            with pytest.raises(ValueError, match=told):
                patching.by_head(model, table, SOURCE, METRIC, positions=-1, **quiet)
            table = Prompts(table, pad=2)
        close(patching.last_logits(model, table), alone)
        found = patching.by_layer_and_position(
            model, table, padded(SOURCE, side, 0) if family == "llama" else SOURCE, METRIC, positions=-1, **quiet
        )
        close(found["m"], [by_hand(model, residual(layer), lambda i, s: -1) for layer in range(3)])


def test_a_token_that_all_rows_begin_with_is_no_padding(loaded):
    model, begun = loaded["gpt2"], [[2, *row] for row in TARGET]
    table = torch.tensor([row for row in begun if len(row) == 6])
    assert torch.equal(patching.last_logits(model, table), patching.last_logits(model, Prompts(table)))
    mask = padded([[1] * len(row) for row in begun], "right", 0)
    assert Prompts(padded(begun, "right", 2), mask=mask).tolist() == begun


@pytest.mark.skipif(not HOOKED, reason="HookedTransformer is TransformerLens 3's")
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_hooked_transformer_is_padded_as_its_tokenizer_says(side):
    model, raw = made("plain"), Tokenizer(WordLevel({f"w{i}": i for i in range(23)}, unk_token="w3"))
    expected = patching.last_logits(model, TARGET).detach()
    model.tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="w2", bos_token="w1", padding_side=side)
    close(patching.last_logits(model, padded(TARGET, side, 2)).detach(), expected)
    model.tokenizer.bos_token = "w2"
    with pytest.raises(ValueError, match=r"rows of prompts (begin|end) with different numbers of token 2"):
        patching.last_logits(model, padded(TARGET, side, 2))


def test_models_of_the_dish_say_what_pads_and_keep_their_weights():
    model = hooked()
    assert model.cfg.pad_token_id == PAD_ID == untrained_like(model).cfg.pad_token_id
    assert shape_of(ul.ModelConfig(), 10, 5).pad_token_id == PAD_ID


def test_prompts_of_words_with_several_tokens_are_read_at_their_last(empty_store):
    corpus = ul.Corpus.build(tiny(**{"tokenizer.scheme": "bpe", "tokenizer.vocab_size": 60}))
    model = ul.build_model(tiny().model, corpus.d_vocab, corpus.n_ctx)
    table, last = corpus.prompts(), torch.from_numpy(corpus.positions("answer"))
    assert last.unique().numel() > 2 and (table[:, -1] == PAD_ID).any()
    expected = torch.stack([model(table[i : i + 1, : last[i] + 1])[0, -1] for i in range(len(table))]).detach()
    close(patching.last_logits(model, table).detach(), expected)
    close(patching.run_prompts(model, table)[0], expected)
    with torch.no_grad():  # read where the corpus says, right padding changes nothing
        assert torch.equal(
            ul.states(model, corpus, range(5))[2, 0],
            model.run_with_cache(corpus.prompts(corpus.rows(range(5))))[1][residual(2)][
                torch.arange(10), last[corpus.rows(range(5))]
            ][:5],
        )


# --- the dish's roles -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["word", "bpe"])
def test_the_dishes_roles_are_its_slots(scheme):
    corpus = ul.Corpus.build(
        tiny(**{"tokenizer.scheme": scheme, "tokenizer.vocab_size": 60 if scheme == "bpe" else None})
    )
    rows = [0, 9, 80, 143]
    prompts = ul.crosslingual.prompts(corpus, rows)
    assert list(prompts.roles) == [*corpus.slots, "last"]
    for i, row in enumerate(rows):
        assert prompts.tolist()[i] == corpus.sequences[0, row, : corpus.positions("answer")[row] + 1].tolist()
        for slot in corpus.slots:
            assert prompts.roles[slot][i] == corpus.positions(slot)[row]
    assert len(ul.crosslingual.prompts(corpus)) == corpus.n_rows
    with pytest.raises(ValueError, match="rows=144: the corpus has 144"):
        ul.crosslingual.prompts(corpus, [144])


def test_pairs_have_roles(trained):
    pairs = ul.interchange.pairs(trained.corpus, n_pairs=6)
    target, source = pairs.with_roles()
    assert torch.equal(target.tokens, pairs.target) and torch.equal(source.tokens, pairs.source)
    table = patching.by_layer_and_role(trained.model, target, source, pairs.probabilities(), **quiet)
    places = {role: int(target.roles[role][0]) for role in ("subject", "relation", "answer")}
    by_place = patching.by_layer_and_position(trained.model, pairs.target, pairs.source, pairs.probabilities(), **quiet)
    for row in table.itertuples():
        same = by_place[(by_place["layer"] == row.layer) & (by_place["position"] == places[row.role])]
        assert same.iloc[0, 2:].tolist() == list(row[3:])


# --- refusals ---------------------------------------------------------------------------------------------------

LATE = Prompts(SOURCE, {"subject": [2, 0, -1, 1, 4, 1]})
RENAMED = Prompts(SOURCE, {"subj": SUBJECT["source"]})


def by_role(target, source, **options):
    return lambda m: patching.by_layer_and_role(m, target, source, METRIC, **options, **quiet)


def by_head(target, source, **options):
    return lambda m: patching.by_head(m, target, source, METRIC, **options, **quiet)


def by_position(target, source, **options):
    return lambda m: patching.by_layer_and_position(m, target, source, METRIC, **options, **quiet)


BAD = {
    "empty row": (lambda m: Prompts([[1, 2], []]), ["row 1 of prompts is empty"]),
    "no rows": (lambda m: Prompts([]), ["it must be token IDs"]),
    "half tokens": (lambda m: Prompts([[1, 2], [0.5]]), ["row 1 of prompts is torch.float64"]),
    "texts": (lambda m: Prompts(["a b", "c"]), ["hold no numbers", 'tokenizer(texts)["input_ids"]']),
    "nothing": (lambda m: Prompts(None), ["hold no numbers"]),
    "prompts of prompts": (lambda m: Prompts(LATE), ["are Prompts already"]),
    "only padding": (lambda m: Prompts([[1, 2], [0, 0]], pad=0), ["row 1 of prompts is nothing but padding (token 0)"]),
    "padding inside": (
        lambda m: Prompts([[0, 1, 2], [1, 0, 2]], pad=0),
        ["row 1 of prompts has padding (token 0)", "between its tokens"],
    ),
    "padding inside a table": (
        lambda m: patching.last_logits(m, [[1, 0, 2]]),
        ["row 0 of prompts has padding (token 0; if it is none here, hand over Prompts(...))", "at its ends"],
    ),
    "pad and mask": (lambda m: Prompts([[1, 2]], pad=0, mask=[[1, 1]]), ["pad=0 and a mask", "one of them"]),
    "a text for pad": (lambda m: Prompts([[1, 2]], pad="<pad>"), ["pad='<pad>'", "a whole number"]),
    "mask of another shape": (lambda m: Prompts([[1, 2]], mask=[[1]]), ["mask is", "of shape [1, 2]"]),
    "mask of unequal rows": (
        lambda m: Prompts([[1, 2], [3]], mask=[[1, 1], [1]]),
        ["mask of type list holds no numbers"],
    ),
    "a text for a mask": (lambda m: Prompts([[1, 2]], mask="ab"), ["mask of type str", "of shape [1, 2]"]),
    "texts for a mask": (lambda m: Prompts([[1, 2]], mask=["a b"]), ["mask of type list", "of shape [1, 2]"]),
    "a dict of sources": (
        by_head(TARGET, {"de": SOURCE, "en": OTHER}, positions=-1),
        ["source is a dict of de, en", "list(sources.values())"],
    ),
    "no source at all": (by_head(TARGET, 5, positions=-1), ["source 0"]),
    "role and position of a path": (
        lambda m: patching.by_path(
            m, with_roles("target"), with_roles("source"), METRIC, role="subject", position=0, **quiet
        ),
        ["role='subject' and position=0 are given"],
    ),
    "mask of other numbers": (lambda m: Prompts([[1, 2]], mask=[[1, 5]]), ["mask is", "0 where it pads"]),
    "role beyond": (lambda m: Prompts([[1, 2], [3]], {"x": [1, 1]}), ["role 'x' of row 1 is at 1", "0 to 0, or -1"]),
    "role in the padding": (
        lambda m: Prompts([[0, 1, 2], [1, 2, 3]], {"x": [0, 0]}, pad=0),
        ["role 'x' of row 0 is at 0", "allowed: 1 to 2"],
    ),
    "role from the end": (lambda m: Prompts([[1, 2]], {"x": [-2]}), ["role 'x' of row 0 is at -2"]),
    "role of other rows": (lambda m: Prompts([[1, 2]], {"x": [0, 1]}), ["role 'x' is torch.int64 of shape [2]", "[1]"]),
    "role by halves": (lambda m: Prompts([[1, 2]], {"x": [0.5]}), ["role 'x' is torch.float64"]),
    "another last": (lambda m: Prompts([[1, 2]], {"last": [0]}), ["role 'last' of row 0 is not its last token"]),
    "roles of no name": (lambda m: Prompts([[1, 2]], [0]), ["roles is a list", "by name"]),
    "role as positions": (
        by_head(with_roles("target"), with_roles("source"), positions="subject"),
        ["positions='subject'; allowed: numbers or a mask, or role='subject'"],
    ),
    "role that rows do not have": (lambda m: patching.run_prompts(m, TARGET, "subject"), ["no role 'subject'", "last"]),
    "texts for positions": (lambda m: patching.run_prompts(m, TARGET, ["a"] * 6), ["position is", "6 rows, or a role"]),
    "rows beyond": (lambda m: LATE[7], ["rows=7", "the prompts has 6"]),
    "role that a row lacks": (by_role(with_roles("target"), LATE), ["row 2 of source 0 lacks the role 'subject'"]),
    "role of another name": (by_role(with_roles("target"), RENAMED), ["source 0 has no role 'subject'", "subj, last"]),
    "role of one of two": (by_role(with_roles("target"), [with_roles("source"), LATE]), ["row 2 of source 1 lacks"]),
    "role unknown": (by_head(with_roles("target"), with_roles("source"), role="verb"), ["target has no role 'verb'"]),
    "roles of plain rows": (by_role(TARGET, SOURCE), ["target has no role but 'last'", "Prompts(tokens, roles="]),
    "role and positions": (
        by_head(with_roles("target"), with_roles("source"), role="subject", positions=-1),
        ["role='subject' and positions are given"],
    ),
    "all positions": (by_position(TARGET, SOURCE), ["lengths [2, 3, 4, 5, 6]", "positions=[-1]", "by_layer_and_role"]),
    "all positions of heads": (by_head(TARGET, SOURCE), ["source 0 have 4 positions, these 3 (row 0)", "positions=-1"]),
    "position that a row lacks": (
        by_head(TARGET, SOURCE, positions=[-3]),
        ["positions=-3", "shortest prompt of target has 2"],
    ),
    "position that a source lacks": (
        by_head([[3, 4, *row] for row in TARGET], SOURCE, positions=[3]),
        ["positions=3", "shortest prompt of source 0 has 2"],
    ),
    "mean at positions from the start": (
        by_head(TARGET, [SOURCE, OTHER], positions=[0, -1]),
        ["the sources' prompts of row 0 have lengths [4, 2]", "positions=[-1], or a role"],
    ),
    "mean in an edit of one's own": (
        lambda m: patching.experiment(
            m, TARGET, Edit({}, lambda batch: [], (residual(1),)), METRIC, source=[SOURCE, OTHER], **quiet
        ),
        ["the sources' prompts of row 0 have lengths [4, 2]"],
    ),
    "position from the start of padded rows": (
        by_head(padded(TARGET, "left", 0), padded(SOURCE, "left", 0), positions=1),
        ["positions=1: target was handed over with padding before its rows", "from the end (-1"],
    ),
    "such a position to read": (
        lambda m: patching.run_prompts(m, padded(TARGET, "left", 0), 1),
        ["position=1", "padding before their rows"],
    ),
    "position in the padding": (
        lambda m: patching.run_prompts(m, padded(TARGET, "left", 0), torch.zeros(6, dtype=torch.long)),
        ["position=0: row 0 has 3 tokens; allowed: 2 to 4"],
    ),
    "position beyond": (lambda m: patching.run_prompts(m, TARGET, -3), ["position=-3: row 4 has 2 tokens", "-2 to -1"]),
    "positions of other rows": (
        lambda m: patching.run_prompts(m, TARGET, -1, torch.tensor([1, 1])),
        ["logits_at is torch.int64 of shape [2]", "6 rows, or a role: last"],
    ),
    "mask of other columns": (
        by_head(TARGET, SOURCE, positions=torch.ones(6, 4) > 0),
        ["mask (torch.bool) of shape [6, 5]"],
    ),
    "mask of rows of another width": (
        by_head(TARGET, SOURCE, positions=torch.ones(6, 5) > 0),
        ["source 0 have 6 positions, these 5", "by role"],
    ),
    "token of another model": (
        lambda m: patching.run_prompts(m, [[1, 2], [23]]),
        ["holds token 23", "vocabulary has 23"],
    ),
    "longer than the context": (
        by_position([*TARGET[:5], range(3, 12)], SOURCE, positions=-1),
        ["row 5 of target has 9 tokens", "n_ctx=8"],
    ),
    "source longer than the context": (
        by_position(TARGET, [*SOURCE[:5], range(3, 12)], positions=-1),
        ["row 5 of source 0 has 9 tokens", "n_ctx=8"],
    ),
}


@pytest.mark.parametrize(("call", "told"), BAD.values(), ids=BAD)
def test_refusals_name_row_and_role(call, told):
    with pytest.raises(ValueError) as error:
        call(model_of("plain"))
    assert not [part for part in told if part not in str(error.value)], error.value


@pytest.mark.parametrize("kind", MODELS)
def test_prompts_beyond_the_context_are_refused_where_positions_end(kind):
    long = torch.arange(3, 12)[None]
    if kind == "gemma2":  # rotary positions of transformers are computed as far as they are asked for
        assert patching.last_logits(model_of(kind), long).shape == (1, 23)
        return
    for run in (patching.last_logits, patching.run_prompts):
        with pytest.raises(ValueError, match="row 0 of prompts has 9 tokens; the model's context is n_ctx=8"):
            run(model_of(kind), long)


def test_prompts_are_shown_and_cut():
    prompts = with_roles("target")
    assert repr(prompts) == "Prompts: 6 rows of 2 to 5 tokens; roles: subject, last" and len(prompts) == 6
    for rows in ([1, 3], slice(1, 4, 2), np.array([False, True, False, True, False, False]), [-5, -3]):
        part = prompts[rows]
        assert part.tolist() == [TARGET[1], TARGET[3]] and part.roles["subject"].tolist() == [2, 3]
    assert prompts[4].tolist() == [TARGET[4]] and prompts[4].roles["last"].tolist() == [1]
    with pytest.raises(AttributeError):
        prompts.width = 3


# --- hooks that never run, and the self-check ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["native", "gpt2", "gemma2"] + ["plain"] * (not HOOKED))
def test_edits_at_hooks_that_never_run_are_refused(kind):
    model = model_of(kind)
    ran = set(model.run_with_cache(torch.tensor([TARGET[0]]))[1])
    for name in sorted(model.hook_dict):
        point = model.hook_dict[name]
        edit = Edit({"edit": 1}, lambda batch, name=name: [(name, lambda x, hook: x)])
        if {name, point.name} & ran:
            continue
        with pytest.raises(
            ValueError, match=r"did nothing, as the model never runs|passes over|reaches the MLP|is False"
        ):
            patching.experiment(model, TARGET[:1], edit, {"m": lambda logits: 0.0}, **quiet)
            pytest.fail(f"{name} did not run and was not refused")


@KINDS
def test_patching_is_exact(kind):
    model = model_of(kind)
    edits = [
        patch_at(residual(1), {}, role="subject"),
        steer_at(residual(2), {}, torch.arange(16.0).sin(), positions=-1),
    ]
    table = patching.selfcheck(model, with_roles("target"), with_roles("source"), edits)
    assert list(table) == ["check", "at", "largest difference"]
    checks = table.groupby("check", sort=False)["at"].agg(list).to_dict()
    assert list(checks.values()) == [[0, 1, 2], [0, 1, 2], [residual(1), residual(2)]]
    assert (table["largest difference"][:6] == 0).all() and (table["largest difference"][6:] > 1e-3).all()
    assert len(patching.selfcheck(model, TARGET)) == 6


def test_a_model_that_answers_otherwise_each_time_fails_the_check():
    model = made("plain")
    model.add_perma_hook("blocks.1.hook_resid_pre", lambda x, hook: x + torch.randn_like(x))
    with pytest.raises(ValueError, match=r"layer 0: own state changes nothing fails by .* \(rounding: "):
        patching.selfcheck(model, TARGET)


def test_a_stream_that_something_passes_by_fails_the_check():
    """What block 1 reads beside the residual stream, as models with an embedding for each layer do."""
    model, beside = made("plain"), {}
    model.add_perma_hook("hook_embed", lambda x, hook: beside.update(x=x.clone()))
    model.add_perma_hook("blocks.1.hook_resid_mid", lambda x, hook: x + beside["x"])
    with pytest.raises(ValueError, match="layer 0: whole state gives the source's answer fails"):
        patching.selfcheck(model, TARGET)


def passed_by(model, share=1.0):
    """A model whose block 1 reads the embedding beside the residual stream."""
    beside = {}
    model.add_perma_hook("hook_embed", lambda x, hook: beside.update(x=x.clone()))
    model.add_perma_hook("blocks.1.hook_resid_mid", lambda x, hook: x + share * beside["x"])
    return model


@pytest.mark.parametrize(
    ("tokens", "source"),
    [
        ([[7], [9]], None),
        ([[7, 7, 7], [5, 9, 5]], None),
        ([[7, 7, 7]], [[7, 7, 7]]),
        (TARGET, TARGET),
        ([[4, 6, 7]], [[4, 6, 8]]),
    ],
    ids=["one token", "palindromes", "equal", "all equal", "equal but for the last"],
)
def test_the_check_finds_prompts_that_tell(tokens, source):
    with pytest.raises(ValueError, match="whole state gives the source's answer fails"):
        patching.selfcheck(passed_by(made("plain")), tokens, source)
    assert (patching.selfcheck(model_of("plain"), tokens, source)["largest difference"] == 0).all()


@torch.no_grad()
def test_one_outlying_logit_hides_nothing():
    for change in (1e5, -torch.inf):
        healthy = made("plain")
        own = dict(healthy.named_parameters())
        bias = next(p for name, p in own.items() if name == "unembed.b_U" or (name.startswith("head") and p.ndim == 1))
        bias[0] = change  # whatever the version of TransformerLens calls it
        assert (patching.selfcheck(healthy, TARGET)["largest difference"] == 0).all()
        with pytest.raises(ValueError, match="whole state gives the source's answer fails"):
            patching.selfcheck(passed_by(healthy, 0.05), TARGET)


def test_half_precision_is_checked_as_well():
    assert (patching.selfcheck(made("plain").to(torch.bfloat16), TARGET)["largest difference"] == 0).all()
    with pytest.raises(ValueError, match="whole state gives the source's answer fails"):
        patching.selfcheck(passed_by(made("plain").to(torch.bfloat16), 0.2), TARGET)


def test_edits_at_roles_are_checked_without_a_source():
    edit = patch_at(residual(1), {}, role="subject")
    table = patching.selfcheck(model_of("plain"), with_roles("target"), edits=edit)
    assert table["at"].tolist()[-1] == residual(1) and (table["largest difference"] == 0).all()


def test_a_model_with_dropout_on_is_refused():
    run = partial(patching.experiment, target=TARGET, edits=patching.UNEDITED, metrics=METRIC, **quiet)
    model = made("gpt2")
    run(model)
    run(model_of("plain").train())  # it has no dropout
    model.train()
    with pytest.raises(
        ValueError, match=r"the model is in training mode with dropout 0\.1 .*; call model\.eval\(\) first"
    ):
        run(model)
    with pytest.raises(ValueError, match="source_model is in training mode"):
        run(model_of("gpt2"), source_model=model, source=SOURCE)


def test_the_check_runs_what_an_edit_hooks():
    idle = Edit({}, lambda batch: [("blocks.0.hook_resid_post", lambda x, hook: x), ("blocks.0.hook_nothing", None)])
    with pytest.raises(ValueError, match=r"no hook 'blocks\.0\.hook_nothing'"):
        patching.selfcheck(model_of("plain"), TARGET, edits=idle)
    if HOOKED:
        with pytest.raises(ValueError, match="while use_attn_result is off"):
            patching.selfcheck(model_of("plain"), TARGET, edits=patch_at("blocks.0.attn.hook_result", {}, positions=-1))
    with pytest.raises(ValueError, match="source 0 has 5 prompts, tokens 6"):
        patching.selfcheck(model_of("plain"), TARGET, SOURCE[:5])


# --- while generating -----------------------------------------------------------------------------------------------


def generated(model, tokens, fwd_hooks, **options):
    with model.hooks(fwd_hooks=fwd_hooks), torch.no_grad():
        return model.generate(tokens, max_new_tokens=3, do_sample=False, stop_at_eos=False, verbose=False, **options)


@torch.no_grad()
def greedy(model, tokens, name, function):
    """Token by token from scratch, with the prompt alone edited."""
    n = tokens.shape[1]

    def edit(x, hook):
        return torch.cat([function(x[:, :n], hook=hook), x[:, n:]], 1)

    for _ in range(3):
        logits = model.run_with_hooks(tokens, fwd_hooks=[(name, edit)])
        tokens = torch.cat([tokens, logits[:, -1:].argmax(-1)], 1)
    return tokens


@pytest.mark.parametrize("kind", ["rotary", "gpt2"])  # TransformerLens 3.9 shifts learned positions behind a cache
def test_a_prompt_is_edited_once_while_generating(kind):
    tokens, name = torch.tensor([TARGET[1], TARGET[3]]), residual(1)
    model = model_of(kind)
    steer = partial(hooks.steer, vector=100 * torch.arange(16.0).sin(), positions=[-1, -2])
    expected = greedy(model, tokens, name, steer)
    assert not torch.equal(expected, greedy(model, tokens, name, lambda x, hook: x))
    for cached in (True, False):
        once = [(name, hooks.on_prompt(steer))]
        assert torch.equal(generated(model, tokens, once, use_past_kv_cache=cached), expected)
    if type(getattr(model, "original_model", None)).__name__ == "NativeModel":  # which has no cache
        return
    with pytest.raises(ValueError, match=r"positions=-2: .* hooks\.on_prompt\(function\) edits the prompt once"):
        generated(model, tokens, [(name, steer)])
    mask = torch.ones(2, 5) > 0
    with pytest.raises(ValueError, match=r"of shape \[2, 1\]\. While a model generates .* hooks\.on_prompt"):
        generated(model, tokens, [(name, partial(hooks.steer, vector=torch.ones(16), positions=mask))])


def test_only_a_prompt_is_edited_whatever_comes_again():
    class At:
        name = "blocks.0.hook_resid_pre"

    calls, draw = [], torch.Generator().manual_seed(0)
    once = hooks.on_prompt(lambda x, hook: calls.append(x.shape[1]) or x + 1)
    new, prompt, other = (torch.randn(2, n, 3, generator=draw) for n in (1, 4, 5))
    assert torch.equal(once(prompt, At), prompt + 1) and torch.equal(once(new, At), new)
    again = torch.cat([prompt, new], 1)
    assert torch.equal(once(again, At), torch.cat([prompt + 1, new], 1))
    assert torch.equal(once(torch.cat([again, new], 1), At), torch.cat([prompt + 1, new, new], 1)) and calls == [4]
    assert torch.equal(once(prompt, At), prompt + 1) and calls == [4]
    for strange in (other, new.repeat(1, 2, 1), again[:, 1:]):  # another prompt, a piece, a cut one
        with pytest.raises(ValueError, match=r"on_prompt at blocks\.0\.hook_resid_pre sees .* do not go on from its"):
            once(strange, At)
    one = hooks.on_prompt(lambda x, hook: x + 1)  # a prompt of one token
    assert torch.equal(one(new, At), new + 1) and torch.equal(one(new, At), new)
    At.name = "blocks.0.attn.hook_pattern"
    with pytest.raises(ValueError, match=r"on_prompt at blocks\.0\.attn\.hook_pattern: allowed are activations by pos"):
        once(torch.rand(2, 4, 3, 3), At)


# --- the source's own positions ---------------------------------------------------------------------------------


def test_the_sources_positions_may_be_others():
    here, there = torch.zeros(2, 4, 3), torch.arange(2 * 5 * 3.0).view(2, 5, 3)

    class At:
        name = "blocks.0.hook_resid_pre"

    patch = partial(hooks.patch, here, At, source=there)
    found = patch(positions=[3, 1], source_positions=[0, -1])
    assert torch.equal(found[:, 3], there[:, 0]) and torch.equal(found[:, 1], there[:, 4])
    assert not found[:, [0, 2]].any()
    mask = torch.tensor([[0, 1, 0, 0], [0, 0, 0, 1]]).bool()
    theirs = torch.tensor([[0, 0, 0, 0, 1], [1, 0, 0, 0, 0]]).bool()
    found = patch(positions=mask, source_positions=theirs)
    assert torch.equal(found[mask], there[theirs]) and found.count_nonzero() == found[mask].count_nonzero()
    assert torch.equal(patch(positions=mask, source_positions=2)[mask], there[:, 2])
    assert torch.equal(patch(positions=-1, source_positions=theirs)[:, -1], there[theirs])
    theirs[1, 1] = True
    with pytest.raises(ValueError, match="source_positions names 2 positions of row 1, positions 1; allowed: as many"):
        patch(positions=mask, source_positions=theirs)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["plain", "gpt2"])
def test_several_sources_are_read_at_their_own_positions(kind):
    model, name = model_of(kind), residual(1)
    found = patching.experiment(
        model,
        TARGET,
        patch_at(name, {}, positions=-1, source_positions=-2),
        METRIC,
        source=[SOURCE, OTHER],
        **quiet,
    )
    close(found["m"], by_hand(model, name, lambda i, s: -1 if s == "target" else -2, (SOURCE, OTHER)))
    one = patching.experiment(
        model, TARGET, patch_at(name, {}, positions=-1, source_positions=0), METRIC, source=SOURCE, **quiet
    )
    close(one["m"], by_hand(model, name, lambda i, s: -1 if s == "target" else 0))


def from_elsewhere(source=SOURCE, **where):
    return lambda m: patching.experiment(
        m, with_roles("target"), patch_at(residual(1), {}, **where), METRIC, source=source, **quiet
    )


ELSEWHERE = {
    "role": ({"role": "subject", "source_positions": 0}, "source_positions are given with role='subject'"),
    "mask": ({"positions": torch.ones(6, 5) > 0, "source_positions": 0}, "source_positions are given with a mask"),
    "a mask of the source": ({"positions": -1, "source_positions": torch.ones(6, 6) > 0}, "are given with a mask"),
    "mean from the start": (
        {"positions": -1, "source_positions": 0, "source": [SOURCE, OTHER]},
        r"the sources' prompts of row 0 have lengths \[4, 2\]",
    ),
    "beyond": ({"positions": -1, "source_positions": 2}, "source_positions=2: the shortest prompt of source 0 has 2"),
    "padded": (
        {"positions": -1, "source_positions": 0, "source": padded(SOURCE, "left", 0)},
        "source_positions=0: source 0 was handed over with padding",
    ),
    "more": ({"positions": -1, "source_positions": [-1, -2]}, "source_positions names 2 positions, positions 1"),
    "all": ({"source_positions": [-1, -2]}, "names 2 positions, positions all of prompts of unequal length"),
}


@pytest.mark.parametrize(("where", "told"), ELSEWHERE.values(), ids=ELSEWHERE)
def test_the_sources_own_positions_are_numbers_that_all_have(where, told):
    with pytest.raises(ValueError, match=told):
        from_elsewhere(**where)(model_of("plain"))


# --- what is handed over ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "uint16", "int32", "uint32", "uint64"])
def test_tokens_of_any_whole_type_are_taken(dtype):
    table = [row for row in TARGET if len(row) == 3]
    expected = patching.last_logits(model_of("plain"), table)
    for given in (np.array(table).astype(dtype), torch.tensor(table).to(getattr(torch, dtype))):
        assert torch.equal(patching.last_logits(model_of("plain"), given), expected)
        assert Prompts(given).tokens.dtype == torch.long
        assert patching.last_logits(model_of("gpt2"), given).shape == (2, 23)


def test_prompts_keep_what_they_were_given():
    table = torch.tensor([[5, 6, 7], [8, 9, 10]])
    prompts = Prompts(table, {"subject": [1, 1]})
    table[0, 0] = 11
    assert prompts.tolist() == [[5, 6, 7], [8, 9, 10]]
    for each in (prompts, prompts[:1], pickle.loads(pickle.dumps(prompts)), copy.deepcopy(prompts)):
        with pytest.raises(TypeError):
            each.roles["subject"] = torch.tensor([7])
        assert each.tolist()[0] == [5, 6, 7] and each.roles["subject"][0] == 1 and each.length == 3


def test_several_sources_of_pandas_are_several():
    several = [pd.Series(SOURCE), pd.Series(OTHER)]
    tables = [
        patching.by_head(model_of("plain"), pd.Series(TARGET), source, METRIC, positions=-1, **quiet)
        for source in (several, [SOURCE, OTHER])
    ]
    pd.testing.assert_frame_equal(*tables)
    one = [[pd.Series(row) for row in SOURCE], pd.Series(SOURCE), SOURCE]
    tables = [patching.by_head(model_of("plain"), TARGET, source, METRIC, positions=-1, **quiet) for source in one]
    pd.testing.assert_frame_equal(tables[0], tables[2])
    pd.testing.assert_frame_equal(tables[1], tables[2])


def test_a_token_that_is_also_unknown_is_never_taken_off():
    model, raw = made("gpt2"), Tokenizer(WordLevel({f"w{i}": i for i in range(23)}, unk_token="w3"))
    for special in ({"unk_token": "w3"}, {"cls_token": "w3"}, {"sep_token": "w3"}, {"eos_token": "w3"}):
        model.tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="w3", **special)
        for rows, way in (
            ([[1, 5, 6, 3], [1, 5, 6, 7]], "table"),
            ([[1, 5, 6, 3], [1, 5, 6]], "rows"),
        ):
            with pytest.raises(ValueError, match=rf"rows of prompts end with different .* Prompts\({way}\) where none"):
                patching.last_logits(model, rows)
            logits = patching.last_logits(model, Prompts(rows))
            close(logits[0].detach(), model(torch.tensor([[1, 5, 6, 3]]))[0, -1].detach())
        with pytest.raises(ValueError, match=r"rows of prompts begin with different .* \(row 0 with 1, row 1 with 0\)"):
            patching.last_logits(model, [[3, 5, 6], [5, 6, 7, 8]])
        rows = [[3, 5, 6, 3], [3, 7, 3]]
        assert torch.equal(patching.last_logits(model, rows), patching.last_logits(model, Prompts(rows)))


def test_all_positions_of_padded_rows_count_in_the_prompts():
    rows = [row for row in TARGET if len(row) == 5], [row for row in SOURCE if len(row) == 5]
    rows = [[each[0], each[0][::-1]] for each in rows]
    metric = {"m": lambda logits: float(logits[:, 4].mean())}
    exact, found = (
        patching.by_layer_and_position(model_of("plain"), *tables, metric, **quiet)
        for tables in (rows, [padded(each, "left", 0, more=2) for each in rows])
    )
    pd.testing.assert_frame_equal(found, exact)
    assert found["position"].tolist() == [0, 1, 2, 3, 4] * 3


@torch.no_grad()
def test_neurons_are_as_many_as_run():
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "opt",
        vocab_size=23,
        max_position_embeddings=8,
        hidden_size=16,
        ffn_dim=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        word_embed_proj_dim=16,
        attn_implementation="eager",
    )
    model = build_bridge_from_module(
        AutoModelForCausalLM.from_config(config).eval(), "OPTForCausalLM", hf_config=config
    )
    groups = {"all": {1: range(32)}}
    found = patching.by_neurons(model, TARGET, SOURCE, METRIC, groups=groups, positions=-1, **quiet)["m"]
    close(found, by_hand(model, "blocks.1.mlp.hook_post", lambda i, s: -1))
    with pytest.raises(ValueError, match="allowed are different numbers from 0 to 31"):
        patching.by_neurons(model, TARGET, SOURCE, METRIC, groups={"x": {1: [40]}}, positions=-1, **quiet)
    with pytest.raises(ValueError, match=r"no hook 'blocks\.7\.mlp"):
        patching.by_neurons(model, TARGET, SOURCE, METRIC, groups={"x": {7: [4]}}, positions=-1, **quiet)


@pytest.mark.parametrize(
    ("subject", "prompt", "end"),
    [
        ("東京", "東京 は日本の都市です。\n東京の国は", 15),
        ("ไทย", "ไทย: เมืองหลวงของไทยคือ", 20),
        ("भारत", "भारत की राजधानी: भारतीय लोग कहते हैं", 4),
        ("राम", "राम का देश? रामायण में लिखा", 3),
        ("राम", "रामायण", 3),
        ("Oslo", "Osloの国、Osloは", 11),
        ("India", "India: the Indian capital is", 5),
        ("Ankara", "Ankara is in Turkey.\nAnkara'nın ülkesi", 27),
        ("e", "e e\u0301", 1),
        ("Oslo", "Oslon maa", 4),
        ("aa", "xaaa", 4),
        ("Rom", "Paris", None),
        ("", "Paris", None),
    ],
)
def test_a_subject_ends_where_its_last_mention_as_a_word_does(subject, prompt, end):
    assert _end_of_last(subject, prompt) == end


# --- behind the unembedding, and in the padding -------------------------------------------------------------------


@KINDS
@torch.no_grad()
def test_edits_behind_the_unembedding_count_in_all_positions(kind):
    model, target = model_of(kind), [row * 2 for row in TARGET[4:5]]
    names = [name for name in ("unembed.hook_out", "hook_unembed") if name in model.hook_dict]
    assert names
    for name in names:
        for position, changed in ((0, False), (-1, True), (3, True), (2, False)):
            edit = steer_at(name, {}, torch.arange(23.0), positions=position)
            here, plain = (
                patching.experiment(model, target, each, {"m": lambda x: float(x[0, 5])}, **quiet)["m"][0]
                for each in (edit, patching.UNEDITED)
            )
            assert here - plain == pytest.approx(5.0 * changed, abs=0.1), (name, position)


def test_a_mask_of_nothing_but_padding_is_refused():
    wide = padded(TARGET, "left", 0, more=1)
    mask = torch.zeros(wide.shape, dtype=torch.bool)
    mask[3, -1] = mask[2, 0] = True
    edit = steer_at(residual(1), {}, torch.ones(16), positions=mask)
    with pytest.raises(ValueError, match="the mask of positions names nothing but padding in row 2 of target"):
        patching.experiment(model_of("plain"), wide, edit, METRIC, **quiet)
    mask[2, -1] = True
    edit = steer_at(residual(1), {}, torch.ones(16), positions=mask)
    patching.experiment(model_of("plain"), wide, edit, METRIC, **quiet)


def test_one_edit_of_a_prompt_may_stand_at_several_hooks():
    model, tokens = model_of("rotary"), torch.tensor([TARGET[1], TARGET[3]])
    steer = partial(hooks.steer, vector=100 * torch.arange(16.0).sin(), positions=-1)
    names = residual(0), residual(1)
    for cached in (True, False):
        shared = hooks.on_prompt(steer)
        apart = [(name, hooks.on_prompt(steer)) for name in names]
        expected = generated(model, tokens, apart, use_past_kv_cache=cached)
        together = generated(model, tokens, [(name, shared) for name in names], use_past_kv_cache=cached)
        assert torch.equal(together, expected)


# --- half precision ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_single(dtype):
    draw = torch.Generator().manual_seed(0)
    states = torch.ones(2, 3000, 4, dtype=dtype)
    means = subspaces.group_means(states, torch.zeros(3000, dtype=torch.long))
    assert means.dtype == torch.float32 and torch.equal(means, torch.ones(2, 1, 4))
    noise = torch.randn(2, 3000, 4, generator=draw).to(dtype)
    group = torch.randint(0, 3, (3000,), generator=draw)
    assert torch.equal(subspaces.group_means(noise, group), subspaces.group_means(noise.float(), group))
    differences = [subspaces.group_differences(x, group, group * 0) for x in (noise, noise.float())]
    assert torch.equal(*differences)
    plane, wide = subspaces.random(512, 200), torch.randn(3, 5, 512, generator=draw).to(dtype)
    exact = plane.project(wide.double())
    torch.testing.assert_close(plane.project(wide), exact.to(dtype), rtol=torch.finfo(dtype).eps, atol=1e-6)
    lengths = [x.double().norm(dim=-1) for x in (wide, subspaces.random_like(wide))]
    torch.testing.assert_close(*lengths, rtol=torch.finfo(dtype).eps / 4, atol=0)
    caches = [{"x": torch.full((1,), x, dtype=dtype)} for x in (1.0, *[0.002] * 99)]
    mean = hooks.mean_cache(caches)["x"]
    assert mean.dtype == dtype and float(mean) == pytest.approx(0.01198, rel=torch.finfo(dtype).eps)

    class At:
        name = "x"

    vector = torch.randn(512, generator=draw)
    for edit, due in (
        (partial(hooks.steer, vector=vector), wide.double() + vector.double()),
        (partial(hooks.project_out, subspace=plane), wide.double() - exact),
        (
            partial(hooks.patch, source=wide.flip(0), subspace=plane),
            wide.double() + plane.project(wide.flip(0).double() - wide.double()),
        ),
    ):
        found = edit(wide, At)
        assert found.dtype == dtype
        assert float((found.double() - due).abs().max()) <= torch.finfo(dtype).eps * float(due.abs().max())
    logits = 20 * torch.randn(50, 3000, generator=draw).to(dtype)
    for metric in (patching.probability(logits.argmax(-1)), patching.logit_difference([1] * 50, [2] * 50)):
        assert metric(logits) == pytest.approx(metric(logits.double()), rel=1e-4)
    scores = ul.measures.unification(noise[0], noise[1]), ul.measures.unification(noise[0].double(), noise[1].double())
    assert scores[0] == scores[1]
