"""What a table or figure consists of, before anything runs."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ablations.experiment import RESULTS_VERSION, Experiment, Init
from msinet.data.layouts import available, card_of
from msinet.data.rendered import read_world
from msinet.errors import DataError, UserError
from msinet.io import cache_folder, stable_hash
from msinet.models import split_name
from msinet.synthetic import SETS, SIZES, VERSION
from msinet.training.recipe import canonical, override
from msinet.training.recipes import overridden, parse_settings, published, resolve, resolve_pretraining, resolve_search

#: Of networks in the smoke profile.
SMOKE_WIDTH = "_x0_25"
#: Folder of the rendered set that stands in for ImageNet.
PRETEXT = SETS["pretext"][0]


@dataclass(frozen=True)
class Request:
    """What the user asks for; the same for every catalogue."""

    profile: str = "mini"
    """smoke, mini, full or paper: size of images and length of training"""
    data_root: Path | None = None
    """folder that holds the data sets in their native layouts; None: the rendered world, made on first use"""
    datasets: tuple[str, ...] = ()
    """market1501, msmt17, veri776, vehicleid, ...; empty: those found under the data root"""
    whole: bool = False
    """on the rendered world: VehicleID and the pre-trained group as well (smoke has them always)"""
    models: tuple[str, ...] = ()
    """resnet50, osnet, cdnet, msinet, ...; empty: all of the table"""
    seeds: int = 1
    """repetitions of every experiment: seeds 0 to N-1"""
    recipe: tuple[str, ...] = ()
    """changes to the profile's recipe, as lr=0.01 epochs=80; such runs are results of their own"""
    search_recipe: tuple[str, ...] = ()
    """changes to the profile's search recipe, as epochs=40 alpha_lr=0.01, in every search"""
    pretrained: Path | None = None
    """folder with pre-trained weights named after the models: resnet50.pth, osnet.pth, msinet.safetensors"""
    store: Path = Path("results")
    """folder of finished runs"""

    def check(self) -> None:
        """Raise a `UserError` for any name that is not known, before anything is read."""
        for name in self.datasets:
            card_of(name)
        for name in self.models:
            split_name(name)
        if self.seeds < 1:
            raise UserError(f"--seeds must be at least 1, got {self.seeds}")
        overridden(published(self.profile, "light"), self.recipe)
        overridden(published(self.profile, "search"), self.search_recipe)
        if self.data_root is None and self.profile not in SIZES:
            raise DataError(
                f"profile {self.profile} trains on photographs: pass --data-root DIR, the folder that holds "
                "Market-1501-v15.09.15/, MSMT17_V1/, VeRi/ or VehicleID/ (the data sets' own layouts; "
                "msinet data check DIR tells what is recognised)"
            )

    @property
    def rendered(self) -> bool:
        """Whether the images are those of the rendered world."""
        return self.data_root is None

    @property
    def repetitions(self) -> str:
        """How many seeds, in words."""
        return f"{self.seeds} seed{'s' if self.seeds > 1 else ''}"

    @property
    def complete(self) -> bool:
        """Whether everything is wanted, or on the rendered world only what a short hour allows."""
        return self.whole or not self.rendered or self.profile == "smoke"

    @property
    def root(self) -> Path:
        """The data root: the one given, or the place of the rendered world of this profile."""
        return self.data_root or cache_folder() / "world" / f"{self.profile}-{VERSION}"

    @property
    def pretext_folder(self) -> Path:
        """Where weights from the rendered pretext set are, or will be; named after recipe and images.

        Raises:
            DataError: the pretext set is not rendered yet.
        """
        world = read_world(self.root / PRETEXT)
        if world is None:
            raise DataError(f"no pretext set in {self.root}; msinet data render {self.root} makes it")
        key = stable_hash([RESULTS_VERSION, canonical(resolve_pretraining(self.profile).recipe), world["fingerprint"]])
        return self.store / "pretrained" / f"{self.profile}-{key}"

    @property
    def weights_folder(self) -> Path | None:
        """Pre-trained weights: the folder given, else that of the pretext training if there is one."""
        if self.pretrained is not None or not self.rendered or read_world(self.root / PRETEXT) is None:
            return self.pretrained
        return self.pretext_folder if self.pretext_folder.is_dir() else None

    def available_datasets(self) -> tuple[str, ...]:
        """The data sets to use: those asked for, else those found under the data root.

        Raises:
            DataError: no such data root, or none of the known layouts under it.
        """
        if self.rendered and not self.root.is_dir():
            raise DataError("the world is not rendered yet; python -m ablations run makes it on first use")
        if self.datasets:
            return self.datasets
        if not self.root.is_dir():
            raise DataError(f"data root {self.root} does not exist")
        found = tuple(name for name in available(self.root) if name in MAIN_DATASETS)
        if not found:
            raise DataError(f"no known data set under {self.root}; msinet data check {self.root} says more")
        return found

    def as_args(self) -> list[str]:
        """The command-line words that give this request again."""
        words: list[str] = []
        for one in fields(self):
            value = getattr(self, one.name)
            if value != one.default:
                words.append("--" + one.name.replace("_", "-"))
                if value is not True:
                    words += [str(v) for v in value] if isinstance(value, tuple) else [str(value)]
        return words

    def search(self, source: str, seed: int, **changes: Any) -> Experiment:
        """A search of this request's profile on a training set, with changes to its recipe."""
        recipe = resolve_search(self.profile, source).recipe
        recipe = override(recipe, parse_settings(self.search_recipe) | changes)
        return Experiment(self.named("supernet"), source, source, recipe, self.profile, seed)

    def named(self, model: str) -> str:
        """The model's name in this profile: in smoke networks are a quarter as wide, and are called so."""
        return model + SMOKE_WIDTH if self.profile == "smoke" else model

    def experiment(
        self, model: str, source: str, target: str, seed: int, init: Init = "scratch", **options: Any
    ) -> Experiment:
        """One experiment of this request's profile."""
        resolved = resolve(self.profile, source, model, cross_domain=source != target)
        recipe = overridden(resolved, self.recipe).recipe
        return Experiment(model, source, target, recipe, self.profile, seed, init, tuple(sorted(options.items())))


#: The paper's four sets, in its order, and how its tables call them.
MAIN_DATASETS = {"market1501": "M", "msmt17": "MS", "veri776": "VR", "vehicleid": "VID"}


@dataclass(frozen=True)
class Cell:
    """A place of the table and the experiment that fills it (one of its seeds)."""

    group: str
    row: str
    column: str
    experiment: Experiment


@dataclass(frozen=True)
class Catalogue:
    """A table or figure of the paper as a list of experiments."""

    name: str
    title: str
    varies: str
    """the scientific hyper-parameters"""
    fixed: str
    """what is held equal"""
    nuisance: str
    """what is averaged over"""
    columns: dict[str, tuple[str, str]] = field(repr=False)
    """column of the table and the two metrics it shows"""
    cells: Callable[[Request, tuple[str, ...]], list[Cell]] = field(repr=False)
    """all cells for a request and the data sets at hand"""
    baseline: str = ""
    """the row that the others are compared with, over the seeds"""
    remark: str = ""
    """what a reader of its numbers must know besides"""


def home(datasets: tuple[str, ...], preferred: str) -> str:
    """The set on which the paper runs an ablation, or the first one at hand."""
    return preferred if preferred in datasets or not datasets else datasets[0]
