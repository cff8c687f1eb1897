"""What a model's folder holds, looked at before transformers is asked: one sentence and a remedy for what it lacks."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from unifylens.corpus.files import LFS

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""Files that transformers reads, or an index of each that lists shards."""
TOKENIZERS = ("tokenizer.json", "*.model", "vocab.*", "*.vocab", "*.tiktoken")
TRAINING = (
    "optimizer*",
    "scheduler*",
    "trainer_state.json",
    "global_step*",
    "*fsdp*",
    "*.distcp",
    "*.pt",
    "*.pth",
    "*.ckpt",
)


def examine(folder: Path) -> None:
    """Raise FileNotFoundError or ValueError, with a remedy, if a folder holds no whole model with its tokenizer."""
    if (folder / "adapter_config.json").is_file():
        base = _json(folder / "adapter_config.json").get("base_model_name_or_path")
        raise ValueError(
            f"{folder} holds an adapter (adapter_config.json, PEFT) of {base or 'another model'}; merge it first: "
            "PeftModel.from_pretrained(base, folder).merge_and_unload().save_pretrained(another_folder)"
        )
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} has no config.json; {_instead(folder)}")
    _examine_config(folder)
    for file in weights(folder):
        _examine_weights(file)
    if not any(any(folder.glob(pattern)) for pattern in TOKENIZERS):
        raise FileNotFoundError(
            f"{folder} has no tokenizer (none of {', '.join(TOKENIZERS)}); put that of its base model there: "
            "AutoTokenizer.from_pretrained(base).save_pretrained(folder)"
        )


def _examine_config(folder: Path) -> None:
    from transformers import CONFIG_MAPPING, __version__

    config = _json(folder / "config.json")
    family = config.get("model_type")
    if family in CONFIG_MAPPING:
        return
    if "auto_map" in config:
        raise ValueError(
            f"{folder} needs code of its own (auto_map in config.json), which is never run; allowed: families that "
            f"transformers {__version__} has itself"
        )
    if family is None:
        raise ValueError(
            f"{folder / 'config.json'} has no model_type; allowed: the config.json that `save_pretrained` wrote beside "
            "the weights"
        )
    raise ValueError(
        f"{folder / 'config.json'} has model_type={family!r}, which transformers {__version__} does not have; allowed: "
        "a family that it has, or a newer transformers"
    )


def weights(folder: Path) -> list[Path]:
    """The files of weights that transformers reads. Raises FileNotFoundError where one is missing."""
    for name in WEIGHTS:
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if index.is_file():
            shards = sorted({str(shard) for shard in _json(index).get("weight_map", {}).values()})
            missing = [shard for shard in shards if not (folder / shard).is_file()]
            if missing or not shards:
                raise FileNotFoundError(
                    f"{folder} lacks {len(missing)} of the {len(shards)} shards that {index.name} lists "
                    f"({few(missing)}); copy or download the folder again"
                )
            return [folder / shard for shard in shards]
    raise FileNotFoundError(f"{folder} has no weights; {_instead(folder)}")


def _instead(folder: Path) -> str:
    """What there is in place of a model, and what to do."""
    names = sorted(path.name for path in folder.iterdir())
    gguf = [name for name in names if name.endswith(".gguf")]
    if gguf:
        return (
            f"it has {gguf[0]}: convert it, and its tokenizer likewise, with "
            f"AutoModelForCausalLM.from_pretrained(folder, gguf_file={gguf[0]!r}).save_pretrained(another_folder)"
        )
    inner = sorted(
        path.parent for deep in ("*", "snapshots/*", "*/snapshots/*") for path in folder.glob(f"{deep}/config.json")
    )
    if inner:
        return f"load one of the folders in it: {few([str(path.relative_to(folder)) for path in inner])}"
    shards = [name for name in names if ".safetensors" in name or name.endswith(".bin")]
    if shards:
        return f"it has {few(shards)}; allowed: {' or '.join(WEIGHTS)}, or shards with the index that belongs to them"
    training = sorted({path.name for pattern in TRAINING for path in folder.glob(pattern)})
    if training:
        return f"it has the state of a training run ({few(training)}); allowed: what `model.save_pretrained` wrote"
    return "allowed: a folder that `save_pretrained` wrote"


def _examine_weights(file: Path) -> None:
    """Raise ValueError for a file of weights that is cut or a pointer."""
    with file.open("rb") as opened:
        beginning = opened.read(len(LFS))
    if beginning == LFS:
        raise ValueError(f"{file} is a pointer of git-lfs, not weights; fetch them: git lfs pull")
    if file.suffix == ".safetensors":
        try:
            with safe_open(file, "pt"):
                return
        except SafetensorError as error:
            raise ValueError(f"{file} is cut or damaged ({error}); copy or download it again") from error
    if not beginning or (beginning.startswith(b"PK") and not zipfile.is_zipfile(file)):
        raise ValueError(f"{file} is cut or damaged (no whole archive); copy or download it again")


def _json(file: Path) -> dict[str, Any]:
    """What a JSON file says. Raises ValueError for one that is cut, a pointer, or no table."""
    text = file.read_text(encoding="utf-8", errors="replace")
    if text.startswith(LFS.decode()):
        raise ValueError(f"{file} is a pointer of git-lfs, not JSON; fetch it: git lfs pull")
    try:
        said = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{file} is cut or damaged ({error}); copy or download it again") from error
    if not isinstance(said, dict):
        raise ValueError(f"{file} holds a {type(said).__name__}; allowed: an object, as `save_pretrained` writes")
    return said


def few(names: list[str]) -> str:
    """The first few names, and how many more."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
