"""What a table or figure consists of, before anything runs."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ablations.experiment import Experiment, Init
from msinet.data import LAYOUTS
from msinet.data.layouts import available
from msinet.errors import DataError, UserError, unknown_name
from msinet.models import split_name
from msinet.training.profiles import PROFILES, override, parse_settings, recipe_for


@dataclass(frozen=True)
class Request:
    """What the user asks for; the same for every catalogue."""

    profile: str = "mini"
    """smoke, mini, full or paper: size of images and length of training"""
    data_root: Path | None = None
    """folder that holds the data sets in their native layouts"""
    datasets: tuple[str, ...] = ()
    """market1501, msmt17, veri776, vehicleid, ...; empty: those found under the data root"""
    models: tuple[str, ...] = ()
    """resnet50, osnet, cdnet, msinet, ...; empty: all of the table"""
    seeds: int = 1
    """repetitions of every experiment: seeds 0 to N-1"""
    recipe: tuple[str, ...] = ()
    """changes to the profile's recipe, as lr=0.01 epochs=80; such runs are results of their own"""
    pretrained: Path | None = None
    """folder with pre-trained weights named after the models: resnet50.pth, osnet.pth, msinet.safetensors"""
    store: Path = Path("results")
    """folder of finished runs"""

    def check(self) -> None:
        """Raise a `UserError` for any name that is not known, before anything is read."""
        if self.profile not in PROFILES:
            raise unknown_name("profile", self.profile, PROFILES)
        for name in self.datasets:
            if name not in LAYOUTS:
                raise unknown_name("data set", name, LAYOUTS)
        for name in self.models:
            split_name(name)
        if self.seeds < 1:
            raise UserError(f"--seeds must be at least 1, got {self.seeds}")
        override(PROFILES[self.profile], parse_settings(self.recipe))

    def available_datasets(self) -> tuple[str, ...]:
        """The data sets to use: those asked for, else those found under the data root.

        Raises:
            DataError: no data root given, or none of the known layouts under it.
        """
        if self.data_root is None:
            raise DataError(
                "no images: pass --data-root DIR, the folder that holds Market-1501-v15.09.15/, MSMT17_V1/, VeRi/ "
                "or VehicleID/ (the data sets' own layouts; msinet data check DIR tells what is recognised)"
            )
        if self.datasets:
            return self.datasets
        if not self.data_root.is_dir():
            raise DataError(f"data root {self.data_root} does not exist")
        found = tuple(name for name in available(self.data_root) if name in MAIN_DATASETS)
        if not found:
            raise DataError(f"no known data set under {self.data_root}; msinet data check {self.data_root} says more")
        return found

    def as_args(self) -> list[str]:
        """The command-line words that give this request again."""
        words: list[str] = []
        for one in fields(self):
            value = getattr(self, one.name)
            if value != one.default:
                words.append("--" + one.name.replace("_", "-"))
                words += [str(v) for v in value] if isinstance(value, tuple) else [str(value)]
        return words

    def experiment(
        self, model: str, source: str, target: str, seed: int, init: Init = "scratch", **options: Any
    ) -> Experiment:
        """One experiment of this request's profile."""
        recipe = recipe_for(self.profile, source, cross_domain=source != target)
        recipe = override(recipe, parse_settings(self.recipe))
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
