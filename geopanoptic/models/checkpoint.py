"""Model files: safetensors with the card under the metadata key `geopanoptic`. No torch here.

The header is read and checked by hand before anything is mapped: a file of someone else is only
bytes until its sizes, offsets and hash agree.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geopanoptic.errors import CheckpointError, nearest_name
from geopanoptic.models.card import ModelCard

KEY = "geopanoptic"
MAX_HEADER_BYTES = 16 * 2**20
MAX_FILE_BYTES = 4 * 2**30
_DTYPES = {"F16": np.float16, "F32": np.float32, "I64": np.int64, "I32": np.int32, "U8": np.uint8}
_WEIGHTS = Path(__file__).parent / "weights"


@dataclass(frozen=True, slots=True)
class Header:
    """The head of a model file: its card, its tensors (name -> dtype, shape, offsets), its size."""

    card: ModelCard
    tensors: Mapping[str, Mapping[str, Any]]
    data_start: int


def bundled_names() -> list[str]:
    """List the names of the bundled models."""
    return sorted(p.stem for p in _WEIGHTS.glob("*.safetensors"))


def model_path(name_or_path: str | Path) -> Path:
    """Return the file of a bundled name or of a path; CheckpointError names the bundled ones."""
    text = str(name_or_path)
    if text in bundled_names():
        return _WEIGHTS / f"{text}.safetensors"
    path = Path(text)
    if path.is_file():
        return path
    known = bundled_names()
    raise CheckpointError(
        f"there is no model '{text}'{nearest_name(text, known)}; bundled models: "
        f"{', '.join(known) or 'none'}; or give the path of a .safetensors file"
    )


def read_header(path: Path) -> Header:
    """Read and check the head of a model file, without its tensors.

    Raises CheckpointError: no safetensors file (a pickle, say), truncated, sizes or offsets that
    do not fit, no card.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            length = int.from_bytes(start, "little")
            if len(start) < 8 or not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
                raise CheckpointError(_not_safetensors(path, start))
            head = json.loads(file.read(length).decode("utf-8"))
    except OSError as why:
        raise CheckpointError(f"cannot read the model {path}: {why.strerror}") from why
    except (UnicodeDecodeError, ValueError, RecursionError) as why:
        raise CheckpointError(f"{path} has a damaged header: {why}; get the file again") from why
    if not isinstance(head, dict):
        raise CheckpointError(_not_safetensors(path, start))
    if size > MAX_FILE_BYTES:
        raise CheckpointError(f"{path} has {size} bytes; models above {MAX_FILE_BYTES} are refused")
    meta = head.pop("__metadata__", None)
    if not isinstance(meta, dict) or not isinstance(meta.get(KEY), str):
        raise CheckpointError(
            f"{path} holds weights but no model card (metadata key '{KEY}'); "
            "make it with `geopanoptic train`, or add a card"
        )
    _check_layout(path, head, size - 8 - length)
    try:
        raw = json.loads(meta[KEY])
    except (ValueError, RecursionError) as why:
        raise CheckpointError(f"the card of {path} is not JSON: {why}; get the file again") from why
    return Header(ModelCard.from_json(raw), head, 8 + length)


def _not_safetensors(path: Path, start: bytes) -> str:
    is_pickle = start[:2] == b"PK" or start[:1] == b"\x80"  # torch's zip, or a bare one
    kind = "a PyTorch pickle" if is_pickle else "no safetensors file"
    return (
        f"{path} is {kind}; models are .safetensors files with a card "
        "(pickles can run code and are never loaded; `geopanoptic models convert` makes one of a "
        "state dict)"
    )


def _check_layout(path: Path, tensors: Mapping[str, Any], data_bytes: int) -> None:
    """Check that dtypes, shapes and offsets are sane and fill the file exactly."""
    try:
        spans = []
        for name, t in tensors.items():
            begin, end = (int(v) for v in t["data_offsets"])
            shape = [int(n) for n in t["shape"]]
            count = int(np.prod(shape, dtype=object)) if shape else 1
            if (
                min(shape, default=0) < 0
                or end - begin != count * np.dtype(_DTYPES[t["dtype"]]).itemsize
            ):
                raise CheckpointError(
                    f"{path}: tensor '{name}' has a wrong size; get the file again"
                )
            spans.append((begin, end))
    except (KeyError, TypeError, ValueError) as why:
        raise CheckpointError(f"{path} has a damaged tensor table: {why!r}") from why
    ends = 0
    for begin, end in sorted(spans):
        if begin != ends:
            raise CheckpointError(f"{path}: tensors overlap or leave gaps; get the file again")
        ends = end
    if ends != data_bytes:
        raise CheckpointError(
            f"{path} is truncated or damaged: {data_bytes} bytes of weights, {ends} promised; "
            "get the file again"
        )


def read_tensors(path: Path, header: Header) -> dict[str, npt.NDArray[Any]]:
    """Read all tensors and check them against the card's sha256; CheckpointError if they differ."""
    with path.open("rb") as file:
        file.seek(header.data_start)
        data = file.read()
    out = {}
    for name, t in header.tensors.items():
        begin, end = t["data_offsets"]
        out[name] = np.frombuffer(data[begin:end], _DTYPES[t["dtype"]]).reshape(t["shape"])
    digest = weights_digest(out)
    if digest != header.card.sha256:
        raise CheckpointError(
            f"the weights of {path} are not those of its card (sha256 {digest[:12]}..., the card "
            f"says {header.card.sha256[:12]}...); the file is damaged or altered: get it again"
        )
    return out


def weights_digest(tensors: Mapping[str, npt.NDArray[Any]]) -> str:
    """Return the sha256 over names, dtypes, shapes and bytes of tensors, in the order of names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        a = np.asarray(tensors[name], order="C")
        digest.update(f"{name}|{a.dtype.str}|{a.shape}|".encode())
        digest.update(a.tobytes())
    return digest.hexdigest()


def save_model(path: Path, tensors: Mapping[str, npt.NDArray[Any]], card: ModelCard) -> ModelCard:
    """Write a model file, floats as fp16, and return the card with the sha256 of what was written.

    Nothing stands under `path` before it is whole.
    """
    from safetensors.numpy import save

    small = {
        k: np.asarray(v.astype(np.float16) if v.dtype.kind == "f" else v, order="C")
        for k, v in tensors.items()
    }
    card = replace(card, sha256=weights_digest(small))
    part = path.with_name(path.name + ".tmp")
    part.write_bytes(save(small, metadata={KEY: json.dumps(card.to_json())}))
    read_tensors(part, read_header(part))
    part.replace(path)
    return card
