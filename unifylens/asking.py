"""Ask a pretrained model the questions of a fact set: log-probabilities of whole answers, generation, states."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from unifylens.evaluate import layer_names
from unifylens.factsets import check
from unifylens.pretrained import Pretrained

ROWS = 32
NEW_TOKENS = 12


def encodable(pretrained: Pretrained, facts: pd.DataFrame) -> pd.DataFrame:
    """How well the tokenizer writes each language: tokens per character, and the share of unknown or byte tokens.

    A script that a tokenizer has no pieces for is written in bytes, several tokens a letter.
    """
    tokenizer = pretrained.tokenizer
    rows = []
    for language, table in check(facts).groupby("language"):
        texts = [*table["subject"].unique(), *table["answer"].unique()]
        ids = [i for text in texts for i in tokenizer.encode(text, add_special_tokens=False)]
        pieces = tokenizer.convert_ids_to_tokens(ids)
        partial = [
            i == tokenizer.unk_token_id
            or (p.startswith("<0x") and p.endswith(">"))
            or "\ufffd" in tokenizer.decode([i])
            for i, p in zip(ids, pieces, strict=True)
        ]
        rows.append(
            {
                "language": language,
                "tokens per character": len(ids) / sum(map(len, texts)),
                "unknown or byte tokens": float(np.mean(partial)),
            }
        )
    return pd.DataFrame(rows).set_index("language")


@torch.no_grad()
def answers(pretrained: Pretrained, facts: pd.DataFrame, *, progress: bool = True) -> pd.DataFrame:
    """The fact set with `log_probability` (nats, of the whole right answer), and two answers: `right`, `calibrated`.

    `right`: whether the right answer is likelier than every alternative. Some words are likely whatever is asked, and
    long ones are unlikely, so `calibrated` asks the same of log-probabilities less their mean over the questions of the
    relation in the language (after Zhao et al. 2021, arXiv 2102.09690, without their neutral prompts).
    What the prompts of a relation and language begin with in common is computed once.
    Raises ValueError if `facts` is no fact set.
    """
    facts = check(facts)
    out = facts.assign(log_probability=0.0, right=False, calibrated=False)
    groups = list(facts.groupby(["language", "relation"]))
    for _, group in tqdm(groups, desc="log-probabilities", unit="relation", disable=not progress):
        prompts = {row: _ids(pretrained, text) for row, text in group["prompt"].items()}
        said = pd.DataFrame(
            [
                (row, text, i == 0)
                for row, answer, others in zip(group.index, group["answer"], group["alternatives"], strict=True)
                for i, text in enumerate((answer, *others))
            ],
            columns=["row", "text", "due"],
        )
        full = [
            _ids(pretrained, f"{group['prompt'][row]} {text}")
            for row, text in zip(said["row"], said["text"], strict=True)
        ]
        common = min(_common([*full, *prompts.values()]), min(map(len, prompts.values())) - 1)
        begins = [_common([tokens, prompts[row]]) for row, tokens in zip(said["row"], full, strict=True)]
        said["score"] = _scores(pretrained, list(zip(full, begins, strict=True)), common)
        said["calibrated"] = said["score"] - said.groupby("text")["score"].transform("mean")
        due, others = said[said["due"]].set_index("row"), said[~said["due"]].groupby("row")
        out.loc[due.index, "log_probability"] = due["score"]
        out.loc[due.index, "right"] = due["score"] > others["score"].max()
        out.loc[due.index, "calibrated"] = due["calibrated"] > others["calibrated"].max()
    return out


def _ids(pretrained: Pretrained, text: str) -> list[int]:
    return pretrained.tokenizer.encode(text)


def _common(rows: list[list[int]]) -> int:
    """How many tokens all rows begin with in common."""
    shortest = min(map(len, rows))
    return next((i for i in range(shortest) if len({row[i] for row in rows}) > 1), shortest)


def _scores(pretrained: Pretrained, rows: list[tuple[list[int], int]], common: int) -> list[float]:
    """Log-probability of every row's tokens from a place on; all rows share their first `common` tokens."""
    network, device = pretrained.network, pretrained.device
    shared = network(torch.tensor([rows[0][0][:common]], device=device), use_cache=True).past_key_values
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]))  # rows of a batch are about as long
    scores = [0.0] * len(rows)
    for start in range(0, len(order), ROWS):
        chosen = [rows[i] for i in order[start : start + ROWS]]
        width = max(len(tokens) for tokens, _ in chosen) - common
        batch = torch.zeros(len(chosen), width, dtype=torch.long, device=device)
        for row, (tokens, _) in zip(batch, chosen, strict=True):
            row[: len(tokens) - common] = torch.tensor(tokens[common:], device=device)
        past = copy.deepcopy(shared)
        past.batch_repeat_interleave(len(chosen))
        logits = network(batch, past_key_values=past, use_cache=True).logits
        for i, logit, (tokens, begins) in zip(order[start : start + ROWS], logits, chosen, strict=True):
            due = torch.tensor(tokens[begins:], device=device)
            at = logit[begins - 1 - common : len(tokens) - 1 - common].log_softmax(-1)
            scores[i] = float(at.gather(1, due[:, None]).sum())
    return scores


