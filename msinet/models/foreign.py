"""Weights files without torch: wrappers and prefixes of other code bases, files without weights, and hashes."""

import hashlib
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msinet.io import file_hash
from msinet.models.registry import State

#: Checkpoint entries that contain the weights.
WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "network", "net", "module", "state")
#: Prefixes of all entries, from classes that wrap a whole network.
AROUND = ("module.", "model.", "network.", "net.", "_orig_mod.")
#: Prefixes of the entries of a backbone.
BACKBONE = ("base.", "backbone.")
#: Kinds of files by their first bytes.
MAGIC = {
    b"version https://git-lfs": "a Git LFS pointer instead of the file itself: fetch it with git lfs pull",
    b"\x89HDF": "an HDF5 file, as Keras writes it",
    b"\x89PNG": "an image",
    b"\xff\xd8\xff": "an image",
    b"\x93NUMPY": "a NumPy array",
    b"\x1f\x8b": "a compressed archive: unpack it first",
    b"7z\xbc\xaf": "a compressed archive: unpack it first",
    b"Rar!": "a compressed archive: unpack it first",
    b"%PDF": "a PDF document",
    b"GGUF": "a GGUF file of a language model",
}


def unwrapped(payload: Any) -> Any:
    """The plain state dictionary, without the checkpoint around it and without prefixes of wrapper classes."""
    found = True
    while found:
        found = False
        for name in WRAPPERS:
            if isinstance(payload, Mapping) and isinstance(payload.get(name), Mapping):
                payload, found = payload[name], True
    while isinstance(payload, Mapping) and payload:
        prefix = next((one for one in AROUND if all(str(key).startswith(one) for key in payload)), None)
        if prefix is None:
            break
        payload = {str(key).removeprefix(prefix): value for key, value in payload.items()}
    return payload


def without_prefixes(state: State) -> State:
    """The entries without the prefix of a backbone; unchanged if two would get the same name."""
    found = {}
    for key, value in state.items():
        prefix = next((one for one in BACKBONE if key.startswith(one)), "")
        found[key.removeprefix(prefix)] = value
    return found if len(found) == len(state) else state


def is_safetensors(path: Path) -> bool:
    """True if the first bytes, or (for damaged files) the suffix, are those of a safetensors file."""
    with path.open("rb") as file:
        start = file.read(9)
    length = int.from_bytes(start[:8], "little")
    return path.suffix == ".safetensors" or (start[8:] == b"{" and 8 + length <= path.stat().st_size)


def weights_hash(path: Path) -> str:
    """Twelve hex digits that change with the weights in a file.

    Notes of safetensors files do not count: they have the version of the code, and the same weights must give the same
    run ids. For other files, and damaged ones, it is the hash of the bytes.
    """
    if not is_safetensors(path):
        return file_hash(path)
    with path.open("rb") as file:
        try:
            header = dict(json.loads(file.read(int.from_bytes(file.read(8), "little"))))
        except (ValueError, TypeError):
            return file_hash(path)
        header.pop("__metadata__", None)
        digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()[:12]


def kind_of(path: Path) -> str:
    """The kind of a file without weights, in words; empty if it is not known."""
    with path.open("rb") as file:
        start = file.read(512)
    for magic, kind in MAGIC.items():
        if start.startswith(magic):
            return kind
    if start.lstrip()[:5].lower() in (b"<!doc", b"<html"):
        return "a web page, as after a download that needs a login"
    if zipfile.is_zipfile(path):
        return _archive(path)
    if path.suffix.lower() == ".onnx":
        return "an ONNX network, which cannot be turned back into weights here"
    text = start.strip()
    if text and all(32 <= byte < 127 or byte in b"\t\r\n" for byte in text):
        return f"text that begins with {text[:30].decode('ascii')!r}"
    return ""


def _archive(path: Path) -> str:
    """The kind of a ZIP file; empty for a damaged file of torch.save."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError):
        return ""
    if any("/code/" in name for name in names) and any(name.endswith("data.pkl") for name in names):
        return "a TorchScript program: save its state_dict() with torch.save"
    if any(name.endswith("data.pkl") for name in names):
        return ""
    return (
        "a file of NumPy arrays"
        if names and all(name.endswith(".npy") for name in names)
        else "a ZIP archive: unpack it first"
    )
