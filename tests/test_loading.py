"""Folders as people have them: a whole model loads and is where it should be, anything else is one sentence."""

import json
import shutil
import sys
from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest
import safetensors.torch
import torch
from families import VARIANTS, save, words

from unifylens.corpus import factsets
from unifylens.pretrained import asking, folders, selfcheck
from unifylens.pretrained import models as pretrained

PROMPTS = ("of a is b of c is", "is it of d e is")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return save("Llama", words(), tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture
def folder(whole, tmp_path):
    """A copy to be damaged."""
    return shutil.copytree(whole, tmp_path / "tiny")


@pytest.fixture(scope="module")
def loaded(whole):
    return pretrained.load(whole)


@pytest.fixture(scope="module")
def facts():
    rows = [
        {
            "language": language,
            "relation": "of",
            "fact": f"of {i}",
            "subject": f"s{i}",
            "answer": "ab"[i],
            "prompt": prompt,
            "alternatives": ["c", "d e"],
        }
        for language in ("en", "de")
        for i, prompt in enumerate(PROMPTS)
    ]
    return factsets.check(pd.DataFrame(rows))


# --- devices -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "device", ["gpu", "nonsense", "meta", "cuda:99", "mps", "", None, True, 1.5, torch.device("meta")]
)
def test_a_device_that_is_not_there_is_refused_before_weights_are_read(device, whole, monkeypatch):
    if device == "mps" and torch.backends.mps.is_available():
        pytest.skip("it is there")
    monkeypatch.setattr(folders, "examine", lambda folder: pytest.fail("the folder was looked at"))
    with pytest.raises(ValueError, match=r"device=.* is no device of this machine; allowed: cpu"):
        pretrained.load(whole, device=device)


def test_a_model_is_on_its_device(whole, loaded, monkeypatch):
    """The bridge leaves a model where it is; `meta` stands for another device, on which nothing can be compared."""
    assert loaded.device == torch.device("cpu") and str(loaded.model.cfg.device) == "cpu"
    meta = torch.device("meta")
    monkeypatch.setattr(pretrained, "_device", lambda device: meta)
    monkeypatch.setattr(pretrained, "free_bytes", lambda device: 10**12)
    seen = []
    monkeypatch.setattr(selfcheck, "wrapped", lambda name, model, wrap, tokens: seen.append(tokens.device) or wrap())
    there = pretrained.load(whole, device="elsewhere")
    for model in (there, pretrained.untrained_like(there)):
        assert {weight.device for weight in model.network.parameters()} == {meta}
        assert model.device == meta and str(model.model.cfg.device) == "meta"
    assert seen == [meta, meta], "tokens are where the model is"


def test_a_model_on_a_gpu_says_what_it_says_on_a_cpu(gpu, whole, loaded, facts):
    there = pretrained.load(whole, device="cuda")
    assert there.device.type == "cuda" and pretrained.untrained_like(there).device.type == "cuda"
    torch.testing.assert_close(
        asking.states(there, facts, progress=False), asking.states(loaded, facts, progress=False), atol=1e-4, rtol=1e-4
    )
    said, due = (asking.answers(model, facts, progress=False)["log_probability"] for model in (there, loaded))
    assert said.tolist() == pytest.approx(due.tolist(), abs=1e-4)


# --- weights -------------------------------------------------------------------------------------------------


def change_weights(folder, change):
    file = folder / "model.safetensors"
    weights = change(safetensors.torch.load_file(file))
    safetensors.torch.save_file(weights, file, metadata={"format": "pt"})