@torch.no_grad()
def generated(pretrained: Pretrained, facts: pd.DataFrame, *, progress: bool = True) -> pd.Series:
    """What the model goes on with, greedily, up to the end of the line: one text a row of the fact set."""
    facts, tokenizer = check(facts), pretrained.tokenizer
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    said: dict[int, str] = {}
    for rows in tqdm(list(_batches(pretrained, facts)), desc="generating", unit="batch", disable=not progress):
        ids = [_ids(pretrained, facts.loc[row, "prompt"]) for row in rows]
        width = max(map(len, ids))
        tokens = torch.tensor([[pad] * (width - len(row)) + row for row in ids], device=pretrained.device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids], device=pretrained.device)
        out = pretrained.network.generate(
            tokens, attention_mask=mask, max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=pad
        )
        for row, new in zip(rows, out[:, width:], strict=True):
            said[row] = tokenizer.decode(new, skip_special_tokens=True).strip().split("\n")[0].strip()
    return pd.Series(said).sort_index()


@torch.no_grad()
def states(
    pretrained: Pretrained, facts: pd.DataFrame, *, progress: bool = True
) -> Float[Tensor, "layer language fact d_model"]:
    """Residual stream at each prompt's last token, from the embedding to after the last block.

    Languages and facts are in the order of the sorted table (`check`).
    """
    facts, model = check(facts), pretrained.model
    names = layer_names(model.cfg.n_layers)
    n_languages = facts["language"].nunique()
    out = torch.empty(len(names), len(facts), model.cfg.d_model)
    for rows in tqdm(list(_batches(pretrained, facts)), desc="states", unit="batch", disable=not progress):
        ids = [_ids(pretrained, facts.loc[row, "prompt"]) for row in rows]
        tokens = torch.zeros(len(ids), max(map(len, ids)), dtype=torch.long, device=pretrained.device)
        for row, own in zip(tokens, ids, strict=True):
            row[: len(own)] = torch.tensor(own)  # what follows a causal model's last token does not matter
        _, cache = model.run_with_cache(tokens, names_filter=names, return_type=None)
        last = torch.tensor([len(row) - 1 for row in ids])
        for layer, name in enumerate(names):
            out[layer, rows] = cache[name][torch.arange(len(ids)), last].float().cpu()
    return out.unflatten(1, (n_languages, -1))


def _batches(pretrained: Pretrained, facts: pd.DataFrame) -> Iterator[list[int]]:
    """Rows with prompts of about one length."""
    lengths = facts["prompt"].map(lambda text: len(_ids(pretrained, text)))
    order = lengths.sort_values(kind="stable").index.tolist()
    yield from (order[start : start + ROWS] for start in range(0, len(order), ROWS))
