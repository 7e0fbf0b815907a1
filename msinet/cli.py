"""Command line: msinet train | search | pretrain | evaluate | embed | export | data render | data check | data show."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field, replace
from io import StringIO
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from torch import nn

from msinet import distributed
from msinet.data import load_dataset, open_pixels
from msinet.data.check import check, recognised
from msinet.data.folders import load_class_folders
from msinet.data.rendered import read_world
from msinet.data.sheets import show
from msinet.environment import describe, pick_device
from msinet.errors import UserError, WeightsError, unknown_name
from msinet.export import export_onnx, need_onnx
from msinet.io import atomic_path, file_errors, write_json
from msinet.models import CARDS, build_model, load_weights
from msinet.models.weights import read_metadata
from msinet.retrieval import METRICS
from msinet.search import read_genotype, search, search_line
from msinet.synthetic import SIZES, render
from msinet.training import embed, evaluate_model
from msinet.training.pretrain import pretrain
from msinet.training.recipes import overridden, parse_settings, resolve, resolve_pretraining, resolve_search
from msinet.training.run import RECORD, RunOptions, exclusive_of_all, run

Command = Callable[[], int]


@dataclass(frozen=True)
class Train:
    """Train a network on one data set and rank it, there or on another."""

    data_root: Path
    """folder that holds the data sets in their native layouts"""
    out: Path
    """folder for the results; the same command goes on with an unfinished run in it"""
    model: str = "msinet"
    """msinet, resnet50, osnet, cdnet, ...; NAME_x0_25 for a quarter of the width"""
    options: tuple[str, ...] = ()
    """of the model, as genotype=GGEGAGGNGAEA ratio=3 fusion=sum"""
    genotype: Path | None = None
    """genotype.json of `msinet search`; or give the letters themselves as option genotype=..."""
    dataset: str = "market1501"
    """training set: market1501, msmt17, veri776, vehicleid"""
    target: str = ""
    """test set; another one than the training set switches to the cross-domain recipe"""
    profile: str = "mini"
    """smoke, mini, full or paper"""
    recipe: tuple[str, ...] = ()
    """changes to the profile's recipe, as lr=0.01 epochs=80"""
    weights: Path | None = None
    """pre-trained weights to start from"""
    seed: int = 0
    """repetition; everything random follows from it"""
    run_options: Annotated[RunOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=RunOptions)

    def __call__(self) -> int:
        """Run it."""
        source = load_dataset(self.dataset, self.data_root)
        target = load_dataset(self.target, self.data_root) if self.target else source
        resolved = resolve(self.profile, self.dataset, self.model, cross_domain=source.name != target.name)
        recipe = overridden(resolved, self.recipe).recipe
        options = parse_settings(self.options)
        if self.genotype is not None:
            if "genotype" in options:
                raise UserError("give one of --genotype FILE and --options genotype=..., not both")
            options["genotype"] = read_genotype(self.genotype)
        with exclusive_of_all(self.out / ".lock", f"a training in {self.out}"):
            if distributed.leads() and (self.out / RECORD).exists() and self.run_options.resume:
                raise UserError(f"{self.out} holds a finished run; choose another --out, or --no-resume to start again")
            record = run(
                self.out,
                model=self.model,
                options=options,
                source=source,
                target=target,
                recipe=recipe,
                seed=self.seed,
                weights=self.weights,
                run_options=self.run_options,
            )
        print(metrics_line(target.name, {name: float(record[name] or 0) for name in METRICS}))
        print(f"written: {self.out}/record.json, history.csv, queries.csv, model.safetensors, log.txt")
        return 0