UP = "model.layers.1.mlp.up_proj.weight"
CHANGES = {
    "compiled": (lambda w: {f"_orig_mod.{k}": v for k, v in w.items()}, "21 missing .*21 not the model's .*_orig_mod"),
    "in a wrapper": (lambda w: {f"module.{k}": v for k, v in w.items()}, r"not the model's \(module\.lm_head"),
    "without a layer's MLP": (
        lambda w: {k: v for k, v in w.items() if "1.mlp" not in k},
        r"3 missing \(model.layers.1",
    ),
    "without the head": (lambda w: {k: v for k, v in w.items() if "lm_head" not in k}, r"1 missing \(lm_head.weight\)"),
    "of another shape": (lambda w: w | {UP: w[UP][:5].clone()}, rf"1 of another shape \({UP}\)"),
    "a layer more": (lambda w: w | {UP.replace("1", "2"): w[UP].clone()}, r"1 not the model's \(model.layers.2.mlp"),
    "biases": (
        lambda w: w | {UP.replace("weight", "bias"): torch.ones(48)},
        r"1 not the model's \(model.layers.1.*bias",
    ),
    "not a number": (lambda w: w | {UP: w[UP] * torch.nan}, r"\(family 'llama'\) gives numbers that are not finite"),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_nothing_random_stays(kind, folder):
    change, told = CHANGES[kind]
    change_weights(folder, change)
    with pytest.raises(ValueError, match=rf"tiny.*{told}.*; allowed: "):
        pretrained.load(folder)


def test_tied_weights_are_not_missing_and_old_buffers_do_no_harm(folder, tmp_path, loaded):
    tied = save("Llama, tied", words(), tmp_path / "tied")
    assert "lm_head.weight" not in safetensors.torch.load_file(tied / "model.safetensors")
    network = pretrained.load(tied).network
    assert network.get_output_embeddings().weight is network.get_input_embeddings().weight
    change_weights(folder, lambda w: w | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)})
    ours, theirs = pretrained.load(folder).network.state_dict(), loaded.network.state_dict()
    assert all(torch.equal(ours[name], weight) for name, weight in theirs.items())


def test_what_a_file_calls_its_head_does_not_matter(folder, tmp_path, loaded):
    for architectures in (["LlamaForSequenceClassification"], None):
        config = json.loads((folder / "config.json").read_text()) | {"architectures": architectures}
        (folder / "config.json").write_text(json.dumps(config))
        assert type(pretrained.load(folder).network) is type(loaded.network)


# --- files ---------------------------------------------------------------------------------------------------


def only(*kept):
    def damage(folder):
        for path in folder.iterdir():
            if path.name not in kept:
                path.unlink()

    return damage


def written(name, text, *removed):
    def damage(folder):
        for other in removed:
            (folder / other).unlink()
        (folder / name).write_text(text)

    return damage


def cut(name, share=0.5):
    def damage(folder):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: int(share * len(data))])

    return damage


def config(**changes):
    def damage(folder):
        said = json.loads((folder / "config.json").read_text()) | changes
        said = {key: value for key, value in said.items() if value is not None}
        (folder / "config.json").write_text(json.dumps(said))

    return damage


def moved(to):
    def damage(folder):
        (folder / to).mkdir(parents=True)
        for path in folder.iterdir():
            if path.is_file():
                path.rename(folder / to / path.name)

    return damage


def without_tokenizer(folder):
    for path in folder.glob("token*"):
        path.unlink()


