"""The tensors of a directory of safetensors, in one file or in shards. They stay on disk until they are loaded.

The `safetensors` library checks a file's header against its length and every tensor's bytes against its shape. Format:
its README, "Format".
"""

from __future__ import annotations

import re
import reprlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from engine.weights.json_file import JsonObject, refuse

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_PLAIN_NAME = re.compile(r"[\w-][\w.-]*\.safetensors")
"""Of a shard: one with a directory in it could lead anywhere."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as it lies in its file."""

    name: str
    dtype: str
    """As the file spells it: F32, BF16 and so on."""
    shape: tuple[int, ...]
    _file: Any

    def load(self) -> torch.Tensor:
        """The tensor as it is; it may share memory with the file."""
        return self._file.get_tensor(self.name)


def open_safetensors(directory: Path) -> dict[str, StoredTensor]:
    """Every tensor of a directory by name: those of model.safetensors, or of the shards that the index lists.

    Raises:
        ModelFileError: There is neither, a file can't be read or is damaged, or the index and the shards disagree.
    """
    if (directory / SINGLE).exists():
        return _open_file(directory / SINGLE)
    if not (directory / INDEX).exists():
        refuse(
            directory,
            f"it has neither {SINGLE} nor {INDEX}",
            "Give a GGUF file, or the directory of a model in the safetensors format",
        )
    index = JsonObject.open(directory / INDEX)
    listed: dict[str, set[str]] = {}
    for name, shard in index.require("weight_map", dict).items():
        if type(shard) is not str or not _PLAIN_NAME.fullmatch(shard):
            index.refuse(f"it places the tensor {name} in {reprlib.repr(shard)}, which is no name of a file beside it")
        listed.setdefault(shard, set()).add(name)
    tensors: dict[str, StoredTensor] = {}
    for shard, names in listed.items():
        held = _open_file(directory / shard)
        for name in sorted(names ^ held.keys()):
            wrong = "it lacks the tensor" if name in names else f"{INDEX} does not place there the tensor"
            refuse(directory / shard, f"{wrong} {name}")
        tensors |= held
    return tensors


def _open_file(path: Path) -> dict[str, StoredTensor]:
    try:
        file: Any = safe_open(path, framework="pt")
        tensors: dict[str, StoredTensor] = {}
        for name in file.keys():  # noqa: SIM118 - the file is no mapping
            header = file.get_slice(name)
            tensors[name] = StoredTensor(name, header.get_dtype(), tuple(header.get_shape()), file)
        return tensors
    except FileNotFoundError:
        refuse(path, "it is not there", "Fetch the whole directory of the model again")
    except (OSError, SafetensorError) as error:
        refuse(path, str(error))