@dataclass(frozen=True)
class Search:
    """Search an architecture by twins contrast (or a baseline); `train --genotype` trains what it finds."""

    data_root: Path
    """folder that holds the data sets in their native layouts"""
    out: Path
    """folder for the results; the same command goes on with an unfinished search in it"""
    dataset: str = "msmt17"
    """training set: market1501, msmt17, veri776, vehicleid"""
    profile: str = "mini"
    """smoke, mini, full or paper"""
    recipe: tuple[str, ...] = ()
    """changes to the profile's search recipe, as overlap=0.6 epochs=20 memory_init=zeros leak=True"""
    model: str = "supernet"
    """supernet, or supernet_x0_25 for a quarter of the width"""
    options: tuple[str, ...] = ()
    """of the supernet, as ratio=2 fusion=minus"""
    seed: int = 0
    """repetition; everything random follows from it"""
    run_options: Annotated[RunOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=RunOptions)

    def __call__(self) -> int:
        """Search and say what was found."""
        source = load_dataset(self.dataset, self.data_root)
        recipe = overridden(resolve_search(self.profile, self.dataset), self.recipe).recipe
        with exclusive_of_all(self.out / ".lock", f"a search in {self.out}"):
            if distributed.leads() and (self.out / RECORD).exists() and self.run_options.resume:
                raise UserError(f"{self.out} holds a finished search; choose another --out, or --no-resume")
            record = search(
                self.out,
                source=source,
                recipe=recipe,
                seed=self.seed,
                model=self.model,
                options=parse_settings(self.options),
                run_options=self.run_options,
            )
        print(search_line(record))
        print(f"written: {self.out}/genotype.json, alphas.csv, history.csv, record.json, log.txt")
        print(f"train it: msinet train --data-root {self.data_root} --genotype {self.out}/genotype.json --out DIR")
        return 0


@dataclass(frozen=True)
class Pretrain:
    """Pre-train a network as a classifier, for `train --weights` and the tables' --pretrained."""

    data: Path | None = None
    """folder with train/<class>/*.jpg and val/<class>/*.jpg, such as the rendered pretext set"""
    imagenet: Path | None = None
    """ImageNet in the same layout, in place of --data"""
    model: str = "msinet"
    """msinet, resnet50, osnet, cdnet, ...; NAME_x0_25 for a quarter of the width"""
    options: tuple[str, ...] = ()
    """of the model, as genotype=GGEGAGGNGAEA ratio=3 fusion=sum"""
    profile: str = ""
    """smoke, mini, full or paper; empty: mini, and paper for --imagenet"""
    recipe: tuple[str, ...] = ()
    """changes to the profile's recipe, as lr=0.01 epochs=80 crop=0.5"""
    seed: int = 0
    """repetition; everything random follows from it"""
    out: Path | None = None
    """file for the weights; by default weights/MODEL.safetensors"""
    run_options: Annotated[RunOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=RunOptions)

    def __call__(self) -> int:
        """Pre-train and say how well it classifies."""
        root = self.imagenet or self.data
        if root is None or (self.imagenet and self.data):
            raise UserError("pretrain needs one of --data DIR and --imagenet DIR, a folder with train/ and val/")
        resolved = resolve_pretraining(self.profile or ("paper" if self.imagenet else "mini"))
        recipe = overridden(resolved, self.recipe).recipe
        out = self.out or Path("weights") / f"{self.model}.safetensors"
        record = pretrain(
            out,
            model=self.model,
            options=parse_settings(self.options),
            data=load_class_folders(root, "imagenet" if self.imagenet else ""),
            recipe=recipe,
            seed=self.seed,
            run_options=self.run_options,
        )
        shares = {name: float(record[name] or 0) for name in ("top1", "top5", "chance")}
        print(metrics_line(str(record["pretrained_on"]), shares))
        print(f"written: {out}, {out.stem}.json, {out.stem}.history.csv")
        return 0


@dataclass(frozen=True)
class Evaluate:
    """Rank a data set with given weights: CMC, mAP and mINP."""

    weights: Path
    """of `msinet train`, or a released file (MSINet's authors, torchreid's OSNet, torchvision's ResNet)"""
    data_root: Path
    """folder that holds the data sets in their native layouts"""
    dataset: str = "market1501"
    """test set"""
    model: str = ""
    """needed for weights that do not say what they are"""
    options: tuple[str, ...] = ()
    """of the model, as genotype=GGEGAGGNGAEA"""
    height: int = 0
    """image height; 0: as the weights were trained, else 256"""
    width: int = 0
    """image width; 0: as the weights were trained, else 128 (256 for vehicles)"""
    partial: bool = False
    """use the weights that fit even if others are missing"""
    rerank: bool = False
    """k-reciprocal re-ranking (k1 20, k2 6, lambda 0.3); the paper's numbers are without"""
    out: Path | None = None
    """JSON file for the metrics"""
    run_options: Annotated[RunOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=RunOptions)

    def __call__(self) -> int:
        """Evaluate and print."""
        dataset = load_dataset(self.dataset, self.data_root)
        model, height, width = load_network(self, dataset.name)
        device = pick_device(self.run_options.device)
        pixels = open_pixels(
            dataset, "test", height, width, cache=self.run_options.cache, progress=self.run_options.progress
        )
        result = evaluate_model(
            model.to(device), dataset, pixels, device, progress=self.run_options.progress, reranked=self.rerank
        )
        print(metrics_line(dataset.name + (", re-ranked" if self.rerank else ""), result.metrics))
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
                    "height": height,
                    "width": width,
                    "reranked": self.rerank,
                    **describe(device),
                },
            )
            print(f"written: {self.out}")
        return 0


