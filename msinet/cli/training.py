"""Commands that train: msinet train | learn | search | pretrain."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from msinet.cli.selection import DataOptions
from msinet.data.layouts import ALL
from msinet.errors import UserError
from msinet.training.options import RunOptions

if TYPE_CHECKING:
    from msinet.training.recipe import Recipe
    from msinet.training.recipes import Resolved


Selected = Annotated[DataOptions, tyro.conf.OmitArgPrefixes]
Execution = Annotated[RunOptions, tyro.conf.OmitArgPrefixes, tyro.conf.arg(name="execution")]


@dataclass(frozen=True)
class Train:
    """Train a network on one or more data sets and rank the test images of the first or of another data set."""

    data_root: Path
    """folder that holds the data sets in their native layouts, or a list of images (CSV)"""
    out: Path
    """folder for the results; the same command resumes an unfinished run in it"""
    model: str = "msinet"
    """name of the network, NAME_x0_25 for a quarter of the width; `msinet list` shows networks"""
    options: tuple[str, ...] = ()
    """options of the network, such as genotype=GGEGAGGNGAEA ratio=3 fusion=sum"""
    genotype: Path | None = None
    """genotype.json of `msinet search`; or pass the letters as option genotype=..."""
    dataset: tuple[str, ...] = ()
    """training sets; their identities stay separate; empty: market1501, or the only one under --data-root"""
    target: str = ""
    """test set; empty: the first training set; a set that is not trained on selects the cross-domain recipe"""
    profile: str = "mini"
    """name of the profile; `msinet list` shows profiles"""
    recipe: tuple[str, ...] = ()
    """changes to the profile's recipe, such as lr=0.01 epochs=80; `msinet recipe` shows the settings"""
    recipe_of: Literal["paper", "authors"] = "paper"
    """recipe to start from: the paper's for all networks, or the network's own by its authors, if its card has one"""
    weights: Path | None = None
    """pre-trained weights to start from"""
    seed: int = 0
    """number of the repetition; all random numbers depend on it"""
    selection: Selected = field(default_factory=DataOptions)
    run_options: Execution = field(default_factory=RunOptions)

    def __call__(self) -> int:
        """Train, rank and print the metrics."""
        from msinet.data.check import leaks
        from msinet.data.layouts import is_across
        from msinet.data.matches import count_queries
        from msinet.retrieval import METRICS
        from msinet.search import read_genotype
        from msinet.training.recipes import parse_settings, resolve
        from msinet.training.run import Training, run

        names = self.selection.chosen(self.dataset, self.data_root, "market1501")
        tested = self.target or names[0]
        source = self.selection.load(names, self.data_root, ALL if tested == names[0] else ("train",))
        target = source if names == (tested,) else self.selection.load((tested,), self.data_root, ALL[1:])
        across = is_across(tested, names)
        resolved = resolve(
            self.profile,
            source.name,
            self.model,
            cross_domain=across,
            recipe_of=self.recipe_of,
            scratch=self.weights is None,
        )
        recipe = _changed(resolved, self.recipe)
        options = parse_settings(self.options)
        if self.genotype is not None:
            if "genotype" in options:
                raise UserError("give one of --genotype FILE and --options genotype=..., not both")
            options["genotype"] = read_genotype(self.genotype)
        training = Training(self.model, options, source, target, recipe, self.seed, self.weights)
        record = run(self.out, training, self.run_options)
        print(metrics_line(target.name, {name: record[name] for name in METRICS}))
        print(count_queries(target))
        for leak in leaks(target):
            print(leak)
        print(f"written: {self.out}/record.json, history.csv, queries.csv, model.safetensors, log.txt")
        return 0


