"""Weights files: ours, the authors' MSINet, torchreid's OSNet, torchvision's ResNet.

A file is read without executing anything in it, its layout is recognised from its keys, the keys are
translated into ours, and everything is compared before the first weight of the network changes.
"""

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from msinet.errors import WeightsError
from msinet.io import StrPath, atomic_path
from msinet.models.interactions import CrossAttention, Exchange, Gate, NoInteraction
from msinet.models.transformer import VisionTransformer

State = dict[str, Tensor]


@dataclass(frozen=True)
class Layout:
    """How a code base names the weights of a network, and how those names become ours.

    Attributes:
        name: as reports and errors call it.
        marker: pattern of a key that only this layout has.
        rules: (pattern, replacement), applied in order to every key.
        extra: pattern of entries of the file that no network here needs.
        lacks: pattern of our entries that the layout does not know.
    """

    name: str
    marker: str
    rules: tuple[tuple[str, str], ...] = ()
    extra: str = "(?!)"  # matches nothing
    lacks: str = "(?!)"


MSINET = (
    (r"^head\.", "head.bn."),
    (r"^(fc|classifier)\.", r"head.\1."),
    (r"^f_conv\.", "head.squeeze."),
    (r"^f_head\.", "head.local_bn."),
    (r"^f_(fc|classifier)\.", r"head.local_\1."),
    (r"^conv1\.", "backbone.stem.0."),
    (r"^cells\.0\.", "backbone.stage1.0."),
    (r"^cells\.1\.", "backbone.stage1.1."),
    (r"^cells\.2\.", "backbone.down1."),
    (r"^cells\.3\.", "backbone.stage2.0."),
    (r"^cells\.4\.", "backbone.stage2.1."),
    (r"^cells\.5\.", "backbone.down2."),
    (r"^cells\.6\.", "backbone.stage3.0."),
    (r"^cells\.7\.", "backbone.stage3.1."),
    (r"\.conv1([ab])\.", r".entry_\1."),
    (r"\.conv2a\.", ".half1_a.0."),  # one light convolution here, a stack of them in branch b
    (r"\.conv3a\.", ".half2_a.0."),
    (r"\.conv2b\.", ".half1_b."),
    (r"\.conv3b\.", ".half2_b."),
    (r"\.conv4([ab])\.", r".fuse_\1."),
    (r"(\.half._.\.\d+)\.conv1\.", r"\1.pointwise."),
    (r"(\.half._.\.\d+)\.conv2\.", r"\1.depthwise."),
    (r"\._op2\.", ".interaction1."),
    (r"\._op3\.", ".interaction2."),
    (r"\.(interaction.)\.fc", r".\1.gate.fc"),
    (r"\.downsample\.", ".shortcut."),
)

OSNET = (
    (r"^(fc|classifier)\.", r"head.\1."),
    (r"^conv1\.", "backbone.stem.0."),
    (r"^conv2\.2\.", "backbone.down1."),
    (r"^conv3\.2\.", "backbone.down2."),
    (r"^conv2\.", "backbone.stage1."),
    (r"^conv3\.", "backbone.stage2."),
    (r"^conv4\.", "backbone.stage3."),
    (r"^conv5\.", "backbone.conv5."),
    (r"\.conv2a\.", ".streams.0.0."),  # one light convolution here, stacks of them in b, c and d
    (r"\.conv2b\.", ".streams.1."),
    (r"\.conv2c\.", ".streams.2."),
    (r"\.conv2d\.", ".streams.3."),
    (r"(\.streams\.\d\.\d)\.conv1\.", r"\1.pointwise."),
    (r"(\.streams\.\d\.\d)\.conv2\.", r"\1.depthwise."),
    (r"(\.stage\d\.\d)\.conv1\.", r"\1.reduce."),
    (r"(\.stage\d\.\d)\.conv3\.", r"\1.expand."),
    (r"\.downsample\.", ".shortcut."),
)

RESNET = ((r"^(conv1|bn1|layer\d)\.", r"backbone.\1."),)

TIMM = (
    (r"^cls_token$", "backbone.class_token"),
    (r"^pos_embed$", "backbone.pos_embedding"),
    (r"^patch_embed\.proj\.", "backbone.conv_proj."),
    (r"^norm\.", "backbone.ln."),
    (r"^blocks\.", "backbone.layers."),
    (r"\.norm([12])\.", r".ln_\1."),
    (r"\.attn\.qkv\.", ".self_attention.in_proj_"),
    (r"\.attn\.proj\.", ".self_attention.out_proj."),
    (r"\.mlp\.fc1\.", ".mlp.0."),
    (r"\.mlp\.fc2\.", ".mlp.3."),
)

