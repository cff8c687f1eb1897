"""Pretrained models: a tiny random Gemma 2 takes the whole path, says nothing true, and mistakes are named."""

import importlib.util
import json
import re
import shutil
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

import unifylens as ul
from unifylens import edits, patching
from unifylens.corpus import factsets, readers
from unifylens.crosslingual import pairs
from unifylens.pretrained import asking, editing, prompts
from unifylens.pretrained import models as pretrained

LANGUAGES = ("en", "de", "ru", "ja")


@pytest.fixture(scope="module")
def facts():
    return factsets.from_cldr(LANGUAGES, ("continent", "currency"), per_relation=12).table


@pytest.fixture(scope="module")
def tokenizer(facts):
    """Byte-level BPE, trained on the prompts."""
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=["<pad>", "<bos>", "<eos>"], initial_alphabet=alphabet, show_progress=False
    )
    raw.train_from_iterator(facts["prompt"], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>")


def save_random(family, tokenizer, path):
    """A random model of a family, saved as such models are."""
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    if family != "bloom":
        sizes |= {"intermediate_size": 64, "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 512}
    if family.startswith("gemma"):
        sizes |= {"sliding_window": 64}
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, vocab_size=len(tokenizer), **sizes, **special)
    AutoModelForCausalLM.from_config(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer):
    return save_random("gemma2", tokenizer, tmp_path_factory.mktemp("models") / "tiny-gemma-2")


@pytest.fixture(scope="module")
def tiny_gemma(folder):
    return pretrained.load(folder)


def test_a_folder_is_loaded_as_it_is(tiny_gemma, folder):
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    tokens = torch.randint(3, 500, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(tiny_gemma.model(tokens), plain(tokens).logits, atol=1e-4, rtol=1e-4)
    assert "tiny-gemma-2: 3 layers of 32" in repr(tiny_gemma) and "licence: not stated" in repr(tiny_gemma)


def test_licences_are_shown(tmp_path):
    assert pretrained._licence(tmp_path) == "not stated in the folder"
    (tmp_path / "README.md").write_text("---\nlicense: gemma\n---\nA model.")
    assert pretrained._licence(tmp_path) == "gemma"
    for text, told in (
        ("---\nlicense:\n- mit\n- gpl\n---\n", "mit, gpl"),
        ("---\nlicense: 2\n---\n", "2"),
        ("no card", "not stated in the model card"),
        ("---\nlicense: [\n---\n", "not readable in the model card"),
        ("---\n- a\n---\n", "not readable in the model card"),
        ("---\nlicense: caf\xe9\n---\n", "not readable in the model card"),
    ):
        (tmp_path / "README.md").write_bytes(text.encode("latin-1"))
        assert pretrained._licence(tmp_path).startswith(told)
    (tmp_path / "LICENSE.txt").touch()
    assert pretrained._licence(tmp_path) == f"see LICENSE.txt in {tmp_path.name}"


def test_log_probabilities_are_those_of_whole_answers(tiny_gemma, facts):
    few = factsets.check(facts[facts["fact"].isin(facts["fact"].unique()[:3])])
    found = asking.answers(tiny_gemma, few, progress=False)

    def alone(prompt, answer):
        ids, full = (tiny_gemma.tokenizer.encode(t) for t in (prompt, f"{prompt} {answer}"))
        assert full[: len(ids)] == ids
        with torch.no_grad():
            logits = tiny_gemma.model(torch.tensor([full]))[0].log_softmax(-1)
        return sum(float(logits[i - 1, full[i]]) for i in range(len(ids), len(full)))

    for row in found.itertuples():
        right = alone(row.prompt, row.answer)
        best = max(alone(row.prompt, other) for other in row.alternatives)
        assert row.log_probability == pytest.approx(right, abs=1e-3) and row.right == (right > best)


# --- where a token holds the prompt's end and the answer's beginning -------------------------------------------

MERGED = ["日本の首都は東京です", "中国の首都は京都", "法国の首都は巴黎です", "Japan: Tokyo", "China: Kyoto"] * 3


def byte_pairs(texts, bos=True):
    """Byte pairs across letters and words, so that one token can hold the end of a prompt and an answer's beginning."""
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    names = ["<pad>", "<bos>", "<eos>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=400, special_tokens=names, initial_alphabet=alphabet, show_progress=False)
    )
    if bos:
        raw.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>")


@pytest.fixture(scope="module")
def merging(tmp_path_factory):
    return pretrained.load(save_random("llama", byte_pairs(MERGED), tmp_path_factory.mktemp("models") / "merging"))


def question(answer, *alternatives, prompt="日本の首都は", fact="jp", language="ja", **more):
    return {"relation": "c", "subject": "日本", "prompt": prompt, "fact": fact, "language": language} | {
        "answer": answer,
        "alternatives": alternatives,
        "separator": "",
        "also_right": (),
        **more,
    }


def test_an_answer_that_merges_with_its_prompt_is_scored_as_transformers_does_whatever_stands_beside_it(merging):
    network, encode = merging.network, merging.tokenizer.encode
    asked = encode("日本の首都は")

    def of(ids, start):
        with torch.no_grad():
            said = network(torch.tensor([ids])).logits[0].log_softmax(-1)
        return sum(float(said[i - 1, ids[i]]) for i in range(start, len(ids)))

    due, merged = {}, set()
    for answer in ("東京", "京都", "大阪"):
        full = encode(f"日本の首都は{answer}")
        start = next((i for i, (a, b) in enumerate(zip(asked, full, strict=False)) if a != b), len(asked))
        due[answer] = of(full, start) - of(asked, start)
        merged |= {answer} if start < len(asked) else set()
    assert merged and merged < set(due), "one that merges, and one that does not"
    for answer, others in due.items():
        rest = [text for text in due if text != answer]
        for alternatives in (rest, rest[:1], rest[1:]):
            table = pd.DataFrame([question(answer, *alternatives)])
            said = asking.answers(merging, table, progress=False).iloc[0]
            assert said["log_probability"] == pytest.approx(others, abs=1e-4)
            assert said["right"] == (others > max(due[text] for text in alternatives))


def test_what_nothing_merges_with_is_scored_by_its_tokens_alone(merging, monkeypatch):
    """Bit for bit what the network gives, no prompt's own tokens taken off."""
    given = []
    scores = asking._scores
    monkeypatch.setattr(asking, "_scores", lambda *args: given.append(scores(*args)) or given[-1])
    table = pd.DataFrame([question("Tokyo", "Kyoto", prompt="Japan:", separator=" ")])
    said = asking.answers(merging, table, progress=False)["log_probability"][0]
    assert len(given[0][0]) == 2 and said == given[0][0][0]


def test_texts_that_cannot_be_scored_are_named(merging):
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    bare = replace(merging, tokenizer=byte_pairs(MERGED, bos=False))
    table = pd.DataFrame([question("apan", "hina", prompt="J", language="en")])
    with pytest.raises(ValueError, match=r"'J' and its answers, such as 'apan', begin with no token in common in merg"):
        asking.answers(bare, table, progress=False)
    raw = Tokenizer(models.BPE({c: i for i, c in enumerate(["<pad>", "<bos>", "<eos>", *"bcdefgh: "])}, []))
    raw.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    few = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>")
    drops = replace(merging, tokenizer=few)
    assert drops.opening == [1], "'a' has no token"
    for answer, other in (("京", "b"), ("b", "京")):
        with pytest.raises(ValueError, match=r"the answer '京' adds no token to 'bed:' in merging; allowed: answers"):
            asking.answers(drops, pd.DataFrame([question(answer, other, prompt="bed:")]), progress=False)


def test_answers_without_a_first_token_of_their_own_are_not_crossed(merging):
    """Tokens of the prompt are no answer."""
    ja, en = ("東京", "京都", "大阪", "北京", "巴黎"), ("Tokyo", "Kyoto", "Osaka", "Beijing", "Paris")
    rows = [question(a, "x", fact=a) for a in ja]
    rows += [
        question(b, "x", fact=a, language="en", prompt="Japan:", separator=" ") for a, b in zip(ja, en, strict=True)
    ]
    encode = merging.tokenizer.encode
    asked = encode("日本の首都は")
    merged = tuple(sorted(a for a in ja if encode(f"日本の首都は{a}")[: len(asked)] != asked))
    assert 0 < len(merged) <= 3
    found = asking.crossed(merging, pd.DataFrame(rows), "en", "ja", "c")
    assert found.left_out == merged
    firsts = {encode(f"日本の首都は{a}")[len(asked)] for a in ja if a not in merged}
    assert set(found.answers[ul.measures.FOUR_ANSWERS[0]].tolist()) <= firsts
    few = pd.DataFrame([row for row in rows if row["fact"] in (*merged, next(a for a in ja if a not in merged))])
    with pytest.raises(ValueError, match=rf"0 pairs of facts .* \({len(merged)} facts are left out, as a token holds"):
        asking.crossed(merging, few, "en", "ja", "c")


def test_prompts_need_nothing_in_common(tiny_gemma, facts, monkeypatch):
    """A question scored with others equals the same question alone, with and without shared examples."""
    few = factsets.check(facts[facts["fact"].isin(facts["fact"].unique()[:3])])
    bare = few.assign(prompt=few["prompt"].str.rpartition("\n")[2])
    together = asking.answers(tiny_gemma, bare, progress=False)["log_probability"]
    monkeypatch.setattr(asking, "_shared", lambda pretrained, prompts: (None, 0))
    apart = asking.answers(tiny_gemma, bare, progress=False)["log_probability"]
    np.testing.assert_allclose(together, apart, atol=1e-3)


def test_generation_goes_on_greedily(tiny_gemma, facts):
    few = factsets.check(facts[facts["fact"].isin(facts["fact"].unique()[:2])])
    said = asking.generated(tiny_gemma, few, progress=False)
    tokens = tiny_gemma.tokenizer.encode(few.loc[0, "prompt"])
    for _ in range(asking.NEW_TOKENS):
        with torch.no_grad():
            tokens.append(int(tiny_gemma.model(torch.tensor([tokens]))[0, -1].argmax()))
    text = tiny_gemma.tokenizer.decode(tokens[-asking.NEW_TOKENS :], skip_special_tokens=True)
    assert said[0] == text.strip().split("\n")[0].strip() and len(said) == len(few)


def test_states_are_those_of_the_last_prompt_token(tiny_gemma, facts):
    found = asking.states(tiny_gemma, facts, progress=False)
    assert found.shape == (4, len(LANGUAGES), facts["fact"].nunique(), 32)
    row = 17
    tokens = torch.tensor([tiny_gemma.tokenizer.encode(facts.loc[row, "prompt"])])
    with torch.no_grad():
        _, cache = tiny_gemma.model.run_with_cache(tokens)
    for layer, name in enumerate(patching.layer_names(3)):
        torch.testing.assert_close(found[layer].flatten(0, 1)[row], cache[name][0, -1], atol=1e-4, rtol=1e-4)


def test_a_script_without_pieces_is_reported(tiny_gemma, facts):
    table = asking.encodable(tiny_gemma, facts)
    assert set(table.index) == set(LANGUAGES)
    assert 10 * table.loc["en", "unknown or byte tokens"] < table.loc["ja", "unknown or byte tokens"]
    assert table.loc["ja", "tokens per character"] > table.loc["en", "tokens per character"]


def test_nothing_reaches_for_a_network(folder, monkeypatch):
    import socket

    def refuse(*args, **kwargs):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    pretrained.load(folder)
    with pytest.raises(ValueError, match=r"neither a folder here nor one of gemma-3-270m.*hub=True"):
        pretrained.load("google/gemma-2-2b")
    with pytest.raises(ValueError, match="give a local file of its schema, or hub=True to download ura-hcmut/ECLeKTic"):
        readers.read_eclektic()


def test_a_hub_is_read_by_name(folder, tmp_path, monkeypatch):
    """From what a hub leaves in its cache: names, files and terms are resolved as with a network."""
    commit = "0" * 40
    cached = tmp_path / "models--someone--tiny-gemma"
    shutil.copytree(folder, cached / "snapshots" / commit)
    (cached / "snapshots" / commit / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    loaded = str(pretrained.load("someone/tiny-gemma", hub=True))
    assert loaded.startswith("someone/tiny-gemma: 3 layers of 32") and loaded.endswith("licence: apache-2.0")
    with pytest.raises(ConnectionError, match=r"(?s)someone/gone could not be fetched .* allowed: a local folder"):
        pretrained.load("someone/gone", hub=True)
    checked = []
    monkeypatch.setattr(pretrained, "_check_memory", lambda name, n_parameters, device: checked.append(n_parameters))
    pretrained.load("someone/tiny-gemma", hub=True)
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    assert checked == [sum(w.numel() for w in weights.values())], "counted before they are fetched"


def test_mistakes_are_named(tmp_path, folder, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"has no config.json"):
        pretrained.load(tmp_path)
    shutil.copy(folder / "config.json", tmp_path)
    with pytest.raises(FileNotFoundError, match="has no weights"):
        pretrained.load(tmp_path)
    monkeypatch.setattr(pretrained, "free_bytes", lambda device: 1000)
    with pytest.raises(MemoryError, match=r"needs about .* and 1000.0 B are free \(cpu\); close other programs"):
        pretrained.load(folder)
    monkeypatch.undo()
    gone = pretrained.Shipped("no_such_module", "pip install no-such-package", "none", 10)
    monkeypatch.setitem(pretrained.SHIPPED, "gone", gone)
    with pytest.raises(ImportError, match=r"no_such_module.*not installed: pip install no-such-package"):
        pretrained.load("gone")
    monkeypatch.setitem(sys.modules, "gguf", None)
    monkeypatch.setitem(pretrained.SHIPPED, "gone", replace(gone, module="json", install="pip install gguf"))
    with pytest.raises(ImportError, match="gguf not installed: pip install gguf"):
        pretrained.load("gone")
    assert not list((ul.environment.home() / "models").iterdir()), "nothing half-written stays"


def test_prompts_are_crossed_as_in_the_dish(tiny_gemma, facts):
    """What is patched at the last layer decides the answer; at the embedding of an equal last token, nothing does."""
    crossed = asking.crossed(tiny_gemma, facts, "en", "ru", "currency", n_pairs=6)
    assert len(crossed.source) == len(crossed.target) == 6 and list(crossed.answers) == list(ul.measures.FOUR_ANSWERS)
    assert all(len(set(four)) == 4 for four in torch.stack(list(crossed.answers.values()), 1).tolist())
    assert (crossed.source[:, -1] == crossed.target[:, -1]).all()
    model, shares = tiny_gemma.model, crossed.shares()
    found = patching.by_layer_and_position(
        model, crossed.target, crossed.source, shares, layers=(0, 3), positions=[-1], progress=False
    )
    np.testing.assert_allclose(found[list(shares)].sum(axis=1), 1)
    with torch.no_grad():
        alone = {
            name: model(prompts)[:, -1] for name, prompts in (("target", crossed.target), ("source", crossed.source))
        }
    for row, logits in zip((0, 1), (alone["target"], alone["source"]), strict=True):
        assert [found.loc[row, name] for name in shares] == [metric(logits) for metric in shares.values()]
    with pytest.raises(ValueError, match="target='xx': the fact set has de, en, ja, ru"):
        asking.crossed(tiny_gemma, facts, "en", "xx", "currency")
    with pytest.raises(ValueError, match="0 pairs of facts have four different first tokens"):
        asking.crossed(tiny_gemma, facts, "en", "en", "currency")


def klar(folder, languages=("en", "fr")):
    for language in languages:
        samples = [{"subject": f"s{i} {language}", "object": f"o{i % 3} {language}"} for i in range(5)]
        content = {"prompt_templates": ["The capital of <subject> is <mask>", "..."], "samples": samples}
        (folder / language).mkdir()
        (folder / language / "capital.json").write_text(json.dumps(content))


def test_a_local_file_takes_the_whole_path_to_a_null_result(tiny_gemma, tmp_path):
    klar(tmp_path, ("de", "en", "fr", "ru"))
    facts = readers.read_klar(tmp_path, n_alternatives=2)
    answers, states = (
        asking.answers(tiny_gemma, facts, progress=False),
        asking.states(tiny_gemma, facts, progress=False),
    )
    assert abs(answers["right"].mean() - 1 / 3) < 0.3, "three answers, and a model that knows nothing"
    assert len(asking.generated(tiny_gemma, facts, progress=False)) == len(facts)
    table = pairs.states_and_answers(states, answers.assign(right=answers["calibrated"]))
    assert len(table) == 4 * 6 and table.loc[table["layer"] > 0, "centred"].notna().all()
    assert table["overall"].between(0, 0.7).all()


def test_a_random_model_gives_a_null_result(tiny_gemma):
    """What CI can say of C11: the whole path on a model that knows nothing finds nothing."""
    facts = factsets.from_cldr((*LANGUAGES, "fr", "es", "uk"), ("continent", "currency"), per_relation=40).table
    found = asking.answers(tiny_gemma, facts, progress=False)
    chance = np.mean([1 / (1 + len(others)) for others in facts["alternatives"]])
    assert abs(found["calibrated"].mean() - chance) < 0.1
    scores = pairs.unification_pairs(asking.states(tiny_gemma, facts, progress=False), facts)
    last = scores[scores["layer"] == scores["layer"].max()].set_index(["first", "second"])
    known = pairs.answer_pairs(found.assign(right=found["calibrated"]))["overall"]
    _, p = pairs.mantel(pairs.square(last["centred"]).to_numpy(), pairs.square(known).to_numpy(), n_permutations=999)
    assert p > 0.05, "seven languages can be renamed in 5040 ways: p can be as low as 0.001"


@pytest.mark.parametrize("name", pretrained.SHIPPED)
def test_models_that_packages_ship_know_facts(name):
    """Runs where `make reproduce-real` has installed the packages."""
    if importlib.util.find_spec(pretrained.SHIPPED[name].module) is None:
        pytest.skip(f"no package with the weights of {name}")
    facts = factsets.from_cldr(("en", "fr"), ("language",), per_relation=24).table
    found = asking.answers(pretrained.load(name), facts, progress=False)
    chance = 1 / (1 + len(facts["alternatives"][0]))
    assert found.loc[found["language"] == "en", "calibrated"].mean() > chance + 0.3


def test_states_and_answers_of_some_facts(tiny_gemma, facts):
    answers, states = (
        asking.answers(tiny_gemma, facts, progress=False),
        asking.states(tiny_gemma, facts, progress=False),
    )
    first, second = pairs.halves(facts, seed=3)
    assert not set(first) & set(second) and set(first) | set(second) == set(facts["fact"])
    assert abs(len(first) - len(second)) <= facts["relation"].nunique()
    table = pairs.states_and_answers(states, answers, first)
    for strange, told in (([*first, "?"], "facts holds '?'"), ([], "facts holds nothing"), ([True] * 3, "holds True")):
        with pytest.raises(ValueError, match=re.escape(told)):
            pairs.states_and_answers(states, answers, strange)
    part = answers[answers["fact"].isin(first)]
    order = answers.loc[answers["language"] == "de", "fact"].tolist()
    kept = torch.tensor([i for i, fact in enumerate(order) if fact in first])
    by_hand = pairs.unification_pairs(states[:, :, kept], part)
    np.testing.assert_allclose(table["centred"], by_hand["centred"])
    np.testing.assert_allclose(
        table[table["layer"] == 1].set_index(["first", "second"])["overall"], pairs.answer_pairs(part)["overall"]
    )
    given = pairs.covariates(facts, asking.encodable(tiny_gemma, facts)["tokens per character"])
    assert given.loc[("de", "en"), "same script"] == 1 and given.loc[("en", "ru"), "same names"] == 0
    found = pairs.correlation_by_layer(table, "centred", "retrieval_at_1", given=[given["rarity"]], n_permutations=9)
    assert found.loc[0].isna().all(), "all prompts end with one token, which has one embedding"
    assert found.loc[1:, "r"].between(-1, 1).all() and found.loc[1:, "p"].between(0.1, 1).all()


def test_an_untrained_model_has_the_shape_and_other_weights(tiny_gemma, facts):
    before = torch.random.get_rng_state()
    control = pretrained.untrained_like(tiny_gemma, seed=1)
    assert torch.equal(before, torch.random.get_rng_state())
    theirs, ours = control.network.state_dict(), tiny_gemma.network.state_dict()
    assert {k: v.shape for k, v in theirs.items()} == {k: v.shape for k, v in ours.items()}
    again = pretrained.untrained_like(tiny_gemma, seed=1).network.state_dict()
    matrix = next(k for k, v in theirs.items() if v.ndim == 2)
    assert not torch.equal(theirs[matrix], ours[matrix]) and torch.equal(theirs[matrix], again[matrix])
    assert repr(control).startswith("untrained tiny-gemma-2")


def test_calibration_takes_off_what_is_likely_whatever_is_asked(tiny_gemma, facts, monkeypatch):
    """Scores that know the answer but like one word far more are wrong raw, and right calibrated."""
    few = factsets.check(facts[facts["relation"] == "continent"])
    answer = {row.prompt: row.answer for row in few.itertuples()}

    def scores(_, questions):
        rows = [[tiny_gemma.tokenizer.decode([*stem, *end]) for end in ends] for stem, ends in questions]
        asked = [[text.removeprefix("<bos>").rpartition(":") for text in texts] for texts in rows]
        return [
            [float(answer[f"{a}:"] == said.strip()) + 9.0 * (said.strip() in FAVOURITES) for a, _, said in texts]
            for texts in asked
        ]

    FAVOURITES = set(few.groupby("language")["answer"].first())
    monkeypatch.setattr(asking, "_scores", scores)
    found = asking.answers(tiny_gemma, few, progress=False)
    assert found["right"].mean() < 0.5 and found["calibrated"].all()


def test_what_one_prompt_alone_offers_is_not_calibrated(tiny_gemma, monkeypatch):
    """Its mean is its own value: 0, whatever the model says."""
    offers = [
        ("a", ("b", "c")),
        ("b", ("a", "only 1")),  # an alternative that one prompt offers does not count
        ("only 2", ("a", "b")),
        ("c", ("only 3", "only 4")),
    ]
    rows = [question(a, *others, prompt=f"p{i}:", fact=f"f{i}", separator=" ") for i, (a, others) in enumerate(offers)]
    rows.append(question("only 5", "a", prompt="p5:", fact="f5", also_right=("b",)))
    rows += [question("twice", "a", prompt="p6:", fact=f"f6 {i}") for i in range(2)]  # one prompt, asked twice
    high = {"p0: a": 9.0, "p0: b": 9.0, "p1: a": -20.0, "p1: only 1": 50.0, "p5:b": 9.0}

    def scores(_, questions):
        texts = [[tiny_gemma.tokenizer.decode([*stem, *end]) for end in ends] for stem, ends in questions]
        return [[high.get(text.removeprefix("<bos>"), 0.0) for text in options] for options in texts]

    monkeypatch.setattr(asking, "_scores", scores)
    found = asking.answers(tiny_gemma, pd.DataFrame(rows), progress=False).set_index("fact")["calibrated"]
    assert found.dtype == "boolean" and found[["f0", "f1", "f5"]].all()
    assert found[["f2", "f3", "f6 0", "f6 1"]].isna().all(), "no right answer, or no alternative, with a mean"
    few = pd.DataFrame(rows[:2]).assign(alternatives=[("b",), ("a",)])
    assert asking.answers(tiny_gemma, few, progress=False)["calibrated"].dtype == bool


# --- generation ------------------------------------------------------------------------------------------------


def test_generation_goes_on_after_the_line_breaks_that_come_before_an_answer(tiny_gemma, facts):
    one = facts[facts["fact"] == facts["fact"].iloc[0]].query("language == 'en'")

    def said(prompt, separator):
        return asking.generated(tiny_gemma, one.assign(prompt=prompt, separator=separator), progress=False).tolist()

    def begun(prompt):
        tokens = tiny_gemma.ids(prompt)
        with torch.no_grad():
            for _ in range(asking.NEW_TOKENS):
                tokens.append(int(tiny_gemma.model(torch.tensor([tokens]))[0, -1].argmax()))
        text = tiny_gemma.tokenizer.decode(tokens[-asking.NEW_TOKENS :], skip_special_tokens=True)
        return [text.split("\n")[0].strip()]

    assert said("Oman?", " ") == begun("Oman?") and said("Oman?", "\n") == begun("Oman?\n") != begun("Oman?")
    assert said("Oman?", " \n ") == begun("Oman? \n")


def test_generation_ends_with_a_turn(folder, tiny_gemma, facts, tmp_path):
    """A chat model's own end of turn, of its generation config, which an untrained control has, too."""
    one = facts[facts["fact"] == facts["fact"].iloc[0]].query("language == 'en'")
    tokens = tiny_gemma.ids(one["prompt"].iloc[0])
    with torch.no_grad():
        for _ in range(3):
            tokens.append(int(tiny_gemma.model(torch.tensor([tokens]))[0, -1].argmax()))
    *before, end = tokens[-3:]
    first = before[: before.index(end)] if end in before else before
    due = tiny_gemma.tokenizer.decode(first, skip_special_tokens=True).split("\n")[0].strip()
    assert asking.generated(tiny_gemma, one, progress=False).tolist() != [due]
    chat = shutil.copytree(folder, tmp_path / "chat")
    for ends in (end, [2, end]):
        said = json.loads((chat / "generation_config.json").read_text()) | {"eos_token_id": ends}
        (chat / "generation_config.json").write_text(json.dumps(said))
        model = pretrained.load(chat)
        assert model.ends == pretrained.untrained_like(model).ends == {2, end}
        assert asking.generated(model, one, progress=False).tolist() == [due]


# --- roles -----------------------------------------------------------------------------------------------------


class Slow:
    """A tokenizer without offsets."""

    is_fast = False

    def __init__(self, tokenizer):
        self.encode, self.all_special_ids = tokenizer.encode, tokenizer.all_special_ids
        self.n = len(tokenizer)

    def __len__(self):
        return self.n


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("language", LANGUAGES)
def test_subjects_stand_at_the_last_token_of_their_last_mention(tiny_gemma, facts, language, fast):
    if not fast:
        tiny_gemma = replace(tiny_gemma, tokenizer=Slow(tiny_gemma.tokenizer))
    found = prompts(tiny_gemma, facts, language, "currency")
    table = factsets.check(facts).query("language == @language and relation == 'currency'")
    tokenizer, at = tiny_gemma.tokenizer, found.roles["subject"].tolist()
    assert found.tolist() == [tokenizer.encode(text) for text in table["prompt"]] and list(found.roles) == [
        "subject",
        "last",
    ]
    for row in range(len(table)):
        prompt, subject = table[["prompt", "subject"]].iloc[row]
        before = tokenizer.encode(prompt[: prompt.rindex(subject) + len(subject)])
        assert at[row] == len(before) - 1 and found.tolist()[row][: len(before)] == before


def test_a_subject_is_found_where_it_is_a_word_and_not_in_the_examples(tiny_gemma, facts):
    one = facts[facts["fact"] == facts["fact"].iloc[-1]]

    def subject_in(prompt, subject="Oman"):
        table = one.assign(prompt=prompt, subject=subject)
        found = prompts(tiny_gemma, table, "en", "currency")
        at = int(found.roles["subject"][0])
        return tiny_gemma.tokenizer.decode(found.tolist()[0][: at + 1])

    assert subject_in("Oman: rial\nThe capital of Oman, next to Romania, is") == "Oman: rial\nThe capital of Oman"
    assert subject_in("オマーンの首都は", "オマーン") == "オマーン"
    assert subject_in("Oman's capital is", "Oman") == "Oman"
    for fast in (tiny_gemma, replace(tiny_gemma, tokenizer=Slow(tiny_gemma.tokenizer))):
        for text in ("Mali:", "oman:"):
            with pytest.raises(ValueError, match="the subject 'Oman' does not stand in its prompt"):
                prompts(fast, one.assign(prompt=text, subject="Oman"), "en")


def test_what_a_tokenizer_appends_is_no_part_of_a_prompt(tiny_gemma, facts):
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer.from_str(tiny_gemma.tokenizer.backend_tokenizer.to_str())
    raw.post_processor = TemplateProcessing(single="<bos> $A <eos>", special_tokens=[("<bos>", 1), ("<eos>", 2)])
    ends = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>")
    plain, found = (
        prompts(replace(tiny_gemma, tokenizer=tokenizer), facts, "de") for tokenizer in (tiny_gemma.tokenizer, ends)
    )
    assert found.tolist() == [[1, *row] for row in plain.tolist()]
    assert torch.equal(found.roles["subject"], plain.roles["subject"] + 1)


def test_facts_of_a_pretrained_model_are_patched_by_role(tiny_gemma, facts):
    target, source = (prompts(tiny_gemma, facts, language, "continent") for language in ("de", "ja"))
    metric = {"m": patching.Metric(lambda logits: logits[:, 5])}
    table = patching.by_layer_and_role(tiny_gemma.model, target, source, metric, layers=[1], progress=False)
    due, name = [], patching.residual(tiny_gemma.model, 1)
    for row, (here, there) in enumerate(zip(target.tolist(), source.tolist(), strict=True)):
        _, cache = tiny_gemma.model.run_with_cache(torch.tensor([there]))
        places = {"positions": int(target.roles["subject"][row]), "source_positions": int(source.roles["subject"][row])}
        hook = (name, partial(patching.hooks.patch, source=cache[name], **places))
        with torch.no_grad():
            due.append(float(tiny_gemma.model.run_with_hooks(torch.tensor([here]), fwd_hooks=[hook])[0, -1, 5]))
    assert table["m"][0] == pytest.approx(np.mean(due), abs=1e-5) and table["role"].tolist() == ["subject", "last"]
    assert table["m"].nunique() == 2
    for options, told in (
        ({"language": "fr"}, "language='fr': the fact set has de"),
        ({"relation": "x"}, "relation='x'"),
    ):
        with pytest.raises(ValueError, match=told):
            prompts(tiny_gemma, facts, **{"language": "de", **options})


def test_facts_are_edited_in_one_language_and_asked_in_all(tiny_gemma, facts):
    """Each edit, written into the weights, gives the answers and gains that the table tells, in every language."""
    wanted = editing.facts_to_edit(tiny_gemma, facts, "continent", n=3)
    assert len(wanted) == 3 and (wanted.first[:, wanted.old] != wanted.first[:, wanted.new]).all()
    spread = editing.covariance(wanted, facts, block=1)
    change = editing.made(wanted, "de", 1, spread, role="last")
    table = editing.judged(wanted, "de", change, n_neighbours=2)
    assert table.groupby("asked")["edit"].apply(list).map(lambda own: own == [0, 1, 2]).all()
    assert (table.loc[table["asked"] == "de", "gain"] > 0).all()
    near, of = wanted.neighbours(2)
    for edit in range(3):
        one = edits.RankOne(change.blocks, change.reads[:, [edit]], change.writes[:, [edit]])
        edited = edits.written(tiny_gemma.model, one)
        for number, language in enumerate(wanted.languages):
            row = table[(table["edit"] == edit) & (table["asked"] == language)].iloc[0]
            asked, first = wanted.prompts(language).tolist(), wanted.first[number]
            new, old = first[wanted.new[edit]], first[wanted.old[edit]]

            def by(model, fact, asked=asked, pair=(new, old)):
                with torch.no_grad():
                    logits = model(torch.tensor([asked[fact]]))[0, -1]
                return (logits[pair[0]] - logits[pair[1]]).item(), logits

            gains = [
                by(edited, fact)[0] - by(tiny_gemma.model, fact)[0] for fact in (wanted.old[edit], *near[of == edit])
            ]
            assert row["gain"] == pytest.approx(gains[0], abs=1e-3)
            assert row["control_gain"] == pytest.approx(np.mean(gains[1:]), abs=1e-3)
            said = by(edited, wanted.old[edit])[1]
            assert row["answered"] == (said.argmax() == new) and row["chosen"] == (said[first].max() == said[new])
            called = facts[facts["fact"] == row["fact"]].set_index("language")["subject"]
            assert row["same_subject"] == (called[language] == called["de"])
            assert row["same_token"] == (new == wanted.first[wanted.number("de"), wanted.new[edit]])


def test_only_facts_whose_answers_begin_apart_are_edited_into_each_other(merging):
    table = pd.DataFrame(
        [
            question("東京", "大阪"),
            question("大阪", "東京", fact="os", prompt="西の都は"),
            question("京都", "東京", fact="ky", prompt="古い都は"),
        ]
    )
    first = asking.first_tokens(merging, table)
    some = editing.facts_to_edit(merging, table, table["relation"].iloc[0], n=3)
    assert (first.to_numpy()[some.old] != first.to_numpy()[some.new]).all()
    apart = (some.first[:, some.neighbours(2)[0]] != some.first[:, some.new[some.neighbours(2)[1]]]).all()
    assert apart


def test_mistakes_in_edits_of_a_pretrained_model_are_named(tiny_gemma, facts):
    wanted = editing.facts_to_edit(tiny_gemma, facts, "continent", n=2)
    change = edits.RankOne((1,), torch.zeros(1, 1, 64), torch.zeros(1, 1, 32))
    edited = ul.FactSet.of(facts).select(facts=wanted.facts["fact"].drop_duplicates().iloc[wanted.old].tolist()).table
    for call, told in (
        (lambda: editing.facts_to_edit(tiny_gemma, facts, "x"), "relation='x': the fact set has continent, currency"),
        (lambda: editing.facts_to_edit(tiny_gemma, facts, "continent", n=0), "n=0; allowed: a whole number, 1 or more"),
        (
            lambda: editing.facts_to_edit(tiny_gemma, facts, "continent", among=["y"]),
            "among holds 'y'; allowed: facts of",
        ),
        (lambda: editing.judged(wanted, "de", change), "change has 1 edits, wanted 2; allowed: as many"),
        (lambda: editing.made(wanted, "fr", 1, torch.eye(64)[None]), "language='fr': the fact set has de, en, ja, ru"),
        (lambda: editing.covariance(wanted, facts, 9), "9"),
        (lambda: editing.covariance(wanted, edited, 1), "facts has no prompt without the edited subjects"),
    ):
        with pytest.raises(ValueError, match=told):
            call()
