"""Which models train together: stacks of one shape, sized to workers and memory."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

from unifylens.config import Experiment
from unifylens.hardware import size_text
from unifylens.training import progress, store
from unifylens.training.cost import Member, Memory
from unifylens.training.run import key_of
from unifylens.training.workers import Workers

STACKS_PER_WORKER = 4
"""At least so many where stacks are seen only when they are finished, so that progress shows and workers end alike."""


@dataclass(frozen=True)
class StackPlan:
    """Members that train together."""

    members: list[Member]

    @property
    def experiments(self) -> list[Experiment]:
        """Of its members, in order."""
        return [member.experiment for member in self.members]

    @property
    def steps(self) -> int:
        """Optimiser steps, the same for all members."""
        return self.members[0].experiment.train.steps

    @property
    def flops(self) -> int:
        """Of one step of all members."""
        return sum(member.flops for member in self.members)


def plan_stacks(members: list[Member], workers: Workers, stack_size: int | None) -> tuple[list[StackPlan], Workers]:
    """Stacks, costliest first, and as many of the workers as they can use at the same time."""
    groups: dict[tuple, list[Member]] = {}
    for member in members:
        groups.setdefault(member.key, []).append(member)
    for group in groups.values():  # neighbours share optimiser settings where they can; the order is kept otherwise
        group.sort(key=lambda member: (member.experiment.train.lr, member.experiment.train.weight_decay))
    if stack_size is None:
        workers = workers.that_fit(members)
    else:
        _refuse_what_does_not_fit(list(groups.values()), workers, stack_size)
    largest = {key: stack_size or workers.largest_stack(group) for key, group in groups.items()}
    stacks = _stacks_under_way(members, largest)
    taken = {experiment for stack in stacks for experiment in stack.experiments}
    left = {key: [m for m in group if m.experiment not in taken] for key, group in groups.items()}
    total = sum(member.flops * member.experiment.train.steps for group in left.values() for member in group)
    for key, group in left.items():
        if not group:
            continue
        size = stack_size
        if size is None:
            work = sum(member.flops * member.experiment.train.steps for member in group)
            size = _size_for_all_workers(len(group), largest[key], workers, work / total)
        stacks += [StackPlan(group[i : i + size]) for i in range(0, len(group), size)]
    stacks.sort(key=lambda stack: -stack.flops * stack.steps)
    return stacks, workers.at_most(len(stacks))


def _size_for_all_workers(n_members: int, largest: int, workers: Workers, share: float) -> int:
    """Nearly equal stacks, at most `largest`, and as many as keep every worker busy; `share` of all work is theirs."""
    if workers.shared:
        rounds = -(-n_members // (largest * workers.count))
        return -(-n_members // (rounds * workers.count))
    n_stacks = max(-(-n_members // largest), round(STACKS_PER_WORKER * workers.count * share), 1)
    return max(1, n_members // n_stacks)


def _stacks_under_way(members: list[Member], largest: dict[tuple, int]) -> list[StackPlan]:
    """Interrupted stacks to train, of which some members may be in the store; they go on in the company they began in.

    Those in the store are trained along and not saved again.
    """
    by_key = {key_of(member.experiment): member for member in members}
    stacks = []
    for keys in progress.stacks_under_way():
        if by_key.keys().isdisjoint(keys):
            continue
        stored = {key: store.experiment_of(key) for key in keys if key not in by_key}
        if None in stored.values():
            continue
        stack = [by_key.get(key) or Member.of(stored[key]) for key in keys]
        if len({m.key for m in stack}) == 1 and len(stack) <= largest[stack[0].key]:
            stacks.append(StackPlan(stack))
            for key in keys:
                by_key.pop(key, None)
    return stacks


def _refuse_what_does_not_fit(groups: list[list[Member]], workers: Workers, stack_size: int) -> None:
    """Raise ValueError, with what would fit, if stacks of this size do not."""
    if workers.memory is None:
        return

    def needed(size: int) -> tuple[int, int]:
        """Bytes of the largest stacks that train at the same time, and how many these are."""
        stacks: list[int] = []
        for group in groups:
            memory = Memory.largest([m.memory for m in group])
            full, rest = divmod(len(group), size)
            stacks += [memory.of_stack(size)] * min(full, workers.count) + [memory.of_stack(rest)] * (rest > 0)
        at_a_time = heapq.nlargest(workers.count, stacks)
        return sum(at_a_time), len(at_a_time)

    size, n_models = stack_size, max(map(len, groups))
    total, at_a_time = needed(size)
    if total <= workers.memory:
        return
    while size and needed(size)[0] > workers.memory:
        size = min(size, n_models) - 1
    if not size:
        workers.that_fit([member for group in groups for member in group])  # not even one: says so
    per_model = max(member.memory.kept for group in groups for member in group)
    allowed = f"1 to {size}, or None to choose" if size else "None, to train fewer stacks at a time"
    raise ValueError(
        f"stack_size={stack_size} needs about {size_text(total)} ({size_text(per_model)} a model, {at_a_time} "
        f"{'stack' if at_a_time == 1 else 'stacks'} at a time); "
        f"{size_text(workers.memory)} are free; allowed: {allowed}"
    )
