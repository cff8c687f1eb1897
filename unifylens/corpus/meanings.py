"""What tokens mean: which object an answer names, in any language, and which answers a relation has."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from unifylens.corpus.language import Language
from unifylens.corpus.tokenization import EOS, PAD_ID, Tokenizer
from unifylens.corpus.world import World


class Meanings:
    """The objects that tokens name in a world's languages."""

    def __init__(self, world: World, languages: Sequence[Language], tokenizer: Tokenizer) -> None:
        """`tokenizer` is that of the languages."""
        self.world, self.languages, self.tokenizer = world, languages, tokenizer

    @cached_property
    def possible_answers(self) -> dict[tuple[int, ...], dict[int, int]]:
        """The object that every sequence of an answer's tokens names, by relation."""
        end = [self.tokenizer.special[EOS]] if EOS in self.tokenizer.special else []
        objects: dict[tuple[int, ...], dict[int, int]] = {}
        for index, language in enumerate(self.languages):
            for number, name in enumerate(language.objects):
                tokens = tuple(self.tokenizer.encode(name.split(), index) + end)
                objects.setdefault(tokens, {})[int(self.world.object_relation[number])] = number
        return objects

    @cached_property
    def _codes(self) -> tuple[dict[tuple[int, ...], list[int]], list[int], Int[Tensor, " code"]]:
        """Codes of every possible answer by relation, those of any other, and the object by code, -1 for none."""
        objects: list[int] = []
        codes: dict[tuple[int, ...], list[int]] = {}
        for tokens, by_relation in self.possible_answers.items():
            numbers = {r: len(objects) + i for i, r in enumerate(by_relation)}
            other = len(objects)
            codes[tokens] = [numbers.get(r, other) for r in range(self.world.n_relations)]
            objects += by_relation.values()
        return codes, [len(objects)] * self.world.n_relations, torch.tensor([*objects, -1])

    @cached_property
    def _code_of_token(self) -> Int[Tensor, "vocab relation"]:
        """Codes of answers of one token."""
        codes, none, _ = self._codes
        table = torch.tensor([none]).repeat(len(self.tokenizer), 1)
        table[[token for (token,) in codes]] = torch.tensor([*codes.values()])
        return table

    def named(
        self, answers: Int[Tensor, "row answer"], relation: Int[Tensor, " row"]
    ) -> tuple[Int[Tensor, " row"], Int[Tensor, " code"]]:
        """A code for every answer to a relation, and the object, -1 for none, by code."""
        codes, none, by_code = self._codes
        if answers.shape[1] == 1:
            return self._code_of_token[answers[:, 0], relation], by_code
        end = self.tokenizer.special.get(EOS)
        cut = (row[: row.index(end) + 1] if end in row else [i for i in row if i != PAD_ID] for row in answers.tolist())
        own = [codes.get(tuple(row), none)[r] for row, r in zip(cut, relation.tolist(), strict=True)]
        return torch.tensor(own, dtype=torch.long), by_code

    @cached_property
    def token_object(self) -> Int[Tensor, " vocab"]:
        """Object that a token names, -1 where it names none; of answers of one token."""
        table = torch.full((len(self.tokenizer),), -1)
        for index in range(len(self.languages)):
            table[self._object_tokens(index)] = torch.arange(self.world.n_objects)
        return table

    @property
    def object_tokens(self) -> Int[Tensor, "language object"]:
        """The token that names an object in a language; of answers of one token."""
        return torch.tensor([self._object_tokens(index) for index in range(len(self.languages))])

    @cached_property
    def choices(self) -> Bool[Tensor, "language relation vocab"]:
        """Answers that are possible in a language for a relation; of answers of one token."""
        table = torch.zeros(len(self.languages), self.world.n_relations, len(self.tokenizer), dtype=torch.bool)
        for index in range(len(self.languages)):
            table[index, self.world.object_relation, self._object_tokens(index)] = True
        return table

    def _object_tokens(self, language: int) -> list[int]:
        return self.tokenizer.encode(self.languages[language].objects, language)