@dataclass(frozen=True)
class Learn:
    """Train a network without labels of the target (docs/table4.md), and rank the target's test images."""

    out: Path
    """folder for the results; the same command resumes an unfinished run in it"""
    data_root: Path | None = None
    """folder that holds the data sets in their native layouts, or a list of images (CSV)"""
    dataset: str = ""
    """target set: its training images are clustered and its test images are ranked; empty: market1501, or the only one
    under --data-root; with --images it only chooses the recipe, such as veri776 for vehicles"""
    source: str = ""
    """labelled set to adapt from, for methods spcl, idm and mmt"""
    images: Path | None = None
    """folder of images to use instead of the target; then nothing is ranked"""
    method: str = "gs"
    """clustercontrast, gs, spcl, hdcrl, mmcl, idm or mmt"""
    model: str = "msinet"
    """name of the network, NAME_x0_25 for a quarter of the width; `msinet list` shows networks"""
    options: tuple[str, ...] = ()
    """options of the network, such as genotype=GGEGAGGNGAEA; the setting `feature` chooses the neck"""
    profile: str = "mini"
    """name of the profile; `msinet list` shows profiles"""
    recipe: tuple[str, ...] = ()
    """changes to the method's recipe, such as eps=0.5 feature=transfer"""
    weights: Path | None = None
    """pre-trained weights to start from; without them, clusters hardly match identities"""
    seed: int = 0
    """number of the repetition; all random numbers depend on it"""
    selection: Selected = field(default_factory=DataOptions)
    run_options: Execution = field(default_factory=RunOptions)

    def __call__(self) -> int:
        """Train, rank and print the metrics."""
        from msinet.data.matches import count_queries
        from msinet.retrieval import METRICS
        from msinet.training.recipes import parse_settings, resolve_unsupervised
        from msinet.training.run import Training
        from msinet.unsupervised import image_folder, learn

        if self.data_root is None and self.source:
            raise UserError(f"--source {self.source} needs --data-root DIR, the folder of the data sets")
        if self.data_root is None and self.images is None:
            raise UserError("learn needs --data-root DIR with the data sets, or --images DIR, a folder of images")
        root = self.data_root or Path()
        if self.images is not None:
            self.check_folder_options()
            target = image_folder(self.images)
        else:
            names = self.selection.chosen((self.dataset,) if self.dataset else (), root, "market1501")
            target = self.selection.load(names, root, ALL)
        source = self.selection.load((self.source,), root, ("train",)) if self.source else target
        resolved = resolve_unsupervised(
            self.profile,
            self.method,  # type: ignore[arg-type]
            target.name if self.images is None else self.dataset or "market1501",
            across=bool(self.source),
        )
        recipe = _changed(resolved, self.recipe)
        options = {"neck": recipe.method_settings.neck, **parse_settings(self.options)}
        training = Training(self.model, options, source, target, recipe, self.seed, self.weights)
        record = learn(self.out, training, self.run_options)
        if target.draws:
            print(metrics_line(target.name, {name: record[name] for name in METRICS}))
            print(count_queries(target))
        if "clusters" in record:
            print(f"{record['clusters']} clusters and {record['outliers']} outliers in the last epoch")
        queries = "queries.csv, " if target.draws else ""
        print(f"written: {self.out}/record.json, history.csv, {queries}model.safetensors, log.txt")
        return 0

    def check_folder_options(self) -> None:
        """Raise a `UserError` if options have no effect on a folder of images."""
        given = {
            "--data-root": self.data_root is not None and not self.source,
            "--name": self.selection.name,
            "--keep-same-camera": self.selection.keep_same_camera,
            "--evaluate-every": self.run_options.evaluate_every,
        }
        if flags := ", ".join(flag for flag, value in given.items() if value):
            raise UserError(f"{flags} has no effect with --images, whose images are not ranked; leave it out")