TORCHVISION_VIT = (
    (r"^(class_token$|conv_proj\.)", r"backbone.\1"),
    (r"^encoder\.layers\.encoder_layer_", "backbone.layers."),
    (r"^encoder\.(pos_embedding$|ln\.)", r"backbone.\1"),
    (r"\.mlp\.linear_1\.", ".mlp.0."),
    (r"\.mlp\.linear_2\.", ".mlp.3."),
)

LAYOUTS = (
    Layout("our own", r"backbone\."),
    # The position activation module of SAM shapes training only.
    Layout("released MSINet", r"cells\.0\.conv1a\.", MSINET, extra=r"align_module\."),
    Layout("torchreid OSNet", r"conv2\.0\.conv2a\.", OSNET),
    # Its fc tells ImageNet classes apart, straight from the pooled map: no neck of ours has that place.
    # Both have heads for ImageNet's classes; the second token of distilled ones (DeiT) goes with its head.
    Layout("timm ViT", r"blocks\.0\.attn\.", TIMM, extra=r"(head|head_dist|pre_logits)\.|dist_token$", lacks=r"head\."),
    Layout(
        "torchvision ViT", r"encoder\.layers\.encoder_layer_0\.", TORCHVISION_VIT, extra=r"heads\.", lacks=r"head\."
    ),
    Layout("torchvision ResNet", r"layer1\.0\.conv1\.", RESNET, extra=r"fc\.", lacks=r"head\."),
)
UNRECOGNISED = Layout("unrecognised", "")

#: Patterns, in our own keys, of what only one family of networks has.
FAMILIES = {
    "MSINet": r"backbone\.stage1\.0\.entry_a\.",
    "OSNet": r"backbone\.stage1\.0\.streams\.",
    "CDNet": r"backbone\.stage1\.0\.0\.branch1\.",
    "ResNet": r"backbone\.layer1\.",
    "vision transformer": r"backbone\.layers\.0\.",
}

POSITIONS = "backbone.pos_embedding"

#: Rows of identities or classes: of no use on another data set.
CLASSIFIER = re.compile(r"(.*\.)?(local_)?classifier\.(weight|bias)")
#: Counts that evaluation never reads and that files of the first years do not have.
COUNTER = re.compile(r".*\.num_batches_tracked")

EXPECTED = "expected a dictionary of tensors, or one under 'state_dict'"

LETTERS: dict[type[nn.Module], str] = {NoInteraction: "N", Exchange: "E", Gate: "G", CrossAttention: "A"}

