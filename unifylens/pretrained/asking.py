"""Ask a pretrained model the questions of a fact set: log-probabilities of whole answers, generation, states."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm

from unifylens import patching
from unifylens.corpus.factsets import Facts, check
from unifylens.measures.answers import FOUR_ANSWERS
from unifylens.patching.stream import layer_names
from unifylens.pretrained.models import Pretrained
from unifylens.pretrained.selfcheck import copies
from unifylens.seeds import rng

ROWS, QUESTIONS = 32, 8
"""Prompts, and questions with all their answers, that are run at a time."""
NEW_TOKENS = 12


def encodable(pretrained: Pretrained, facts: Facts) -> pd.DataFrame:
    """How well the tokenizer writes each language: tokens per character, and the share of unknown or byte tokens.

    A script that a tokenizer has no pieces for is written in bytes, several tokens a letter.
    """
    tokenizer = pretrained.tokenizer
    rows = []
    for language, table in check(facts).groupby("language"):
        also_right = table["also_right"].explode().dropna()
        texts = [*table["subject"].unique(), *pd.concat([table["answer"], also_right]).unique()]
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
def answers(pretrained: Pretrained, facts: Facts, *, progress: bool = True) -> pd.DataFrame:
    """The fact set with `log_probability` (nats, of the whole right answer), and two answers: `right`, `calibrated`.

    `log_probability` is that of the text's tokens after the prompt's. Where one token holds the prompt's end and the
    answer's beginning, it is that of the text's tokens from there on, less that of the tokens which the prompt alone
    has from there on; as the text may be the likelier of the two, it may be above 0. Other answers do not change it.

    `right`: whether the likeliest right answer (`answer`, or one that is `also_right`) is likelier than every
    alternative. Nothing asks for an answer to end, so one whose tokens begin another's ("Guinea", "Guinea-Bissau") is
    always at least as likely as the longer one.

    Some words are likely whatever is asked, and long ones are unlikely, so `calibrated` asks the same of
    log-probabilities less their mean over the questions of the relation in the language that offer the answer (after
    Zhao et al. 2021, arXiv 2102.09690, without their neutral prompts). Where answers are of unequal frequency, what is
    taken off is in part knowledge, and `calibrated` may be the lower of the two (`measures.without_prior`): show both.
    An answer that one prompt alone offers has no such mean, and does not count there; where no right answer has one, or
    no alternative, `calibrated` is NA (and the column pandas' nullable `boolean`).

    Raises ValueError if `facts` is no fact set, a prompt and answer are longer than the model's context, an answer adds
    no token, or a prompt and its answers begin with no token in common.
    """
    facts = check(facts)
    out = facts.assign(log_probability=0.0, right=False, calibrated=pd.array([pd.NA] * len(facts), dtype="boolean"))
    groups = list(facts.groupby(["language", "relation"]))
    for _, group in tqdm(groups, desc="log-probabilities", unit="relation", disable=not progress):
        right = [(answer, *also) for answer, also in zip(group["answer"], group["also_right"], strict=True)]
        texts = [(*due, *others) for due, others in zip(right, group["alternatives"], strict=True)]
        asked = zip(group["prompt"], group["separator"], texts, strict=True)
        questions = [_question(pretrained, prompt, joint, options) for prompt, joint, options in asked]
        scores = [
            [score - sum(values[len(options) :]) for score in values[: len(options)]]
            for options, values in zip(texts, _scores(pretrained, questions), strict=True)
        ]
        said = pd.DataFrame({"row": group.index, "prompt": group["prompt"], "text": texts, "score": scores})
        said = said.explode(["text", "score"], ignore_index=True).astype({"score": float})
        by_text = said.groupby("text")["score"]
        said["calibrated"] = said["score"] - by_text.transform("mean")
        place = said.groupby("row").cumcount()
        due = place < said["row"].map(dict(zip(group.index, map(len, right), strict=True)))
        first = said[place == 0].set_index("row")
        out.loc[first.index, "log_probability"] = first["score"]
        out.loc[first.index, "right"] = (
            said[due].groupby("row")["score"].max() > said[~due].groupby("row")["score"].max()
        )
        often = said["prompt"].groupby(said["text"]).transform("nunique") > 1
        best, other = (said[part & often].groupby("row")["calibrated"].max() for part in (due, ~due))
        both = best.index.intersection(other.index)
        out.loc[both, "calibrated"] = best[both] > other[both]
    return out if out["calibrated"].isna().any() else out.astype({"calibrated": bool})


Question = tuple[list[int], list[list[int]]]
"""What a prompt and its answers begin with in common, and what each goes on with, in tokens."""


def _question(pretrained: Pretrained, prompt: str, separator: str, options: Sequence[str]) -> Question:
    """Each option's tokens; then, where one of them takes tokens of the prompt's end in, the prompt's own."""
    asked, *full = [pretrained.ids(text) for text in (prompt, *(f"{prompt}{separator}{option}" for option in options))]
    for option, tokens in zip(options, full, strict=True):
        if tokens == asked[: len(tokens)]:
            raise ValueError(
                f"the answer {option!r} adds no token to {prompt[-60:]!r} in {pretrained.name}; allowed: answers that "
                "its tokenizer can write"
            )
    stem = _common([asked, *full])
    if not stem:
        raise ValueError(
            f"{prompt[-60:]!r} and its answers, such as {options[0]!r}, begin with no token in common in "
            f"{pretrained.name}; allowed: longer prompts, such as with examples before them"
        )
    own = [asked[stem:]] if len(asked) > stem else []
    return asked[:stem], [*(tokens[stem:] for tokens in full), *own]


def _common(rows: list[list[int]]) -> int:
    """How many tokens all rows begin with in common."""
    shortest = min(map(len, rows))
    return next((i for i in range(shortest) if len({row[i] for row in rows}) > 1), shortest)


def _scores(pretrained: Pretrained, questions: list[Question]) -> list[list[float]]:
    """Log-probability of every option of every question.

    What all stems begin with in common (the examples) is computed once, and each stem once for all its options.
    Stems of a batch are of one length, as padding inside a cache would shift sliding attention windows.
    """
    network, device = pretrained.network, pretrained.device
    shared, common = _shared(pretrained, [stem for stem, _ in questions])
    scores: list[list[float]] = [[] for _ in questions]
    for batch in _of_one_length({i: stem for i, (stem, _) in enumerate(questions)}, QUESTIONS):
        stems = torch.tensor([questions[i][0][common:] for i in batch], device=device)
        out = network(stems, past_key_values=copies(shared, len(batch)), use_cache=True, logits_to_keep=1)
        first, past = out.logits[:, -1].log_softmax(-1), out.past_key_values
        rows = [(place, option) for place, i in enumerate(batch) for option in questions[i][1]]
        row_scores = torch.stack([first[place, option[0]] for place, option in rows])
        long = [r for r, (_, option) in enumerate(rows) if len(option) > 1]
        if long:
            options = [torch.tensor(rows[r][1], device=device) for r in long]
            tokens = pad_sequence(options, batch_first=True)
            past.batch_select_indices(torch.tensor([rows[r][0] for r in long], device=device))
            there = torch.arange(1, tokens.shape[1], device=device) < torch.tensor(
                [[len(option)] for option in options], device=device
            )
            with pretrained.model.hooks([("unembed.hook_in", partial(_only, where=there))]):
                later = network(tokens[:, :-1], past_key_values=past, use_cache=True).logits
            later = -torch.nn.functional.cross_entropy(later, tokens[:, 1:][there], reduction="none")
            row_scores[long] += torch.zeros(len(long), device=device).index_add(0, there.nonzero()[:, 0], later)
        for (place, _), value in zip(rows, row_scores.tolist(), strict=True):
            scores[batch[place]].append(value)
    return scores


def _only(
    states: Float[Tensor, "row pos d_model"], where: Bool[Tensor, "row pos"], **_: Any
) -> Float[Tensor, "token d_model"]:
    """What is not padding: unembedding into a vocabulary of 262,144 is most of the work."""
    return states[where]


def _of_one_length(prompts: dict[int, list[int]], n: int) -> Iterator[list[int]]:
    """Keys of prompts of one length, up to `n` at a time."""
    order = sorted(prompts, key=lambda i: len(prompts[i]))
    for _, same in groupby(order, key=lambda i: len(prompts[i])):
        yield from _chunks(list(same), n)


def _chunks(items: list[Any], n: int) -> Iterator[list[Any]]:
    return (items[start : start + n] for start in range(0, len(items), n))


def _shared(pretrained: Pretrained, prompts: list[list[int]]) -> tuple[Any, int]:
    """The key-value cache of what all prompts begin with in common, short of their last tokens, and its length."""
    common = min(_common(prompts), min(map(len, prompts)) - 1)
    tokens = torch.tensor([prompts[0][:common]], device=pretrained.device)
    return pretrained.network(tokens, use_cache=True, logits_to_keep=1).past_key_values if common else None, common


@torch.no_grad()
def generated(pretrained: Pretrained, facts: Facts, *, progress: bool = True) -> pd.Series:
    """What the model goes on with, greedily, up to the end of the line or turn: one text a row of the fact set.

    It goes on from the prompt, and from the separator's line breaks where it has some; blanks after them are the
    model's to say.

    Raises ValueError if `facts` is no fact set, or a prompt and NEW_TOKENS are longer than the model's context.
    """
    facts = check(facts)
    said: dict[int, str] = {}
    groups = list(facts.groupby(["language", "relation"]))
    for _, group in tqdm(groups, desc="generating", unit="relation", disable=not progress):
        breaks = [separator[: separator.rfind("\n") + 1] for separator in group["separator"]]
        prompts = {row: pretrained.ids(text, NEW_TOKENS) for row, text in (group["prompt"] + breaks).items()}
        shared, common = _shared(pretrained, list(prompts.values()))
        for rows in _of_one_length(prompts, ROWS):
            tokens = torch.tensor([prompts[row][common:] for row in rows], device=pretrained.device)
            said |= zip(rows, _greedily(pretrained, tokens, copies(shared, len(rows))), strict=True)
    return pd.Series(said).sort_index()


def _greedily(pretrained: Pretrained, tokens: Int[Tensor, "row pos"], past: Any) -> list[str]:
    """The likeliest token again and again, up to where each row's text ends, or NEW_TOKENS.

    Ends of lines are seen in the text: tokenizers drop line breaks, or write several of them as one token.
    """
    tokenizer, new = pretrained.tokenizer, torch.empty(len(tokens), 0, dtype=torch.int64)
    texts, ended = [""] * len(tokens), [False] * len(tokens)
    while not all(ended) and new.shape[1] < NEW_TOKENS:
        out = pretrained.network(tokens, past_key_values=past, use_cache=True, logits_to_keep=1)
        tokens, past = out.logits[:, -1].argmax(-1, keepdim=True), out.past_key_values
        new = torch.cat([new, tokens.cpu()], 1)
        for row, ids in enumerate(new.tolist()):
            if not ended[row]:
                over = ids[-1] in pretrained.ends
                text = tokenizer.decode(ids[: len(ids) - over], skip_special_tokens=True)
                ended[row] = over or "\n" in text
                texts[row] = text.split("\n")[0].strip()
    return texts


@torch.no_grad()
def states(
    pretrained: Pretrained, facts: Facts, *, progress: bool = True
) -> Float[Tensor, "layer language fact d_model"]:
    """Residual stream at each prompt's last token, from the embedding to after the last block.

    Languages and facts are in the order of the sorted table (`check`). The last token is that of the last word, also
    where a tokenizer appends special ones.

    Raises ValueError if `facts` is no fact set, or a prompt is longer than the model's context.
    """
    facts, model = check(facts), pretrained.model
    names = layer_names(model.cfg.n_layers)
    out = torch.empty(len(names), len(facts), model.cfg.d_model)
    groups = list(facts.groupby(["language", "relation"]))
    for _, group in tqdm(groups, desc="states", unit="relation", disable=not progress):
        prompts = [pretrained.ids(text) for text in group["prompt"]]
        shared, common = _shared(pretrained, prompts)
        for batch in _chunks(list(zip(group.index, prompts, strict=True)), ROWS):
            ends = [torch.tensor(ids[common:], device=pretrained.device) for _, ids in batch]
            tokens = pad_sequence(ends, batch_first=True)  # what follows a causal model's last token does not matter
            _, cache = model.run_with_cache(
                tokens,
                names_filter=names,
                return_type=None,
                past_key_values=copies(shared, len(batch)),
                use_cache=True,
                logits_to_keep=1,
            )
            last = torch.tensor([len(end) - 1 for end in ends])
            for layer, name in enumerate(names):
                out[layer, [row for row, _ in batch]] = cache[name][torch.arange(len(ends)), last].float().cpu()
    return out.unflatten(1, (facts["language"].nunique(), -1))


def first_tokens(pretrained: Pretrained, facts: Facts) -> pd.Series:
    """First token of each answer, by `language` and `fact`; -1 where one token holds the prompt's end, too."""
    facts = check(facts)
    asked = zip(facts["prompt"], facts["separator"], facts["answer"], strict=True)
    goes_on = [_question(pretrained, prompt, joint, [answer])[1] for prompt, joint, answer in asked]
    index = pd.MultiIndex.from_frame(facts[["language", "fact"]])
    return pd.Series([-1 if own else answer[0] for answer, *own in goes_on], index)


@dataclass(frozen=True)
class Crossed:
    """Prompts in two languages to patch across (`unifylens.patching`): row i of `source` into row i of `target`."""

    source: Int[Tensor, "pair source_pos"]
    target: Int[Tensor, "pair target_pos"]
    answers: dict[str, Int[Tensor, " pair"]]
    """First token of each of the four answers of `measures.FOUR_ANSWERS`."""
    left_out: tuple[str, ...] = ()
    """Facts in no pair, as in one of the languages a token holds the prompt's end and the answer's beginning."""

    def shares(self) -> dict[str, patching.Metric]:
        """Share of pairs in which each of the four answers is the likeliest of the four; chance is 1/4."""

        def likeliest(due: int) -> patching.Metric:
            return patching.Metric(
                lambda logits, *four: (
                    torch.cat([logits.gather(1, t[:, None]) for t in four], 1).argmax(1) == due
                ).float(),
                *self.answers.values(),
            )

        return {name: likeliest(number) for number, name in enumerate(self.answers)}


def crossed(
    pretrained: Pretrained,
    facts: Facts,
    source: str,
    target: str,
    relation: str,
    n_pairs: int = 12,
    seed: int = 0,
) -> Crossed:
    """Pairs of different facts of a relation, one asked in each language, whose four answers begin with four tokens.

    Prompts of a language are all of its most frequent length, as nothing is padded. Facts whose answer has no first
    token of its own (in `left_out`) are in no pair.
    Raises ValueError for a language or relation that `facts` lacks, or where fewer than two such pairs exist.
    """
    facts = check(facts)
    for field, given, known in (
        ("source", source, facts["language"]),
        ("target", target, facts["language"]),
        ("relation", relation, facts["relation"]),
    ):
        if given not in set(known):
            raise ValueError(f"{field}={given!r}: the fact set has {', '.join(sorted(set(known)))}")
    table = facts[facts["relation"] == relation].set_index(["language", "fact"])
    ids = {
        lang: {fact: pretrained.ids(text) for fact, text in table.loc[lang, "prompt"].items()}
        for lang in (source, target)
    }
    here = (facts["relation"] == relation) & facts["language"].isin([source, target])
    first = first_tokens(pretrained, facts[here])
    left_out = {fact for (_, fact), token in first.items() if token < 0}
    chosen = {
        lang: _of_modal_length({fact: tokens for fact, tokens in prompts.items() if fact not in left_out})
        for lang, prompts in ids.items()
    }
    crossings = [
        (f, g, four)
        for f in chosen[source]
        for g in chosen[target]
        if len(set(four := (first[target, f], first[source, f], first[target, g], first[source, g]))) == 4
    ]
    if len(crossings) < 2:
        merged = f" ({len(left_out)} facts are left out, as a token holds the prompt's end and the answer's beginning)"
        raise ValueError(
            f"{source} to {target}, {relation!r}: {len(crossings)} pairs of facts have four different first tokens"
            f"{merged if left_out else ''}; allowed: two or more (other languages, or more facts)"
        )
    crossings = [crossings[i] for i in rng(seed, "crossed pairs").permutation(len(crossings))[:n_pairs]]
    return Crossed(
        torch.tensor([ids[source][f] for f, _, _ in crossings]),
        torch.tensor([ids[target][g] for _, g, _ in crossings]),
        dict(zip(FOUR_ANSWERS, torch.tensor([four for *_, four in crossings]).T, strict=True)),
        tuple(sorted(left_out)),
    )


def _of_modal_length(prompts: dict[str, list[int]]) -> list[str]:
    lengths = Counter(map(len, prompts.values()))
    return [fact for fact, tokens in prompts.items() if len(tokens) == lengths.most_common(1)[0][0]]