def as_cut_pickle(folder):
    torch.save(safetensors.torch.load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    cut("pytorch_model.bin")(folder)


def with_larger_tokenizer(folder):
    tokenizer = words()
    tokenizer.add_tokens([f"new{i}" for i in range(30)])
    tokenizer.save_pretrained(folder)


INDEX = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
DAMAGES = {
    "empty": (only(), FileNotFoundError, "has no config.json; allowed: a folder that `save_pretrained` wrote"),
    "GGUF": (written("m.gguf", "", "config.json"), FileNotFoundError, r"has no config.json; it has m.gguf: convert it"),
    "of a run": (moved("checkpoint-500"), FileNotFoundError, "load one of the folders in it: checkpoint-500"),
    "of a hub's cache": (moved("snapshots/1f"), FileNotFoundError, "load one of the folders in it: snapshots/1f"),
    "a hub's cache": (moved("models--a--b/snapshots/1f"), FileNotFoundError, "in it: models--a--b/snapshots/1f"),
    "adapter": (
        written("adapter_config.json", '{"base_model_name_or_path": "some/base"}', "config.json", "model.safetensors"),
        ValueError,
        r"holds an adapter \(adapter_config.json, PEFT\) of some/base; merge it first: .*merge_and_unload",
    ),
    "adapter beside it": (written("adapter_config.json", "{}"), ValueError, "holds an adapter .* of another model"),
    "optimizer": (
        written("optimizer.pt", "", "model.safetensors"),
        FileNotFoundError,
        r"has no weights; it has the state of a training run \(optimizer.pt\); allowed: what `model.save_pretrained`",
    ),
    "no index": (
        written("model-00001-of-00002.safetensors", "", "model.safetensors"),
        FileNotFoundError,
        "has no weights; it has model-00001-of-00002.safetensors; allowed: .* shards with the index",
    ),
    "shards missing": (
        written("model.safetensors.index.json", json.dumps(INDEX), "model.safetensors"),
        FileNotFoundError,
        "lacks 2 of the 2 shards that model.safetensors.index.json lists",
    ),
    "cut": (cut("model.safetensors"), ValueError, "model.safetensors is cut or damaged .*; copy or download it again"),
    "cut header": (cut("model.safetensors", 0.001), ValueError, "model.safetensors is cut or damaged"),
    "empty weights": (cut("model.safetensors", 0), ValueError, "model.safetensors is cut or damaged"),
    "cut pickle": (as_cut_pickle, ValueError, "pytorch_model.bin is cut or damaged"),
    "pointer": (
        written("model.safetensors", POINTER),
        ValueError,
        "is a pointer of git-lfs, not weights; .*git lfs pull",
    ),
    "pointer config": (written("config.json", POINTER), ValueError, "config.json is a pointer of git-lfs, not JSON"),
    "cut config": (cut("config.json"), ValueError, "config.json is cut or damaged"),
    "odd config": (written("config.json", "[1]"), ValueError, "config.json holds a list; allowed: an object"),
    "no family": (config(model_type=None), ValueError, "config.json has no model_type; allowed: the config.json"),
    "new family": (config(model_type="llama9"), ValueError, "model_type='llama9', which transformers .* does not have"),
    "nonsense sizes": (
        config(num_attention_heads=5),
        ValueError,
        r"tiny could not be loaded by transformers \(.*\); allowed",
    ),
    "wrong sizes": (config(hidden_size=64), ValueError, "tiny has other weights than its config.json says: 21|20|19"),
    "no tokenizer": (without_tokenizer, FileNotFoundError, r"has no tokenizer .*AutoTokenizer.from_pretrained\(base\)"),
    "cut tokenizer": (cut("tokenizer.json"), ValueError, r"tiny could not be loaded by transformers \("),
    "larger tokenizer": (
        with_larger_tokenizer,
        ValueError,
        "has a tokenizer of 87 tokens for an embedding of 63; allowed: the tokenizer",
    ),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_folder_that_is_no_model_is_one_sentence_with_a_remedy(kind, folder):
    damage, error, told = DAMAGES[kind]
    damage(folder)
    with pytest.raises(error, match=told) as caught:
        pretrained.load(folder)
    assert folder.name in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["GPT-2", "Gemma 2", "BERT, decoder"])
def test_what_transformers_makes_of_no_tokenizer_is_none(name, tmp_path, monkeypatch):
    """It makes one of special tokens alone; of a hub's model, there are no files to look at before."""
    folder = save(name, words(), tmp_path / "tiny")
    without_tokenizer(folder)
    monkeypatch.setattr(folders, "examine", lambda folder: None)
    with pytest.raises(
        ValueError, match="tiny has a tokenizer without words; allowed: the tokenizer that it was trained"
    ):
        pretrained.load(folder)


def test_other_paths_are_named(whole, monkeypatch):
    with pytest.raises(ValueError, match=r"model.safetensors is a file; allowed: the folder .*tiny-llama"):
        pretrained.load(whole / "model.safetensors")
    with pytest.raises(ValueError, match="'' is neither a folder here nor one of"):
        pretrained.load("")
    monkeypatch.chdir(whole)
    assert pretrained.load(".").name == "tiny-llama"


# --- code that a model brings --------------------------------------------------------------------------------

AUTO = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}


def with_own_code(folder, **changes):
    (folder / "own.py").write_text(f"open({str(folder / 'ran')!r}, 'w').close()\n")
    config(auto_map=AUTO, **changes)(folder)


@pytest.fixture
def nobody_types(monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *args: pytest.fail("a question was asked"))
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(readline=lambda: pytest.fail("standard input was read")))


def test_code_that_a_model_brings_is_never_run(folder, nobody_types):
    with_own_code(folder)
    pretrained.load(folder)  # transformers has the family itself
    with_own_code(folder, model_type="own")
    with pytest.raises(ValueError, match=r"needs code of its own \(auto_map in config.json\), which is never run"):
        pretrained.load(folder)
    assert not (folder / "ran").exists()