@dataclass(frozen=True)
class Embed(Evaluate):
    """Write one feature row per test image: features.npz with features, paths, identities, cameras."""

    out: Path | None = Path("features.npz")
    """file to write"""

    def __call__(self) -> int:
        """Embed and write."""
        if self.out is None:
            raise UserError("embed needs --out FILE")
        dataset = load_dataset(self.dataset, self.data_root)
        model, height, width = load_network(self, dataset.name)
        device = pick_device(self.run_options.device)
        pixels = open_pixels(
            dataset, "test", height, width, cache=self.run_options.cache, progress=self.run_options.progress
        )
        features = embed(model.to(device), pixels, device, progress=self.run_options.progress)
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


@dataclass(frozen=True)
class Export:
    """Write a network for other runtimes: an ONNX file of its deployed form, compared with torch before it appears."""

    weights: Path
    """of `msinet train`, or a released file"""
    out: Path
    """ONNX file: input images (B, 3, H, W) normalised with ImageNet's statistics, output features (B, D)"""
    model: str = ""
    """needed for weights that do not say what they are"""
    options: tuple[str, ...] = ()
    """of the model, as genotype=GGEGAGGNGAEA"""
    height: int = 0
    """image height; 0: as the weights were trained, else 256"""
    width: int = 0
    """image width; 0: as the weights were trained, else 128"""
    partial: bool = False
    """use the weights that fit even if others are missing"""

    def __call__(self) -> int:
        """Export and compare."""
        need_onnx()
        model, height, width = load_network(self, "market1501")
        difference = export_onnx(model, self.out, (height, width))
        print(f"features equal torch's to {difference:.1e} of the largest; written: {self.out}")
        return 0


@dataclass(frozen=True)
class Check:
    """List what a data root holds, beside what it should hold, and every image that cannot be decoded."""

    root: Annotated[Path, tyro.conf.Positional]
    """data root, or the folder of one set"""
    datasets: tuple[str, ...] = ()
    """sets to look for; empty: whatever is recognised"""
    decode: bool = True
    """read every image, not only names and sizes"""

    def __call__(self) -> int:
        """Check; status 1 if a set cannot be used."""
        return 0 if check(self.root, datasets=self.datasets, decode=self.decode) else 1


@dataclass(frozen=True)
class Render:
    """Render the synthetic world: four data sets in their native layouts and the pretext set for pre-training."""

    root: Annotated[Path, tyro.conf.Positional]
    """data root to write, made if missing; an interrupted rendering goes on"""
    profile: str = "mini"
    """smoke, mini or full: how many identities and images, and their size"""
    datasets: tuple[str, ...] = ()
    """market1501, msmt17, veri776, vehicleid, pretext; empty: all"""
    identities: int = 0
    """for training, in each set; 0: as the profile says"""
    test_identities: int = 0
    """0: as the profile says, or as many as --identities"""
    images_per_identity: float = 0
    """for training, on average; 0: as the profile says"""
    test_images_per_identity: float = 0
    """0: as the profile says, or as many as --images-per-identity"""
    height: int = 0
    """of persons in pixels, vehicles fill height x height; 0: as the profile says"""
    seed: int = 0
    """of the world: other people, other cameras"""
    processes: int = 0
    """that render; 0: one per core. The bytes do not depend on it"""
    progress: bool = True
    """show progress bars"""

    def __call__(self) -> int:
        """Render what is missing."""
        if self.profile not in SIZES:
            raise unknown_name("profile of the rendered world", self.profile, SIZES)
        wanted = {
            "identities": self.identities,
            "test_identities": self.test_identities or self.identities,
            "images": self.images_per_identity,
            "test_images": self.test_images_per_identity or self.images_per_identity,
            "height": self.height,
        }
        given: dict[str, Any] = {name: value for name, value in wanted.items() if value}
        sizes = {name: replace(size, **given) for name, size in SIZES[self.profile].items()}
        folders = render(
            self.root, sizes, names=self.datasets, seed=self.seed, processes=self.processes, progress=self.progress
        )
        for folder in folders:
            world = read_world(folder)
            assert world is not None
            print(f"{world['images']:>7} images, fingerprint {world['fingerprint']}: {folder}")
        print(f"use them with --data-root {self.root}; look at them with msinet data show {self.root}")
        return 0


