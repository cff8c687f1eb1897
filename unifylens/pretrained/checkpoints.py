"""One model over its training: checkpoints that others published, by step, and an audit of what they hold."""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from safetensors import safe_open
from torch import Tensor
from tqdm.auto import tqdm

from unifylens import cards, tables
from unifylens.arguments import plain
from unifylens.cards import Card
from unifylens.pretrained import folders, models, selfcheck
from unifylens.pretrained.models import Pretrained

FETCHED = ("*.json", "*.txt", "*.model", "*.safetensors")
"""Files of a hub's revision that are needed; `pytorch_model*.bin` only where there are no safetensors."""
HEADS = ("lm_head.", "embed_out.")
"""How names of an output head begin: it stands beside the base model, and may be its embedding once more."""
IRRELEVANT = re.compile(
    r"_.*|(torch_)?dtype|transformers_version|architectures|use_cache|.*_token_id|.*dropout.*|.*pdrop|initializer_range"
    r"|output_.*|return_dict|gradient_checkpointing|problem_type|id2label|label2id"
)
"""Fields of config.json that change nothing of what is computed once a model is trained."""
_WORDS = r"(?:step|checkpoint|ckpt|iteration|iter)s?"


def series(
    source: str | Path,
    revisions: Sequence[str] | Mapping[int, str] | None = None,
    *,
    hub: bool = False,
    device: str | torch.device = "cpu",
    equal_neighbours: bool = False,
) -> Series:
    """The checkpoints of one model over training, by step.

    `source` is a folder with a subfolder for each checkpoint (`checkpoint-500`, `step1000`), a folder of a hub's cache
    (`models--owner--name`), or a hub's name, of which `hub=False` takes what the cache has. `revisions` are names of
    subfolders, branches or tags, or names by step where they do not say it; None: all that say one.
    `equal_neighbours=True` lets steps that follow each other have the same weights, as after a step at learning rate 0
    (steps 0 and 1 of Pythia); they are else refused.

    Raises FileNotFoundError and ValueError, naming what is there, for a source without checkpoints, a name that is not
    there or says no step, and a step that stands there twice.

    >>> checkpoints = ul.pretrained.series("checkpoints")                   # doctest: +SKIP
    >>> checkpoints.audit()                                                 # doctest: +SKIP
    >>> checkpoints.measure(lambda model: asking.answers(model, facts)["right"].mean())  # doctest: +SKIP
    """
    place = _Place.of(source, hub)
    named = place.names() if revisions is None else revisions
    if isinstance(named, str):
        raise ValueError(f"revisions={named!r} is one name; allowed: a list of names, or a dict of names by step.")
    if isinstance(named, Mapping):
        pairs = [(plain(step), name) for step, name in named.items()]
        if strange := [step for step, _ in pairs if type(step) is not int or step < 0]:
            raise ValueError(f"revisions: step {strange[0]!r}; allowed: whole numbers from 0 on.")
    else:
        pairs = [(step_of(name), name) for name in named]
        if revisions is None:
            pairs = [(step, name) for step, name in pairs if step is not None]
    if silent := [name for step, name in pairs if step is None]:
        raise ValueError(f"revision {silent[0]!r} says no step; allowed: names such as 'step1000', or {{1000: name}}.")
    if not pairs:
        raise ValueError(f"{place.label} has no checkpoints: {cards.several(named) or 'nothing there'}.")
    for step, n in Counter(step for step, _ in pairs).items():
        if n > 1:
            names = " and ".join(repr(name) for other, name in pairs if other == step)
            raise ValueError(f"step {step} stands there {n} times, as {names}; name `revisions`.")
    for _, name in pairs:
        place.check(name)
    return Series(place, dict(sorted(pairs)), device, equal_neighbours)


def step_of(name: str) -> int | None:
    """The step that a checkpoint's name says: the number after `step`, `checkpoint` or `iter`, or the whole name.

    Only a whole number in plain digits: none of `1.5M`, `10,000` and dates.

    >>> [step_of(name) for name in ("step1000", "stage1-step2000-tokens5B", "checkpoint-30", "0007", "main")]
    [1000, 2000, 30, 7, None]
    """
    after = re.findall(rf"{_WORDS}[-_= ]?(\d+)(?![^\W_]|[\W_]\d)", name, re.IGNORECASE)
    numbers = after or [name] * name.isdecimal()
    return int(numbers[0]) if len(numbers) == 1 else None


