"""Commands on trained networks: msinet evaluate | embed | export."""

import json
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from msinet.errors import UserError, WeightsError
from msinet.training.options import RunOptions

if TYPE_CHECKING:
    import torch
    from torch import nn

    from msinet.data import Dataset
    from msinet.data.loading import PixelSource
    from msinet.training.evaluation import Distances


@dataclass(frozen=True, kw_only=True)
class WeightsFile:
    """A file of weights, and what it may leave open."""

    weights: Path
    """file of `msinet train`, or a released one (MSINet's authors, torchreid's OSNet, torchvision's ResNet)"""
    model: str = ""
    """name of the network, for weights that do not name it; `msinet list` shows networks"""
    options: tuple[str, ...] = ()
    """options of the network, such as genotype=GGEGAGGNGAEA"""
    height: int = 0
    """image height; 0: as the weights were trained, else the paper's"""
    width: int = 0
    """image width; 0: as the weights were trained, else the paper's"""
    partial: bool = False
    """accept weights that cover only a part of the network"""

    def load(self, dataset: str) -> "tuple[nn.Module, int, int]":
        """The network with its weights, and the height and width of its images; the default size is the data set's."""
        from msinet.models import CARDS, build_model, load_weights
        from msinet.models.weights import read_metadata
        from msinet.training.recipes import parse_settings, resolve

        known = read_metadata(self.weights)
        name = self.model or known.get("model", "")
        if not name:
            raise WeightsError(
                f"{self.weights} does not say which network it holds; pass --model, one of {', '.join(CARDS)}"
            )
        options = parse_settings(self.options) or json.loads(known.get("options", "{}"))
        default = resolve("paper", dataset, name).recipe.image
        height = self.height or int(known.get("height", default.height))
        width = self.width or int(known.get("width", default.width))
        model = build_model(name, int(known.get("num_classes", 1)), image=(height, width), **options)
        print(load_weights(model, self.weights, partial=self.partial))
        return model, height, width


@dataclass(frozen=True, kw_only=True)
class _OnDataset(WeightsFile):
    data_root: Path
    """folder that holds the data sets in their native layouts"""
    dataset: str = "market1501"
    """test set; `msinet list` shows data sets"""
    run_options: Annotated[RunOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=RunOptions)

    def opened(self) -> "tuple[nn.Module, Dataset, PixelSource, torch.device]":
        """The network on its device, the data set, its test images in the network's size, and the device."""
        from msinet.data import load_dataset, open_pixels
        from msinet.environment import pick_device
        from msinet.precision import use_precision

        use_precision("fp32")
        dataset = load_dataset(self.dataset, self.data_root)
        model, height, width = self.load(dataset.name)
        device = pick_device(self.run_options.device)
        cache, progress = self.run_options.cache, self.run_options.progress
        pixels = open_pixels(dataset, "test", height, width, cache=cache, progress=progress)
        return model.to(device), dataset, pixels, device


@dataclass(frozen=True, kw_only=True)
class Evaluate(_OnDataset):
    """Rank the test images of a data set with given weights: CMC, mAP and mINP."""

    rerank: bool = False
    """apply k-reciprocal re-ranking (k1 20, k2 6, lambda 0.3); the paper's numbers are without"""
    blur: int = 0
    """apply SFT's post-processing to so many nearest gallery images; its authors take 50, on MSMT17 150; 0: none"""
    blur_temperature: float = 0.1
    """of that post-processing; on MSMT17 its authors take 0.02"""
    out: Path | None = None
    """JSON file for the metrics"""

    def distances(self) -> "tuple[Distances | None, str]":
        """The distances of the re-ranking, None without, and what is printed about it.

        Raises:
            UserError: both kinds of re-ranking, or a negative number of images.
        """
        from msinet.retrieval import blur, rerank

        if self.blur < 0 or (self.rerank and self.blur):
            raise UserError(
                f"--blur takes a number of images above 0 and does not go with --rerank, got {self.blur}; choose one"
            )
        if self.blur:
            return partial(blur, nearest=self.blur, temperature=self.blur_temperature), f", {self.blur} nearest blurred"
        return (rerank, ", re-ranked") if self.rerank else (None, "")

    def __call__(self) -> int:
        """Evaluate, print and write the metrics."""
        from msinet import distributed
        from msinet.cli.training import metrics_line
        from msinet.environment import describe
        from msinet.io import write_json
        from msinet.training import evaluate_model

        distances, note = self.distances()
        model, dataset, pixels, device = self.opened()
        progress = self.run_options.progress
        result = evaluate_model(model, dataset, pixels, device, progress=progress, distances=distances)
        print(metrics_line(dataset.name + note, result.metrics))
        if len(result.draws) > 1:
            print(f"  standard deviation over {len(result.draws)} draws: " + metrics_line("", result.std))
        if self.out is not None and distributed.leads():
            write_json(
                self.out,
                {
                    **result.metrics,
                    **{f"{name}_std_draws": value for name, value in result.std.items()},
                    "dataset": dataset.name,
                    "fingerprint": dataset.fingerprint,
                    "weights": str(self.weights),
                    **dict(zip(("height", "width"), pixels[0].shape, strict=False)),
                    "reranked": self.rerank,
                    "blurred": self.blur,
                    **describe(device),
                },
            )
            print(f"written: {self.out}")
        return 0


@dataclass(frozen=True, kw_only=True)
class Embed(_OnDataset):
    """Write one feature row per test image: features.npz with features, paths, identities, cameras."""

    out: Path = Path("features.npz")
    """file to write"""

    def __call__(self) -> int:
        """Compute and write the features."""
        import numpy as np

        from msinet import distributed
        from msinet.io import atomic_path
        from msinet.training import embed

        model, dataset, pixels, device = self.opened()
        features = embed(model, pixels, device, progress=self.run_options.progress)
        if not distributed.leads():
            return 0
        with atomic_path(self.out) as temporary, temporary.open("wb") as stream:
            np.savez(
                stream,
                features=features.numpy(),
                paths=np.array([i.path.relative_to(dataset.root).as_posix() for i in dataset.test]),
                identities=np.array([i.identity for i in dataset.test]),
                cameras=np.array([i.camera for i in dataset.test]),
                query=dataset.draws[0].query,
                gallery=dataset.draws[0].gallery,
            )
        print(f"{features.shape[0]} features of {features.shape[1]} numbers, written: {self.out}")
        return 0


@dataclass(frozen=True, kw_only=True)
class Export(WeightsFile):
    """Write a network for other runtimes: an ONNX file of its deployed form, compared with torch before it appears."""

    out: Path
    """ONNX file: input images (B, 3, H, W) normalised with ImageNet's statistics, output features (B, D)"""

    def __call__(self) -> int:
        """Export and compare."""
        from msinet.export import export_onnx, need_onnx

        need_onnx()
        model, height, width = self.load("market1501")
        difference = export_onnx(model, self.out, (height, width))
        print(f"features equal torch's to {difference:.1e} of the largest; written: {self.out}")
        return 0
