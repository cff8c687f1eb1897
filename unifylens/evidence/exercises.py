"""Exercises of the notebooks: a reader's answer, what is true, and a hint where they differ."""

from collections.abc import Callable
from typing import Any

__all__ = ["check"]


def check(answer: Any, test: Callable[[Any], Any], hint: str) -> None:
    """Print "not answered yet" for `...`, "right" where `test(answer)` is true, and else what is wrong: the `hint`.

    A test that cannot be made of the answer, such as one of another type, is told with its error; nothing is raised.

    >>> ul.exercises.check(..., lambda answer: answer == 16, "count the objects of one relation")
    not answered yet
    >>> ul.exercises.check(8, lambda answer: answer == 16, "count the objects of one relation")
    not right yet: count the objects of one relation
    >>> ul.exercises.check(16, lambda answer: answer == 16, "count the objects of one relation")
    right
    """
    if answer is ...:
        print("not answered yet")
        return
    try:
        right = bool(test(answer))
    except Exception as error:  # the answer is the reader's, and may be anything
        print(f"not right yet: {type(error).__name__}: {error} ({hint})")
        return
    print("right" if right else f"not right yet: {hint}")
