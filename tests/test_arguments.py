"""Numbers and masks are taken from whatever holds them, and anything else is refused in words."""

import numpy as np
import pandas as pd
import pytest
import torch

from unifylens.arguments import numbers, plain

MASK = [False, True, True, False]


@pytest.mark.parametrize(
    "given",
    [
        [1, 2],
        (1, 2),
        range(1, 3),
        np.array([1, 2], dtype=np.uint8),
        torch.tensor([1, 2]),
        pd.Series([1, 2], index=[7, 8]),
        pd.Series([1, 2], dtype="Int64"),
        pd.Index([1, 2]),
        MASK,
        np.array(MASK),
        torch.tensor(MASK),
        pd.Series(MASK, index=[9, 8, 7, 6]),
        pd.Series(MASK, dtype="boolean"),
    ],
    ids=lambda given: type(given).__name__,
)
def test_numbers_and_masks_of_every_kind_choose_the_same(given):
    chosen = numbers(given, 4, "facts", "the corpus")
    assert chosen.tolist() == [1, 2] and chosen.dtype == np.int64


@pytest.mark.parametrize("given", [3, np.int64(3), np.array(3), torch.tensor(3)])
def test_one_number_is_one(given):
    assert numbers(given, 4, "facts", "the corpus").tolist() == [3]


def test_order_and_repeats_are_kept_and_negative_ones_only_where_asked_for():
    assert numbers([3, 0, 3], 4, "facts", "the corpus").tolist() == [3, 0, 3]
    assert numbers([-1, 0], 4, "positions", "the prompt", from_end=True).tolist() == [-1, 0]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([-1], "facts=-1: the corpus has 4; allowed: 0 to 3."),
        ([0, 4], "facts=4: the corpus has 4; allowed: 0 to 3."),
        ([], "facts is empty: the corpus has 4; allowed: 0 to 3, or a mask with 4 entries."),
        (MASK[:3], "facts is a mask with 3 entries: the corpus has 4"),
        ([False] * 4, "facts is a mask that chooses nothing"),
        ([MASK], "facts=[[False, True"),
        ([1.0], "facts=[1.0]: the corpus has 4; allowed: 0 to 3, or a mask with 4 entries."),
        (pd.Series([1, None], dtype="Int64"), "facts=0"),
        (True, "facts=True"),
        (np.True_, "facts=np.True_"),
        ("12", "facts='12'"),
        (["1"], "facts=['1']"),
        (None, "facts=None"),
        ([[1], [1, 2]], "facts=[[1], [1, 2]]"),
        ({"a": 1}, "facts={'a': 1}"),
    ],
    ids=str,
)
def test_anything_else_is_refused(given, told):
    with pytest.raises(ValueError) as error:
        numbers(given, 4, "facts", "the corpus")
    assert str(error.value).startswith(told)


def test_values_become_those_of_python():
    values = (np.int64(3), [np.float64(0.5), "a"], np.arange(2), torch.tensor(2), pd.Series([True]), None, {"a": 1})
    found = plain(values)
    assert found == (3, [0.5, "a"], [0, 1], 2, [True], None, {"a": 1})
    assert [type(x) for x in (found[0], found[1][0], found[2][0], found[3], found[4][0])] == [
        int,
        float,
        int,
        int,
        bool,
    ]