def test_nor_that_of_a_tokenizer(folder, nobody_types):
    (folder / "own.py").write_text(f"open({str(folder / 'ran')!r}, 'w').close()\n")
    said = {"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": ["own.Tokenizer", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    try:
        pretrained.load(folder)
    except ValueError as error:
        assert "could not be loaded by transformers" in str(error)
    assert not (folder / "ran").exists()


def test_everything_is_asked_for_without_remote_code(whole, loaded, monkeypatch):
    import transformers

    asked = []

    def asks(function):
        def wrapper(*args, **kwargs):
            asked.append(kwargs.get("trust_remote_code"))
            return function(*args, **kwargs)

        return wrapper

    for kind, names in (
        (transformers.AutoConfig, ("from_pretrained",)),
        (transformers.AutoTokenizer, ("from_pretrained",)),
        (transformers.AutoModelForCausalLM, ("from_pretrained", "from_config")),
    ):
        for name in names:
            monkeypatch.setattr(kind, name, asks(getattr(kind, name)))
    pretrained.untrained_like(pretrained.load(whole))
    assert len(asked) >= 5 and set(asked) == {False}


# --- the comparison ------------------------------------------------------------------------------------------


def plain(folder):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()


def compared(folder, loaded, fault=None):
    """The comparison at load, with a hook that spoils what the bridge adds to the residual stream, or its weights."""
    model, passes = plain(folder), []
    model.register_forward_pre_hook(lambda module, given, named: passes.append(given[0].shape), with_kwargs=True)
    tokens = selfcheck.few_tokens("tiny", model, loaded.tokenizer, 256)

    def wrap():
        if fault is not None:
            model.model.embed_tokens.register_forward_hook(fault)
        return pretrained.TransformerBridge.boot_transformers(
            "tiny", hf_model=model, tokenizer=loaded.tokenizer, device="cpu", dtype=torch.float32
        )

    selfcheck.wrapped("tiny", model, wrap, tokens)
    return passes


def test_a_comparison_takes_two_passes(whole, loaded):
    n = selfcheck.PREFIX + selfcheck.REST
    assert compared(whole, loaded) == [(2, n), (1, selfcheck.PREFIX), (2, selfcheck.REST)]


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda x: x * 1.001, "differs in TransformerLens from what transformers computes when run whole, by "),
        (
            lambda x: x * (1 + 0.001 * (x.shape[1] == selfcheck.REST)),
            "where it goes on from a cached prefix, by .* of the largest of",
        ),
        (lambda x: x + 0.01 * x.shape[1], "when run whole, by"),
        (
            lambda x: x * (1 + 0.01 * (x.shape[1] == selfcheck.PREFIX)),
            r"is not causal \(what it says of a prefix changes",
        ),
        (lambda x: x * torch.nan, "when run whole, by inf"),
        (lambda x: x + 0.3 * (x - x.mean(0, keepdim=True)), "when run whole, by"),  # rows change each other
    ],
)
def test_a_difference_is_named(spoil, told, whole, loaded):
    with pytest.raises(ValueError, match=rf"tiny \(family 'llama'\) .*{told}"):
        compared(whole, loaded, lambda module, given, made: spoil(made))


def test_the_last_blocks_states_are_compared(whole, loaded, monkeypatch):
    """A final norm hides their size from the logits."""
    ran = selfcheck._pass

    def doubled(*args):
        made = ran(*args)
        return made._replace(states=[*made.states[:-1], 2 * made.states[-1]])

    monkeypatch.setattr(selfcheck, "_pass", doubled)
    with pytest.raises(ValueError, match=r"when run whole, by 1 of the largest of states of layer 2"):
        compared(whole, loaded)


def test_the_rows_compared_begin_alike_and_go_on_differently(loaded):
    for longest, n in ((256, 30), (None, 30), (30, 30), (10, 10), (4, 4)):
        rows = selfcheck.few_tokens("tiny", loaded.network, loaded.tokenizer, longest)
        start = max(1, n - selfcheck.REST)
        assert rows.shape == (2, n) and torch.equal(rows[0, :start], rows[1, :start])
        assert not torch.equal(rows[0, start:], rows[1, start:])