class Series(Card):
    """One model's checkpoints by step, loaded one at a time: `for step, model in series`."""

    def __init__(
        self, place: _Place, revisions: Mapping[int, str], device: str | torch.device, equal_neighbours: bool = False
    ) -> None:
        """`revisions` are names by step that the place has; see `series`."""
        self.revisions = dict(revisions)
        """Names by step."""
        self._place, self._device, self._equal_neighbours = place, device, equal_neighbours

    def _card(self) -> tuple[str, dict[str, str]]:
        return f"Series {self._place.label} ({len(self)} checkpoints)", {"steps": cards.several(self.steps)}

    @property
    def steps(self) -> list[int]:
        """Steps that have a checkpoint, in order."""
        return list(self.revisions)

    def __len__(self) -> int:
        """Number of checkpoints."""
        return len(self.revisions)

    def __iter__(self) -> Iterator[tuple[int, Pretrained]]:
        """Each step with its model, loaded one at a time. Raises ValueError where `audit` has something to say."""
        self.refuse_doubtful()
        for step in self.steps:
            yield step, self.checkpoint(step)

    def checkpoint(self, step: int) -> Pretrained:
        """The model after `step` steps. Raises ValueError for a step without one, and what `load` raises.

        Only `audit` tells whether its weights are those of another step.
        """
        number = plain(step)
        if isinstance(number, bool) or number not in self.revisions:
            raise ValueError(f"step={step!r} has no checkpoint; allowed: {cards.several(self.steps)}.")
        return self._place.load(self.revisions[number], self._device)

    def measure(self, table: Callable[[Pretrained], Any], *, progress: bool = True) -> pd.DataFrame:
        """What `table` makes of every checkpoint, stacked, with `step`: as `Sweep.measure`.

        Raises ValueError where `audit` has something to say, TypeError where `table` gives no table or number.
        """
        self.refuse_doubtful()
        models = (({"step": step}, self.checkpoint(step)) for step in self.steps)
        return tables.measured(table, models, total=len(self), progress=progress)

    def audit(self, *, progress: bool = True) -> pd.DataFrame:
        """What each checkpoint holds: public series have had branches with the weights of another step.

        Columns: `step`; `revision`; `sha256` of all weights in float32, whichever files and names they have there (tied
        heads, buffers and the base model's prefix do not count); `equals`, the other steps that have the same weights;
        `recorded`, the step that a trainer wrote beside them (None: none did); `layout`, a hash of names and shapes
        alone. Weights that differ but stand under each other's step are not told apart.
        """
        hashes = self._hashes(progress)
        table = pd.DataFrame(
            [
                {
                    "step": step,
                    "revision": name,
                    "sha256": hashes[step].whole,
                    "equals": tuple(other for other in self.steps if other != step and hashes[other] == hashes[step]),
                    "recorded": _recorded(self._place.folder(name)),
                    "layout": hashes[step].layout,
                }
                for step, name in self.revisions.items()
            ]
        )
        return table.astype({"recorded": "Int64"})

    def refuse_doubtful(self) -> None:
        """Raise what `load` raises of a folder that lacks a part, and ValueError, naming both, for two that do not fit.

        Two checkpoints do not fit where they are one, or one is of another step, or of another model: with other names
        or shapes of weights, another config.json (but for fields such as `dtype`) or another tokenizer.
        """
        places = {step: self._place.folder(name) for step, name in self.revisions.items()}
        for place in places.values():
            folders.examine(place)
        self._refuse_other_models(places)
        table = self.audit()
        for row in table.itertuples():
            for other in row.equals:
                ends = sorted((row.step, other))
                between = [step for step in self.steps if ends[0] < step < ends[1] and step not in row.equals]
                if self._equal_neighbours and not between:
                    continue
                how = (
                    f", step {between[0]} has others: one holds those of another step; leave it out with `revisions`."
                    if between
                    else ": one holds those of another step, or nothing was learnt between them; leave one out with "
                    "`revisions`, or allow it with `equal_neighbours=True`."
                )
                raise ValueError(
                    f"steps {row.step} and {other} of {self._place.label} have the same weights (revisions "
                    f"{row.revision!r} and {self.revisions[other]!r}){how}"
                )
            if not pd.isna(row.recorded) and row.recorded != row.step:
                raise ValueError(
                    f"revision {row.revision!r} of {self._place.label} was saved at step {row.recorded}, says its "
                    f"trainer_state.json, not {row.step}; leave it out, or name it by its step: "
                    f"revisions={{{row.recorded}: {row.revision!r}}}."
                )
            if row.layout != table.iloc[0].layout:
                raise self._other_model(row.step, "weights have other names or shapes")

    def _refuse_other_models(self, places: Mapping[int, Path]) -> None:
        first = places[self.steps[0]]
        settings = _settings(first)
        for step, place in places.items():
            own = _settings(place)
            if fields := [name for name in {**settings, **own} if settings.get(name) != own.get(name)]:
                raise self._other_model(step, f"config.json differ in {cards.several(fields)}")
            if parts := _other_tokenizer(first, place):
                raise self._other_model(step, f"tokenizers differ in {cards.several(parts)}")

    def _other_model(self, step: int, how: str) -> ValueError:
        first = self.steps[0]
        return ValueError(
            f"steps {first} and {step} of {self._place.label} are not of one model: their {how} (revisions "
            f"{self.revisions[first]!r} and {self.revisions[step]!r}); leave one out with `revisions`."
        )

    def _hashes(self, progress: bool) -> dict[int, _Hashes]:
        """Hashes by step; weights are read once."""
        left = {step: name for step, name in self.revisions.items() if step not in self._known}
        for step, name in tqdm(left.items(), desc="reading weights", unit="checkpoint", disable=not progress):
            self._known[step] = _hashes_of(self._place.folder(name))
        return self._known

    @cached_property
    def _known(self) -> dict[int, _Hashes]:
        return {}