_scalar = cast(tuple[Any, ...], np.float64(0).__reduce__())[0]
#: Numbers of numpy, which torchreid stores beside the weights (rank1): they build a number, nothing else.
NUMPY_NUMBERS: list[Any] = [
    (_scalar, "numpy.core.multiarray.scalar"),  # as numpy 1 wrote it
    (_scalar, "numpy._core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(code)) for code in ("f2", "f4", "f8", "i4", "i8", "?")),
]


@dataclass(frozen=True)
class LoadReport:
    """What matched when a file was loaded; keys are ours, those in `unexpected` may be the file's own.

    Attributes:
        path: the file.
        layout: whose names the file uses.
        matched: entries that were loaded, out of `total` entries of the network.
        missing: entries of the network that the file lacks; they keep their values.
        unexpected: entries of the file that the network lacks; they were left out.
        mismatched: entries of both whose shapes differ; left out as well.
    """

    path: Path
    layout: str
    matched: int
    total: int
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [f"{self.path} ({self.layout} layout): {self.matched} of {self.total} entries matched"]
        for words, keys in (
            ("not in the file", self.missing),
            ("not in the network, left out", self.unexpected),
            ("of another shape, left out", self.mismatched),
        ):
            if keys:
                parts.append(f"{len(keys)} {words} ({_some(keys)})")
        return "; ".join(parts)


def load_weights(model: nn.Module, path: StrPath, *, partial: bool = False) -> LoadReport:
    """Load a weights file into `model`, all or nothing.

    The layout (ours, released MSINet, torchreid OSNet, timm or torchvision ViT, torchvision ResNet) is recognised
    from the keys; a transformer's position embedding is resized to the network's image size;
    a wrapping `state_dict` or `model` entry and the prefix `module.` are taken off. Classifiers of another
    number of classes, the alignment module of SAM and torchvision's missing neck are no errors: the report
    names them.

    Args:
        model: on any device; weights take its type and device.
        path: a `.safetensors` file, or any other name for a file of `torch.save`.
        partial: load what fits and report the rest, instead of refusing a file that does not fit.

    Raises:
        WeightsError: the file is missing, damaged, holds other things than tensors, holds NaN or
            infinite values, or does not fit. The model is then as it was.
    """
    path = Path(path)
    raw, metadata = _read(path)
    layout = next((one for one in LAYOUTS if any(re.match(one.marker, key) for key in raw)), UNRECOGNISED)
    state = {_translate(key, layout.rules): tensor for key, tensor in raw.items()}
    own: State = model.state_dict()
    if {POSITIONS} <= state.keys() & own.keys():
        state[POSITIONS] = _fit_positions(path, state[POSITIONS], 2 if "dist_token" in raw else 1, model, metadata)

    fitting = {key: value for key, value in state.items() if key in own and value.shape == own[key].shape}
    report = LoadReport(
        path,
        layout.name,
        len(fitting),
        len(own),
        missing=tuple(key for key in own if key not in state),
        unexpected=tuple(key for key in state if key not in own),
        mismatched=tuple(key for key in state if key in own and key not in fitting),
    )
    if not fitting:
        raise WeightsError(
            f"nothing in {path} ({layout.name} layout; {_some(list(raw))}) fits the network; "
            f"{_likeness(state, own) or 'build the network that it belongs to'}. "
            f"Known layouts: {', '.join(one.name for one in LAYOUTS)}"
        )
    if not partial and (problems := _problems(report, layout, model, state, metadata)):
        raise WeightsError(
            f"{path} ({layout.name} layout) does not fit the network, which is left as it was: "
            f"{'; '.join(problems)}. {report.matched} of {report.total} entries match; "
            "to load only those, pass partial=True (--partial)"
        )
    model.load_state_dict(fitting, strict=False)
    return report


def save_weights(model: nn.Module, path: StrPath, metadata: Mapping[str, str]) -> None:
    """Write the weights and `metadata` as a safetensors file, whole or not at all.

    The interactions of an MSINet are noted with it (key `interactions`), because its exchanges leave no
    trace in the weights.

    Raises:
        UserError: the file cannot be written.
    """
    letters = "".join(_interactions(model).values())
    noted = {**metadata, "interactions": letters} if letters else dict(metadata)
    tensors = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    with atomic_path(path) as temporary:
        temporary.write_bytes(_in_order(safetensors.torch.save(tensors, noted)))


def _in_order(file: bytes) -> bytes:
    """The same safetensors file with its notes sorted: the library's order is random, and runs are named by bytes."""
    start = 8 + int.from_bytes(file[:8], "little")
    header = json.loads(file[8:start])
    if notes := header.get("__metadata__"):
        header["__metadata__"] = dict(sorted(notes.items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors stay aligned
    return len(text).to_bytes(8, "little") + text + file[start:]


def read_metadata(path: StrPath) -> dict[str, str]:
    """The notes that `save_weights` put into a file; files of `torch.save` have none.

    Raises:
        WeightsError: the file is missing or damaged.
    """
    return _read(Path(path))[1]


def _read(path: Path) -> tuple[State, dict[str, str]]:
    """The checked tensors of a file under its own keys, and its metadata."""
    if not os.path.isfile(path):  # unlike Path.is_file, raises nothing for a folder that is closed to us
        kind = "is a folder" if os.path.isdir(path) else "does not exist"
        raise WeightsError(f"weights file {path} {kind}; give the path of a .safetensors, .pth or .tar file")
    if path.stat().st_size == 0:
        raise WeightsError(f"{path} is empty (0 bytes): an interrupted download or save; fetch it again")
    payload, metadata = _safetensors(path) if path.suffix == ".safetensors" else (_torch(path), {})
    return _check(path, _unwrap(payload)), metadata


def _safetensors(path: Path) -> tuple[State, dict[str, str]]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        raise _damaged(path, error) from error


def _torch(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals(NUMPY_NUMBERS):
            return torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # damaged bytes raise anything from IndexError to UnicodeDecodeError
        if forbidden := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise WeightsError(
                f"{path} holds more than tensors ({forbidden[1]}) and was not loaded, because that could run "
                "code; if you trust its origin, save its weights alone with "
                "torch.save(network.state_dict(), ...) in the code base that wrote it"
            ) from error
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> WeightsError:
    if isinstance(error, PermissionError):
        return WeightsError(f"{path} cannot be read: {error.strerror}; change its permissions")
    lines = str(error).splitlines() or [type(error).__name__]
    return WeightsError(f"{path} is damaged or not a weights file: fetch or save it again ({lines[0][:160]})")


def _unwrap(payload: Any) -> Any:
    """The bare state, without the dictionary of a training checkpoint and the prefix of a wrapper."""
    for name in ("state_dict", "model"):
        if isinstance(payload, Mapping) and isinstance(payload.get(name), Mapping):
            payload = payload[name]
    if isinstance(payload, Mapping) and all(str(key).startswith("module.") for key in payload):
        return {key.removeprefix("module."): value for key, value in payload.items()}
    return payload


def _check(path: Path, state: Any) -> State:
    if not isinstance(state, Mapping) or not state:
        raise WeightsError(f"{path} holds no weights; {EXPECTED}")
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise WeightsError(f"{path}: entry {key!r} is no tensor but {type(value).__name__}; {EXPECTED}")
        if not value.isfinite().all():
            raise WeightsError(
                f"{path}: {key} has NaN or infinite values, as of a run that diverged; use an earlier checkpoint"
            )
    return dict(state)


def _translate(key: str, rules: Sequence[tuple[str, str]]) -> str:
    for pattern, replacement in rules:
        key = re.sub(pattern, replacement, key)
    return key


def _problems(
    report: LoadReport, layout: Layout, model: nn.Module, state: State, metadata: Mapping[str, str]
) -> list[str]:
    """Why the file does not fit, in words; empty if it does."""
    own: State = model.state_dict()

    def harmless(key: str) -> bool:
        return bool(
            CLASSIFIER.fullmatch(key) or COUNTER.fullmatch(key) or re.match(layout.lacks, key) or key.startswith("pam.")
        )  # trained with alignment, which pre-training has not

    missing = [key for key in report.missing if not harmless(key)]
    unexpected = [key for key in report.unexpected if not (CLASSIFIER.fullmatch(key) or re.match(layout.extra, key))]
    shapes = [
        f"{key}: {_size(state[key])} in the file but {_size(own[key])} here"
        for key in report.mismatched
        if not (CLASSIFIER.fullmatch(key) and state[key].shape[1:] == own[key].shape[1:])
    ]
    problems = [_likeness(state, own), *_differing(_interactions(model), state, metadata)]
    for words, items in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes)):
        if items:
            problems.append(f"{len(items)} {words} ({_some(items)})")
    return [problem for problem in problems if problem]


def _likeness(state: State, own: State) -> str:
    """Says so where the file belongs to another family of networks than the model."""
    of_file, of_model = (
        next((name for name, marker in FAMILIES.items() if any(re.match(marker, key) for key in keys)), "")
        for keys in (state, own)
    )
    if of_file in ("", of_model):
        return ""
    of_model = of_model or "this network"
    return f"it looks like a checkpoint of {of_file}, not of {of_model}: build {of_file} for it"


def _interactions(model: nn.Module) -> dict[str, str]:
    """The letter of every interaction of an MSINet by the name of its module, first cell first."""
    return {name: LETTERS[type(module)] for name, module in model.named_modules() if type(module) in LETTERS}


def _differing(letters: Mapping[str, str], state: State, metadata: Mapping[str, str]) -> list[str]:
    """The interactions in which file and network differ; nothing where the file is of no MSINet."""
    if not any(re.match(FAMILIES["MSINet"], key) for key in state):
        return []
    noted = metadata.get("interactions", "")
    differing = []
    for number, (name, letter) in enumerate(letters.items()):
        if len(noted) == len(letters):
            of_file = noted[number]
        elif f"{name}.gamma" in state:
            of_file = "A"
        else:
            of_file = "G" if f"{name}.gate.fc1.weight" in state else "N or E"
        if letter not in of_file:
            differing.append(f"{name.removeprefix('backbone.')} is {of_file} in the file and {letter} here")
    return [f"{len(differing)} interactions differ ({_some(differing)})"] if differing else []


def _fit_positions(path: Path, embedding: Tensor, tokens: int, model: nn.Module, metadata: Mapping[str, str]) -> Tensor:
    """A position embedding (1, tokens + N, D) on the network's grid, bilinearly resized: (1, 1 + N', D).

    The first `tokens` rows are of the class token and, in distilled weights, of a second one, which is left out.
    """
    backbone = model.get_submodule("backbone")
    assert isinstance(backbone, VisionTransformer)
    grid = backbone.grid
    count, channels = embedding.shape[1] - tokens, embedding.shape[2]
    was = math.isqrt(count), math.isqrt(count)
    if "height" in metadata:  # noted by us; what others publish is for square images
        was = int(metadata["height"]) // backbone.patch, int(metadata["width"]) // backbone.patch
    if count == grid[0] * grid[1] and (was == grid or was[0] * was[1] != count):
        return torch.cat([embedding[:, :1], embedding[:, tokens:]], 1)
    if was[0] * was[1] != count:
        raise WeightsError(
            f"{path}: {count} position embeddings are of no square image, so they cannot be resized to "
            f"{grid[0]}x{grid[1]} patches; train from weights of square images, or at their image size"
        )
    places = embedding[:, tokens:].reshape(1, *was, channels).movedim(3, 1)  # (1, D, h, w)
    resized = F.interpolate(places.float(), size=grid, mode="bilinear", align_corners=False)  # (1, D, h', w')
    return torch.cat([embedding[:, :1], resized.to(embedding.dtype).flatten(2).transpose(1, 2)], 1)


def _size(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _some(items: Sequence[str], count: int = 4) -> str:
    return ", ".join(items[:count]) + (f", and {len(items) - count} more" if len(items) > count else "")