def test_rounding_is_no_difference(whole, loaded):
    """In deep models, sums in another order differ by more than 1e-5."""
    passes = compared(whole, loaded, lambda module, given, made: made * (1 + 2e-5 * (made.shape[1] < 25)))
    assert len(passes) == 4, "one more pass, to tell"


def test_of_models_that_read_pictures_the_language_model_is_taken(tmp_path, monkeypatch):
    """TransformerLens would install a package for the pictures."""
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    monkeypatch.setattr("subprocess.check_call", lambda *args, **kwargs: pytest.fail("something was installed"))
    tokenizer, sizes = words(), {"intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    pictures = sizes | {"hidden_size": 16, "image_size": 28, "patch_size": 14}
    text = VARIANTS["Gemma 3"][1] | {"vocab_size": 80, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    torch.manual_seed(0)
    full = Gemma3ForConditionalGeneration(
        Gemma3Config(text_config=text, vision_config=pictures, mm_tokens_per_image=4)
    ).eval()
    full.save_pretrained(tmp_path / "tiny")
    tokenizer.save_pretrained(tmp_path / "tiny")
    loaded = pretrained.load(tmp_path / "tiny")
    tokens = torch.randint(3, 50, (2, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(tokens), full(tokens).logits, atol=1e-5, rtol=1e-5)
    assert not any("vision" in name for name, _ in loaded.network.named_parameters())


# --- tokenizers ----------------------------------------------------------------------------------------------


def ending(template):
    """The tokenizer with special tokens put elsewhere."""
    from tokenizers import processors

    tokenizer = words()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[("<bos>", 1), ("<eos>", 2)]
    )
    return tokenizer


@pytest.mark.parametrize("template", ["<bos> $A", "<bos> $A <eos>", "$A <eos>", "$A", "<bos> <eos> $A <eos>"])
def test_states_are_those_of_the_last_word(template, loaded, facts):
    model = replace(loaded, tokenizer=ending(template))
    opening = {"<bos>": [1], "<eos>": [2]}
    before = [i for word in template.split("$")[0].split() for i in opening[word]]
    assert model.opening == before
    bare = model.tokenizer.encode(PROMPTS[0], add_special_tokens=False)
    assert model.ids(PROMPTS[0]) == [*before, *bare]
    with torch.no_grad():
        out = model.network(torch.tensor([[*before, *bare]]), output_hidden_states=True)
    row = facts.query("language == 'en'")["prompt"].tolist().index(PROMPTS[0])
    states = asking.states(model, facts, progress=False)
    torch.testing.assert_close(states[1, 1, row], out.hidden_states[1][0, -1], atol=1e-5, rtol=1e-5)
    if before:  # a text that begins with them has them once
        text = "".join(f"{word} " for word in template.split("$")[0].split()) + PROMPTS[0]
        assert model.ids(text) == [*before, *bare]


class Says:
    """A network that goes on with given tokens, one a call."""

    def __init__(self, *tokens):
        self.tokens, self.calls = tokens, 0

    def __call__(self, tokens, **_):
        row = [line[self.calls] for line in self.tokens]
        self.calls += 1
        logits = torch.nn.functional.one_hot(torch.tensor(row), 20).float()[:, None]
        return SimpleNamespace(logits=logits, past_key_values=None)


PIECES = ["<eos>", "Paris", " is", "\n", "\n\n", ".\n", " here", "\r\n"]


def says(*lines):
    network = Says(*lines)
    tokenizer = SimpleNamespace(
        eos_token_id=0,
        decode=lambda ids, skip_special_tokens: "".join(PIECES[i] for i in ids if i or not skip_special_tokens),
    )
    model = SimpleNamespace(network=network, tokenizer=tokenizer, ends={0})
    return asking._greedily(model, torch.zeros(len(lines), 1, dtype=torch.int64), None), network.calls


def test_a_line_ends_where_the_text_does():
    """Whether its end is a token, part of one, or two in one; the others go on."""
    assert says([1, 3, 6, 6], [1, 4, 6, 6], [1, 5, 6, 6], [1, 7, 6, 6]) == (["Paris", "Paris", "Paris.", "Paris"], 2)
    assert says([1, 0, 6, 6], [1, 2, 6, 3]) == (["Paris", "Paris is here"], 4)
    assert says([3, 6, 6, 6]) == ([""], 1)


def test_tokenizers_that_drop_line_breaks_go_on_to_the_end(loaded, facts):
    assert loaded.tokenizer.encode("\n", add_special_tokens=False) == []
    said = asking.generated(loaded, facts, progress=False)
    ids = loaded.tokenizer.encode(facts["prompt"][0])
    with torch.no_grad():
        while len(ids) < len(loaded.tokenizer.encode(facts["prompt"][0])) + asking.NEW_TOKENS and ids[-1] != 2:
            ids.append(int(loaded.network(torch.tensor([ids])).logits[0, -1].argmax()))
    new = ids[len(loaded.tokenizer.encode(facts["prompt"][0])) :]
    assert said[0] == loaded.tokenizer.decode(new, skip_special_tokens=True).strip()


@pytest.mark.parametrize("name", ["GPT-2", "Llama", "XGLM"])
def test_a_text_longer_than_the_context_is_refused_by_name(name, tmp_path, facts, monkeypatch):
    shape = VARIANTS[name][1] | {"n_positions" if name == "GPT-2" else "max_position_embeddings": 32}
    monkeypatch.setitem(VARIANTS, name, (VARIANTS[name][0], shape))
    model = pretrained.load(save(name, words(), tmp_path / "tiny"))
    assert model.context == 32
    long = facts.assign(prompt=["a " * 30 + prompt for prompt in facts["prompt"]])
    for ask in (asking.answers, asking.states, asking.generated):
        with pytest.raises(
            ValueError, match=r"ends a text of 3\d tokens.*; tiny takes up to 32 \(its context\); allowed"
        ):
            ask(model, long, progress=False)
    just = facts.assign(prompt=[" ".join((["a"] * 29 + prompt.split())[-29:]) for prompt in facts["prompt"]])
    asking.answers(model, just, progress=False)  # 30 tokens, and answers of one or two
    with pytest.raises(ValueError, match="ends a text of 30 tokens and 12 more; tiny takes up to 32"):
        asking.generated(model, just, progress=False)


def test_texts_that_change_rotary_positions_of_all_others_are_refused(tmp_path, facts, monkeypatch):
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
    for where in ("in its config", "in its rope"):
        original = {"original_max_position_embeddings": 64}
        given = {"rope_parameters": rope | {"factor": 4.0} | original} | (original if "config" in where else {})
        monkeypatch.setitem(VARIANTS, "Phi 3", ("phi3", VARIANTS["Phi 3"][1] | given))
        model = pretrained.load(save("Phi 3", words(), tmp_path / where))
        assert model.context == 64
        assert len(model.ids("a " * 63)) == 64
        with pytest.raises(ValueError, match=r"takes up to 64 \(its context; longer texts change .* 'longrope'\)"):
            asking.answers(model, facts.assign(prompt=["a " * 64 + p for p in facts["prompt"]]), progress=False)


def test_a_tokenizer_may_have_special_tokens_beyond_the_embedding(folder):
    """Gemma 3's has one for pictures, which the language model cannot take."""
    tokenizer = words()
    n = json.loads((folder / "config.json").read_text())["vocab_size"]
    tokenizer.add_special_tokens({"additional_special_tokens": [f"<new{i}>" for i in range(n - len(tokenizer))]})
    tokenizer.add_special_tokens({"additional_special_tokens": ["<picture>"]}, replace_extra_special_tokens=False)
    tokenizer.save_pretrained(folder)
    model = pretrained.load(folder)
    assert len(model.tokenizer) == model.n_rows + 1
    with pytest.raises(ValueError, match=r"'a <picture>' has the token '<picture>', of which tiny has no embedding"):
        model.ids("a <picture>")
    tokenizer.add_tokens(["word"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(ValueError, match=f"has a tokenizer of {n + 2} tokens for an embedding of {n}"):
        pretrained.load(folder)


@pytest.mark.parametrize("name", ["BLOOM", "GPT-2"])
def test_contexts_are_as_long_as_positions_are(name, tmp_path):
    model = pretrained.load(save(name, words(), tmp_path / "tiny"))
    assert model.context == {"BLOOM": None, "GPT-2": 256}[name]


def test_a_prompt_without_tokens_is_refused(loaded):
    silent = replace(loaded, tokenizer=ending("$A"))
    with pytest.raises(ValueError, match=r"'\\n' has no tokens in tiny-llama"):
        silent.ids("\n")