class _Place:
    """Where the checkpoints of a series lie: subfolders here."""

    def __init__(self, folder: Path) -> None:
        self.label, self._root = folder.name, folder

    @staticmethod
    def of(source: str | Path, hub: bool) -> _Place:
        """The place that a name or path means. Raises FileNotFoundError for a path without a folder."""
        folder = Path(source).expanduser()
        if folder.name.startswith("models--") and (folder / "snapshots").is_dir():
            _, *parts = folder.name.split("--")
            return _Hub("/".join(parts), folder.parent, fetch=False)
        if folder.is_dir():
            return _Place(folder.resolve())
        if isinstance(source, Path) or source.startswith((".", "/", "~")) or source.count("/") > 1:
            raise FileNotFoundError(f"{source}: no such folder; allowed: a folder of checkpoints, or a hub's name.")
        return _Hub(source, None, fetch=hub)

    def names(self) -> list[str]:
        """Subfolders that hold a model."""
        return sorted(path.parent.name for path in self._root.glob("*/config.json"))

    def check(self, name: str) -> None:
        """Raise ValueError for a checkpoint that is not there."""
        if name not in self.names():
            raise ValueError(
                f"revision {name!r} is not in {self.label}; allowed: {cards.several(self.names()) or 'none here'}."
            )

    def folder(self, name: str) -> Path:
        """The files of a checkpoint."""
        return self._root / name

    def load(self, name: str, device: str | torch.device) -> Pretrained:
        """The model of a checkpoint."""
        return models.load(self.folder(name), device=device)


class _Hub(_Place):
    """Branches and tags of a hub's model, in its cache, and fetched if asked for."""

    def __init__(self, label: str, cache: Path | None, fetch: bool) -> None:
        self.label, self._cache, self._fetch = label, cache, fetch

    def names(self) -> list[str]:
        """Branches and tags: of the hub where it may be asked, else of the cache."""
        from huggingface_hub import HfApi, scan_cache_dir
        from huggingface_hub.errors import CacheNotFound

        if self._fetch:
            try:
                refs = HfApi().list_repo_refs(self.label)
            except Exception as error:  # of any kind of network or hub
                raise ConnectionError(
                    f"{self.label} could not be asked for its revisions ({error}); allowed: a local folder"
                ) from error
            return sorted({ref.name for ref in (*refs.branches, *refs.tags)})
        try:
            repos = scan_cache_dir(self._cache).repos
        except CacheNotFound:
            repos = frozenset()
        for repo in repos:
            if repo.repo_id == self.label and repo.repo_type == "model":
                return sorted(repo.refs)
        raise ValueError(
            f"{self.label!r} is neither a folder here nor in the hub's cache; to download it: "
            f"series({self.label!r}, revisions=[...], hub=True)."
        )

    def check(self, name: str) -> None:
        """Raise ValueError for a checkpoint that the cache lacks; a hub says so itself when it is fetched."""
        if not self._fetch:
            super().check(name)

    def folder(self, name: str) -> Path:
        """The files of a checkpoint, fetched where they may be. Raises ConnectionError for what a hub does not give."""
        from huggingface_hub import snapshot_download

        where = {"revision": name, "cache_dir": self._cache, "local_files_only": not self._fetch}
        try:
            folder = Path(snapshot_download(self.label, allow_patterns=list(FETCHED), **where))
            if self._fetch and not list(folder.glob("*.safetensors")):
                snapshot_download(self.label, allow_patterns=["pytorch_model*.bin"], **where)
        except Exception as error:  # of any kind of network or hub
            raise ConnectionError(
                f"revision {name!r} of {self.label} could not be fetched ({error}); allowed: a local folder"
            ) from error
        return folder


