"""Families of language models, tiny and random: answers, states and generation equal transformers', or a refusal."""

import pandas as pd
import pytest
import torch
from families import PAGE, REFUSED_HERE, VARIANTS, page_list, save, words

from unifylens.corpus import factsets
from unifylens.pretrained import asking
from unifylens.pretrained import models as pretrained

torch.set_num_threads(1)
EQUAL = [name for name in VARIANTS if name not in REFUSED_HERE]
SHOTS = "of a is b \n of c is d e \n of f is g \n of h is i j k \n of l is m \n"
ASKED = {"en": ("p", "q r"), "de": ("t u", "w x y")}
ANSWERS = ("A B", "C", "D E F")


@pytest.fixture(scope="module")
def facts():
    """Prompts longer than tiny windows of attention, with examples in common; answers of one to three words."""
    rows = [
        {
            "language": language,
            "relation": "of",
            "fact": f"of {number}",
            "subject": subject,
            "answer": ANSWERS[number],
            "prompt": f"{SHOTS} of {subject} is",
            "alternatives": [other for other in ANSWERS if other != ANSWERS[number]],
        }
        for language, subjects in ASKED.items()
        for number, subject in enumerate(subjects)
    ]
    return factsets.check(pd.DataFrame(rows))


@pytest.fixture(scope="module")
def tokenizer():
    return words()


class Plain:
    """What transformers alone says: one text at a time, whole, without caches or hooks of ours."""

    def __init__(self, folder):
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
        depth = self.model.config.num_hidden_layers
        lists = [module for module in self.model.modules() if isinstance(module, torch.nn.ModuleList)]
        self.blocks = next(blocks for blocks in lists if len(blocks) == depth)

    @torch.no_grad()
    def run(self, ids):
        """Logits [pos, d_vocab], and the residual stream at the last position [layer, d_model]."""
        states = []

        def keep(module, given, made):
            made = made[0] if isinstance(made, tuple) else made
            states.append(made[0, -1] if made.ndim == 3 else made[-1])

        handles = [block.register_forward_hook(keep) for block in self.blocks]
        out = self.model(torch.tensor([ids]), output_hidden_states=True, use_cache=False)
        for handle in handles:
            handle.remove()
        return out.logits[0], torch.stack([out.hidden_states[0][0, -1], *states])

    def score(self, prompt, answer):
        ids, whole = (self.tokenizer.encode(text) for text in (prompt, f"{prompt} {answer}"))
        said = self.run(whole)[0].log_softmax(-1)
        return sum(float(said[i - 1, whole[i]]) for i in range(len(ids), len(whole)))

    def go_on(self, prompt, n):
        ids, new = self.tokenizer.encode(prompt), []
        while len(new) < n and self.tokenizer.eos_token_id not in new:
            new.append(int(self.run(ids + new)[0][-1].argmax()))
        return self.tokenizer.decode(new, skip_special_tokens=True).strip()


@pytest.mark.parametrize("name", EQUAL)
def test_a_family_says_what_it_says_to_transformers(name, tokenizer, facts, tmp_path, monkeypatch):
    """Shared caches, padding and hooks change nothing, whatever the attention is, answers run together or alone."""
    monkeypatch.setattr(asking, "NEW_TOKENS", 3)
    folder = save(name, tokenizer, tmp_path)
    loaded, plain = pretrained.load(folder), Plain(folder)
    said = asking.answers(loaded, facts, progress=False)
    due = [[plain.score(row.prompt, text) for text in (row.answer, *row.alternatives)] for row in facts.itertuples()]
    assert said["log_probability"].tolist() == pytest.approx([first for first, *_ in due], rel=1e-5, abs=1e-5)
    assert said["right"].tolist() == [first > max(others) for first, *others in due]
    states = asking.states(loaded, facts, progress=False).flatten(1, 2)
    for row, prompt in enumerate(facts["prompt"]):
        _, theirs = plain.run(plain.tokenizer.encode(prompt))
        torch.testing.assert_close(states[:, row], theirs, rtol=0, atol=1e-5 * max(1, float(theirs.abs().max())))
    assert asking.generated(loaded, facts, progress=False).tolist() == [plain.go_on(p, 3) for p in facts["prompt"]]


@pytest.mark.parametrize("name", REFUSED_HERE)
def test_other_families_are_refused_by_name(name, tokenizer, tmp_path):
    folder = save(name, tokenizer, tmp_path)
    with pytest.raises(ValueError, match=rf"(?s)\(family '{VARIANTS[name][0]}'\) .*{REFUSED_HERE[name]}.*; allowed: "):
        pretrained.load(folder)


def test_the_site_lists_what_is_tested():
    """`python tests/families.py` renews the list."""
    assert len(VARIANTS) >= 43 and set(REFUSED_HERE) < set(VARIANTS)
    assert page_list() in PAGE.read_text(encoding="utf-8")