@dataclass(frozen=True)
class Search:
    """Search an architecture by twins contrast (or a baseline); `msinet train --genotype` trains the result."""

    data_root: Path
    """folder that holds the data sets in their native layouts, or a list of images (CSV)"""
    out: Path
    """folder for the results; the same command resumes an unfinished search in it"""
    dataset: tuple[str, ...] = ()
    """training sets; their identities stay separate; empty: msmt17, or the only one under --data-root"""
    profile: str = "mini"
    """name of the profile; `msinet list` shows profiles"""
    recipe: tuple[str, ...] = ()
    """changes to the search recipe, such as overlap=0.6 epochs=20; `msinet recipe --search` shows the settings"""
    model: str = "supernet"
    """supernet, or supernet_x0_25 for a quarter of the width"""
    options: tuple[str, ...] = ()
    """options of the supernet, such as ratio=2 fusion=minus"""
    seed: int = 0
    """number of the repetition; all random numbers depend on it"""
    selection: Selected = field(default_factory=DataOptions)
    run_options: Execution = field(default_factory=RunOptions)

    def __call__(self) -> int:
        """Search and print the genotype."""
        from msinet.search import SearchRun, search, search_line
        from msinet.training.recipes import parse_settings, resolve_search

        ranking = {
            "--evaluate-every": self.run_options.evaluate_every,
            "--keep-same-camera": self.selection.keep_same_camera,
        }
        if flags := ", ".join(flag for flag, value in ranking.items() if value):
            raise UserError(f"a search ranks no test images; leave out {flags}")
        names = self.selection.chosen(self.dataset, self.data_root, "msmt17")
        source = self.selection.load(names, self.data_root, ("train",))
        recipe = _changed(resolve_search(self.profile, source.name), self.recipe)
        search_run = SearchRun(source, recipe, self.seed, self.model, parse_settings(self.options))
        record = search(self.out, search_run, self.run_options)
        print(search_line(record))
        print(f"written: {self.out}/genotype.json, alphas.csv, history.csv, record.json, log.txt")
        options = " ".join(f"{key}={value}" for key, value in search_run.options.items())
        words = ["--data-root", str(self.data_root), "--dataset", *names, "--genotype", f"{self.out}/genotype.json"]
        words += ["--model", search_run.discrete] * (search_run.discrete != Train.model)
        words += ["--options", *options.split()] * bool(options)
        print(f"train it: msinet train {shlex.join(words)} --out DIR")
        return 0


@dataclass(frozen=True)
class Pretrain:
    """Pre-train a network as a classifier, for `msinet train --weights` and --pretrained of the tables."""

    data: Path | None = None
    """folder with train/<class>/*.jpg and val/<class>/*.jpg, such as the rendered pretext set"""
    imagenet: Path | None = None
    """ImageNet in the same layout, instead of --data"""
    model: str = "msinet"
    """name of the network, NAME_x0_25 for a quarter of the width; `msinet list` shows networks"""
    options: tuple[str, ...] = ()
    """options of the network, such as genotype=GGEGAGGNGAEA ratio=3 fusion=sum"""
    profile: str = ""
    """name of the profile; `msinet list` shows profiles; empty: mini, or paper with --imagenet"""
    recipe: tuple[str, ...] = ()
    """changes to the recipe, such as lr=0.01 crop=0.5; `msinet recipe --pretraining` shows the settings"""
    seed: int = 0
    """number of the repetition; all random numbers depend on it"""
    out: Path | None = None
    """file for the weights; by default weights/MODEL.safetensors"""
    run_options: Execution = field(default_factory=RunOptions)

    def __call__(self) -> int:
        """Pre-train and print the accuracy."""
        from msinet.data.folders import load_class_folders
        from msinet.training.pretrain import Pretraining, pretrain
        from msinet.training.recipes import parse_settings, resolve_pretraining

        root = self.imagenet or self.data
        if root is None or (self.imagenet and self.data):
            raise UserError("pretrain needs one of --data DIR and --imagenet DIR, a folder with train/ and val/")
        resolved = resolve_pretraining(self.profile or ("paper" if self.imagenet else "mini"), self.model)
        recipe = _changed(resolved, self.recipe)
        out = self.out or Path("weights") / f"{self.model}.safetensors"
        data = load_class_folders(root, "imagenet" if self.imagenet else "")
        pretraining = Pretraining(self.model, parse_settings(self.options), data, recipe, self.seed)
        record = pretrain(out, pretraining, self.run_options)
        shares = {name: record[name] for name in ("top1", "top5", "chance")}
        print(metrics_line(str(record["pretrained_on"]), shares))
        print(f"written: {out}, {out.stem}.json, {out.stem}.history.csv")
        return 0


def _changed(resolved: "Resolved", words: Sequence[str]) -> "Recipe":
    """The recipe with the changes of --recipe; names those without effect on standard error."""
    from msinet.training.recipes import idle_changes, overridden

    if idle := idle_changes(resolved, words):
        print(f"note: --recipe {' '.join(idle)} has no effect with the other settings of the recipe", file=sys.stderr)
    return overridden(resolved, words).recipe


def metrics_line(name: str, metrics: dict[str, float]) -> str:
    """Metrics in per cent, on one line."""
    return f"{name}: " * bool(name) + ", ".join(f"{key} {100 * value:.1f}" for key, value in metrics.items())