def _recorded(folder: Path) -> int | None:
    """The step that a trainer wrote beside the weights, if one did."""
    try:
        return int(json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))["global_step"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


class _Hashes(NamedTuple):
    """Of names, shapes and values of all weights, and of names and shapes alone."""

    whole: str
    layout: str


def _hashes_of(folder: Path) -> _Hashes:
    """Hashes of a folder's weights as `load` has them, in float32 and without what is stored twice or computed."""
    values: dict[str, str] = {}
    shapes: dict[str, list[int]] = {}
    for name, tensor in _tensors(folder):
        if not name.endswith(models.HARMLESS):
            data = tensor.float().contiguous().reshape(-1).view(torch.uint8).numpy()
            values[name] = hashlib.sha256(data).hexdigest()
            shapes[name] = list(tensor.shape)
    base = {name for name in values if not name.startswith(HEADS)}
    embeddings = {(values[name], *shapes[name]) for name in base}
    tied = {name for name in values if name not in base and (values[name], *shapes[name]) in embeddings}
    start = _common(base)
    names = {name: name.removeprefix(start) if name in base else name for name in values if name not in tied}
    layout = {names[name]: shapes[name] for name in names}
    whole = {names[name]: values[name] for name in names}
    texts = (json.dumps(part, sort_keys=True) for part in ([whole, layout], layout))
    return _Hashes(*(hashlib.sha256(text.encode()).hexdigest() for text in texts))


def _common(names: set[str]) -> str:
    """The components that all names begin with: those of a base model, which files of the base model alone lack."""
    parts = [name.split(".")[:-1] for name in names]
    n = 0
    while parts and all(len(part) > n and part[n] == parts[0][n] for part in parts):
        n += 1
    return "".join(f"{part}." for part in parts[0][:n]) if parts else ""


def _tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Weights by name, from the files that transformers would read. Raises ValueError, naming it, for a broken one."""
    for path in folders.weights(folder):
        try:
            yield from _stored(path)
        except Exception as error:  # of a pickle, of any kind
            raise ValueError(f"{path} holds no weights that can be read ({selfcheck.line(error)}).") from error


def _stored(path: Path) -> Iterator[tuple[str, Tensor]]:
    if path.suffix == ".bin":  # files of old have no archive, whose parts could be mapped
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        if not isinstance(content, dict):
            raise TypeError(f"a {type(content).__name__}, not weights by name")
        for name, tensor in content.items():
            if not isinstance(tensor, Tensor):
                raise TypeError(f"{name!r} is of type {type(tensor).__name__}, not a weight")
            yield name, tensor
        return
    with safe_open(path, framework="pt") as file:
        for name in file.keys():
            yield name, file.get_tensor(name)


def _settings(folder: Path) -> dict[str, Any]:
    """Fields of config.json that say what is computed, with defaults, by name; `a.b` is field b in a."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # of every kind
        raise ValueError(f"{folder / 'config.json'} cannot be read ({selfcheck.line(error)}).") from error
    known = type(config)().to_dict()  # what files hold besides is not read
    return _flat({name: value for name, value in config.to_dict().items() if name in known})


def _flat(fields: Mapping[str, Any], start: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in fields.items():
        if IRRELEVANT.fullmatch(str(name)):
            continue
        flat |= _flat(value, f"{start}{name}.") if isinstance(value, dict) else {f"{start}{name}": value}
    return flat


def _other_tokenizer(one: Path, two: Path) -> list[str]:
    """Parts in which tokenizers differ, in files that both have; tokenizer.json says all that the others say."""
    names = [
        sorted({path.name for pattern in (*folders.TOKENIZERS, "merges.txt") for path in folder.glob(pattern)})
        for folder in (one, two)
    ]
    both = [name for name in names[0] if name in names[1]]
    if "tokenizer.json" not in both:
        return [name for name in both if (one / name).read_bytes() != (two / name).read_bytes()]
    files = [folder / "tokenizer.json" for folder in (one, two)]
    if files[0].read_bytes() == files[1].read_bytes():
        return []
    first, second = (_tokenizer_parts(file) for file in files)
    return [f"{name} of tokenizer.json" for name in first if first[name] != second[name]]


def _tokenizer_parts(file: Path) -> dict[str, Any]:
    """What a tokenizer.json says, in today's spelling, but for how batches were last cut and padded."""
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers has no other kind
        raise ValueError(f"{file} cannot be read ({selfcheck.line(error)}).") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return json.loads(tokenizer.to_str())
