"""Pretrained models: a tiny random Gemma 2 takes the whole path, says nothing true, and mistakes are named."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

import unifylens as ul
from unifylens import patching
from unifylens.corpus import factsets
from unifylens.crosslingual import pairs
from unifylens.pretrained import asking
from unifylens.pretrained import models as pretrained

LANGUAGES = ("en", "de", "ru", "ja")


@pytest.fixture(scope="module")
def facts():
    return factsets.from_cldr(LANGUAGES, ("continent", "currency"), per_relation=12)


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
        factsets.read_eclektic()


HUB = """
import pytest
from unifylens.pretrained import models as pretrained
loaded = pretrained.load("someone/tiny-gemma", hub=True)
print(loaded)
with pytest.raises(ConnectionError, match="(?s)someone/gone could not be fetched .* allowed: a local folder"):
    pretrained.load("someone/gone", hub=True)
pretrained._check_memory = lambda name, n_parameters, device: print(name, n_parameters)
pretrained.load("someone/tiny-gemma", hub=True)
"""


def test_a_hub_is_read_by_name(folder, tmp_path):
    """From what a hub leaves in its cache: names, files and terms are resolved as with a network."""
    commit = "0" * 40
    cached = tmp_path / "models--someone--tiny-gemma"
    shutil.copytree(folder, cached / "snapshots" / commit)
    (cached / "snapshots" / commit / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    offline = {**os.environ, "HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    ran = subprocess.run([sys.executable, "-c", HUB], env=offline, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    loaded, checked = ran.stdout.splitlines()[-2:]
    assert loaded.startswith("someone/tiny-gemma: 3 layers of 32") and loaded.endswith("licence: apache-2.0")
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    assert int(checked.split()[1]) == sum(w.numel() for w in weights.values()), "counted before they are fetched"


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


# --- fact sets -----------------------------------------------------------------------------------------------


def test_real_facts_as_few_shot_prompts(facts):
    german = facts[facts["language"] == "de"].set_index("fact")
    assert (german["prompt"].str.count("\n") == 4).all()
    shown = set(german["prompt"].iloc[0].split("\n")[:-1])
    assert all(f"{row.subject}: {row.answer}" not in shown for row in german.itertuples())
    assert facts.groupby("language").size().nunique() == 1
    assert all(row.answer not in row.alternatives for row in facts.itertuples())
    # the UN has 193 members, of which four are the examples
    everywhere = factsets.from_cldr(("en", "de"), ("continent",), per_relation=500)
    assert "Åland Islands" not in set(everywhere["subject"]) and everywhere["fact"].nunique() == 193 - 4
    with pytest.raises(ValueError, match=r"relation 'currency' has .* allowed: more than shots=40"):
        factsets.from_cldr(LANGUAGES, ("currency",), shots=40)
    with pytest.raises(ValueError, match="CLDR has no data for 'xx'"):
        factsets.from_cldr(("en", "xx"))


def klar(folder, languages=("en", "fr")):
    for language in languages:
        samples = [{"subject": f"s{i} {language}", "object": f"o{i % 3} {language}"} for i in range(5)]
        content = {"prompt_templates": ["The capital of <subject> is <mask>", "..."], "samples": samples}
        (folder / language).mkdir()
        (folder / language / "capital.json").write_text(json.dumps(content))


def test_klar_is_read_from_its_files(tmp_path):
    klar(tmp_path)
    table = factsets.read_klar(tmp_path)
    assert len(table) == 10 and table["prompt"][0] == "The capital of s0 en is" and table["answer"][0] == "o0 en"
    assert all(len(row.alternatives) == 2 and row.answer not in row.alternatives for row in table.itertuples())
    with pytest.raises(ValueError, match=r"language 'pl': no .*json"):
        factsets.read_klar(tmp_path, ("en", "pl"))
    (tmp_path / "en" / "capital.json").write_text(json.dumps({"samples": []}))
    with pytest.raises(ValueError, match="a row lacks 'prompt_templates'; it has samples"):
        factsets.read_klar(tmp_path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        factsets.read_klar(tmp_path / "nowhere")


def test_a_local_file_takes_the_whole_path_to_a_null_result(tiny_gemma, tmp_path):
    klar(tmp_path, ("de", "en", "fr", "ru"))
    facts = factsets.read_klar(tmp_path, n_alternatives=2)
    answers, states = (
        asking.answers(tiny_gemma, facts, progress=False),
        asking.states(tiny_gemma, facts, progress=False),
    )
    assert abs(answers["right"].mean() - 1 / 3) < 0.3, "three answers, and a model that knows nothing"
    assert len(asking.generated(tiny_gemma, facts, progress=False)) == len(facts)
    table = pairs.states_and_answers(states, answers.assign(right=answers["calibrated"]))
    assert len(table) == 4 * 6 and table.loc[table["layer"] > 0, "centred"].notna().all()
    assert table["overall"].between(0, 0.7).all()


def test_eclektic_and_mlama_are_read_from_local_copies(tmp_path):
    rows = [
        {
            "q_id": i,
            "original_lang": "en",
            "title": f"t{i}",
            **{f"{lang}_{kind}": f"{kind}{i} {lang}" for lang in ("en", "he") for kind in ("q", "a")},
        }
        for i in range(4)
    ]
    file = tmp_path / "eclektic_main.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    table = factsets.read_eclektic(file)
    assert len(table) == 8 and set(table["original"]) == {"en"} and table["answer"][0] == "a0 en"
    assert set(table["alternatives"][0]) == {"a1 en", "a2 en", "a3 en"}

    mlama = pd.DataFrame(
        [
            (lang, "P36", i, template, f"s{i}", f"o{i}")
            for lang, template in (("en", "The capital of [X] is [Y] ."), ("de", "[X] hat die Hauptstadt [Y]"))
            for i in range(3)
        ]
        + [("de", "P1", 0, "[Y] ist in [X]", "s", "o")],
        columns=["language", "predicate_id", "lineid", "template", "sub_label", "obj_label"],
    )
    mlama.to_parquet(tmp_path / "mlama.parquet")
    table = factsets.read_mlama(tmp_path / "mlama.parquet")
    assert len(table) == 6 and set(table["prompt"]) >= {"The capital of s0 is", "s0 hat die Hauptstadt"}
    with pytest.raises(ValueError, match=r"allowed are .jsonl, .parquet and .csv"):
        (tmp_path / "m.txt").touch()
        factsets.read_mlama(tmp_path / "m.txt")
    assert set(factsets.read_mlama(tmp_path / "mlama.parquet", ("de",))["language"]) == {"de"}
    with pytest.raises(ValueError, match="languages: no rows in fr; allowed: de, en"):
        factsets.read_mlama(tmp_path / "mlama.parquet", ("de", "fr"))
    with pytest.raises(ValueError, match=r"mlama.parquet: a row lacks 'q_id'; it has language, "):
        factsets.read_eclektic(tmp_path / "mlama.parquet")
    # a CSV's numbers and "NA" are texts; a question that a language lacks drops out
    sheet = pd.DataFrame([(str(i), "en", f"q{i}", a) for i, a in enumerate(["1990", "NA", "1991", ""])])
    sheet.to_csv(tmp_path / "e.csv", header=["q_id", "original_lang", "en_q", "en_a"], index=False)
    assert list(factsets.read_eclektic(tmp_path / "e.csv")["answer"]) == ["1990", "NA", "1991"]
    with pytest.raises(ValueError, match="fact '0' stands twice in 'en'"):
        file.write_text(json.dumps(rows[0]) + "\n" + json.dumps(rows[0]))
        factsets.read_eclektic(file)


def test_fact_sets_of_a_hub_are_read_by_datasets(tmp_path, monkeypatch):
    """`datasets` takes folders of the names that copies have on the hub, whatever their splits are called."""
    pytest.importorskip("datasets")
    monkeypatch.chdir(tmp_path)
    for module in ("datasets.config", "huggingface_hub.constants"):
        monkeypatch.setattr(f"{module}.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    eclektic, mlama = (tmp_path / factsets.HUBS[name]["path"] for name in ("eclektic", "mlama"))
    eclektic.mkdir(parents=True)
    rows = [{"q_id": i, "original_lang": "en", "title": "t", "en_q": f"q{i}", "en_a": f"a{i}"} for i in range(4)]
    (eclektic / "eclektic_main.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (eclektic / "eclektic_dev.jsonl").write_text(json.dumps({"something": "else"}))
    assert list(factsets.read_eclektic(hub=True)["answer"]) == ["a0", "a1", "a2", "a3"]
    (mlama / "data").mkdir(parents=True)
    pd.DataFrame(
        {
            "language": "en",
            "predicate_id": "P36",
            "lineid": range(3),
            "template": "The capital of [X] is [Y] .",
            "sub_label": list("abc"),
            "obj_label": list("xyz"),
        }
    ).to_parquet(mlama / "data" / "test-00000-of-00001.parquet")
    assert list(factsets.read_mlama(hub=True)["answer"]) == ["x", "y", "z"]
    shutil.rmtree(mlama)
    with pytest.raises(ConnectionError, match=r"(?s)atutej/m_lama could not be fetched .* allowed: a local file"):
        factsets.read_mlama(hub=True)


def test_tables_that_are_no_fact_sets_are_refused(facts):
    with pytest.raises(ValueError, match="missing: answer"):
        factsets.check(facts.drop(columns="answer"))
    with pytest.raises(ValueError, match="stands twice in 'de'"):
        factsets.check(pd.concat([facts, facts.iloc[:1]]))
    with pytest.raises(ValueError, match="have different facts"):
        factsets.check(facts.iloc[1:])
    with pytest.raises(ValueError, match="has no alternative"):
        factsets.check(facts.assign(alternatives=[()] * len(facts)))


def test_a_random_model_gives_a_null_result(tiny_gemma):
    """What CI can say of C11: the whole path on a model that knows nothing finds nothing."""
    facts = factsets.from_cldr((*LANGUAGES, "fr", "es", "uk"), ("continent", "currency"), per_relation=40)
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
    facts = factsets.from_cldr(("en", "fr"), ("language",), per_relation=24)
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
