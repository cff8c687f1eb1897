"""What kind of answer an answer is, and the choice among a relation's objects."""

from enum import IntEnum

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class AnswerType(IntEnum):
    """The kinds of answers, by the codes that `answer_types` gives; the first that fits counts."""

    RIGHT = 0
    WRONG_LANGUAGE = 1
    WRONG_OBJECT = 2
    OTHER = 3


ANSWER_TYPES = ("right", "right object, wrong language", "wrong object of the relation", "other")
"""Names of the kinds of answers, in the order of their codes."""


FOUR_ANSWERS = (
    "source object, target language",
    "source object, source language",
    "target object, target language",
    "target object, source language",
)
"""What a prompt patched from another language may be answered (*Separating Tongue from Thought*, arXiv 2411.08745)."""


def answer_types(
    predicted: Int[Tensor, " row"],
    answer: Int[Tensor, " row"],
    token_object: Int[Tensor, " vocab"],
    token_relation: Int[Tensor, " vocab"],
    due_object: Int[Tensor, " row"],
    relation: Int[Tensor, " row"],
) -> Int[Tensor, " row"]:
    """The kind of every answer, an `AnswerType`, which is its code into `ANSWER_TYPES`; the first that fits counts.

    `predicted` and `answer` are tokens; `token_object` and `token_relation` say which object, of which
    relation, a token names in any language, -1 for tokens that name none; `due_object` and `relation` are
    those asked for. Objects are numbered across relations: no two relations' objects share a number.

    Raises ValueError for shapes that differ, for predicted tokens outside the vocabulary, and for a
    `due_object` or `relation` below 0, which would count tokens that name no object as right.

    >>> objects, relations = torch.tensor([0, 1, 0, 1]), torch.tensor([0, 0, 0, 0])  # of four tokens: two words each
    >>> said, right, zero = torch.tensor([0, 2, 1]), torch.tensor([0, 0, 0]), torch.tensor([0, 0, 0])
    >>> ul.measures.answer_types(said, right, objects, relations, zero, zero)
    tensor([0, 1, 2])
    """
    for name, rows in {"answer": answer, "due_object": due_object, "relation": relation}.items():
        if rows.shape != predicted.shape:
            raise ValueError(f"{name} has shape {list(rows.shape)}; predicted has {list(predicted.shape)}")
    if token_relation.shape != token_object.shape:
        shapes = list(token_relation.shape), list(token_object.shape)
        raise ValueError(f"token_relation has shape {shapes[0]}; token_object has {shapes[1]}")
    n_vocab = len(token_object)
    for name, rows, end in (
        ("predicted", predicted, n_vocab),
        ("due_object", due_object, None),
        ("relation", relation, None),
    ):
        wrong = (rows < 0) if end is None else (rows < 0) | (rows >= end)
        if wrong.any():
            allowed = "0 or more" if end is None else f"in 0..{end - 1}"
            raise ValueError(f"{name} holds {int(rows[wrong][0])}; it must be {allowed}")
    codes = torch.full_like(predicted, AnswerType.OTHER)
    codes[token_relation[predicted] == relation] = AnswerType.WRONG_OBJECT
    codes[token_object[predicted] == due_object] = AnswerType.WRONG_LANGUAGE
    codes[predicted == answer] = AnswerType.RIGHT
    return codes


def object_choice(logits: Float[Tensor, "row vocab"], choices: Bool[Tensor, "row vocab"]) -> Int[Tensor, " row"]:
    """The likeliest allowed token of each row: the calibrated choice among a relation's objects.

    Raises ValueError for unequal shapes, a row without an allowed token, or logits that are nan.
    """
    if logits.shape != choices.shape:
        raise ValueError(f"choices has shape {list(choices.shape)}; logits has {list(logits.shape)}")
    if choices.dtype != torch.bool:
        raise ValueError(f"choices has dtype {choices.dtype}; it must be torch.bool")
    if not (allowed := choices.any(-1)).all():
        raise ValueError(f"choices allows no token in row {int((~allowed).nonzero()[0])}; it must allow at least 1")
    if logits.isnan().any():
        raise ValueError("logits holds nan; every logit must be a number")
    # A forbidden token must lose even to an allowed one at -inf, hence two steps and not one masked argmax.
    best = logits.masked_fill(~choices, -torch.inf).amax(-1, keepdim=True)
    return (logits.eq(best).logical_and_(choices)).to(torch.uint8).argmax(-1)


def without_prior(scores: Float[Tensor, "row option"], group: Int[Tensor, " row"]) -> Float[Tensor, "row option"]:
    """Scores of answers less each answer's mean over the rows of its group: what is always likely counts not.

    Logits do as well as log-probabilities: what normalises a row is the same for all its answers. For a choice, the
    mean may as well be over the group's other rows, which stretches all differences alike; a row that is alone in its
    group keeps nothing. Options of a group are the same answers.

    It harms where the prior is knowledge. If four in five rows are due answer a and the others b, a model whose right
    answer is ahead by 1 +- 1 (normal) chooses right in 0.84 of the rows; without the prior, in 0.71.

    Raises ValueError for a group that is not `[row]`.
    """
    if group.shape != scores.shape[:1]:
        raise ValueError(f"group has shape {list(group.shape)}; it must be [{len(scores)}], one entry a row")
    names, index = group.unique(return_inverse=True)
    sums = scores.new_zeros(len(names), scores.shape[1], dtype=torch.float64).index_add_(0, index, scores.double())
    return scores - (sums / index.bincount(minlength=len(names))[:, None])[index]