@dataclass(frozen=True)
class Show:
    """Draw contact sheets: images by identity, by camera and, of rendered sets, by factor."""

    root: Annotated[Path, tyro.conf.Positional]
    """data root, or the folder of one set"""
    datasets: tuple[str, ...] = ()
    """sets to show; empty: whatever is recognised"""
    out: Path = Path("sheets")
    """folder for the sheets"""
    rows: int = 10
    """identities or cameras on a sheet"""
    columns: int = 10
    """images beside each other"""
    height: int = 128
    """of an image on the sheet, in pixels"""

    def __call__(self) -> int:
        """Draw them."""
        for name in recognised(self.root, self.datasets):
            dataset = load_dataset(name, self.root)
            written = show(dataset, self.out, rows=self.rows, columns=self.columns, height=self.height)
            print("written: " + ", ".join(map(str, written)))
        return 0


@dataclass(frozen=True)
class Data:
    """Render, check and look at data sets. More: msinet data --help."""

    def __call__(self) -> int:
        """Show the commands below it."""
        return run_command(["data", "--help"])


def load_network(command: Evaluate | Export, dataset: str) -> tuple[nn.Module, int, int]:
    """The network that a weights file holds, loaded, and the image size it wants."""
    known = read_metadata(command.weights)
    name = command.model or known.get("model", "")
    if not name:
        raise WeightsError(
            f"{command.weights} does not say which network it holds; pass --model, one of {', '.join(CARDS)}"
        )
    options = parse_settings(command.options) or json.loads(known.get("options", "{}"))
    default = resolve("paper", dataset, name).recipe.image
    height = command.height or int(known.get("height", default.height))
    width = command.width or int(known.get("width", default.width))
    model = build_model(name, int(known.get("num_classes", 1)), image=(height, width), **options)
    print(load_weights(model, command.weights, partial=command.partial))
    return model, height, width


def metrics_line(name: str, metrics: dict[str, float]) -> str:
    """Metrics in per cent, on one line."""
    return f"{name}: " * bool(name) + ", ".join(f"{key} {100 * value:.1f}" for key, value in metrics.items())


def parse(commands: Mapping[str, Callable[..., Command]], prog: str, what: str, args: Sequence[str]) -> Command:
    """The chosen command with its arguments; of several processes one tells what is wrong with them."""
    with nullcontext() if distributed.leads() else redirect_stderr(StringIO()):
        command: Command = tyro.extras.subcommand_cli_from_dict(dict(commands), prog=prog, description=what, args=args)
    return command


def run_command(args: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; 2 for an error the user can mend, 130 for Ctrl-C.

    Under `torchrun` this is one of several processes. The first speaks for all; an error is told by the one that
    has it, and ends the others.
    """
    words = list(sys.argv[1:] if args is None else args)
    try:
        distributed.start()
        with file_errors(), nullcontext() if distributed.leads() else redirect_stdout(StringIO()):
            status = _run(words)
        distributed.stop()
        return status
    except UserError as error:
        if distributed.first_to_fail():
            print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        if distributed.leads():
            print("\ninterrupted; the same command goes on from what is there", file=sys.stderr)
        return 130
    except Exception:
        if distributed.first_to_fail():
            raise
        return 1


def _run(words: list[str]) -> int:
    if distributed.world() > 1 and words[:1] in (["data"], ["export"]):
        raise UserError(f"msinet {words[0]} runs in one process; start it without torchrun")
    if words[:1] == ["data"]:
        commands = {"render": Render, "check": Check, "show": Show}
        return parse(commands, "msinet data", "Render, check and look at data sets.", words[1:])()
    commands = {
        "train": Train,
        "search": Search,
        "pretrain": Pretrain,
        "evaluate": Evaluate,
        "embed": Embed,
        "export": Export,
        "data": Data,
    }
    return parse(commands, "msinet", "Light networks for object re-identification.", words)()
