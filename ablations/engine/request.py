"""The user's request: profile, data, networks, seeds, changes to recipes, and the store."""

import os
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from ablations.engine.experiment import RESULTS_VERSION, Experiment, Init
from msinet.data.datasets import Dataset
from msinet.data.layouts import available, card_of, folders_behind, load_dataset, main_datasets, missing_root
from msinet.data.own import notice
from msinet.data.rendered import read_world
from msinet.errors import DataError, UserError
from msinet.io import cache_folder, stable_hash
from msinet.models.registry import CARDS
from msinet.models.registry import card_of as network_card
from msinet.synthetic import SETS, SIZES, VERSION, folder_of
from msinet.training.recipe import Method, Recipe, canonical, override
from msinet.training.recipes import (
    RecipeOf,
    find_profile,
    overridden,
    parse_settings,
    published,
    resolve,
    resolve_pretraining,
    resolve_search,
    resolve_unsupervised,
)

#: Folder of the rendered set that replaces ImageNet.
PRETEXT = folder_of("pretext")


@dataclass(frozen=True)
class Request:
    """Profile, data, networks, seeds and recipes of a command. The options are the same for every study."""

    profile: str = "mini"
    """smoke, mini, full or paper: image size and training length"""
    data_root: Path | None = None
    """folder of the data sets, or a list of images (docs/own-images.md); None: the world rendered on first use"""
    datasets: tuple[str, ...] = ()
    """names of data sets (`msinet data check` lists them); empty: those found under the data root"""
    whole: bool = False
    """on the rendered world, include all data sets, large networks and the pre-trained group;
    `run` always does so on a GPU"""
    models: tuple[str, ...] = ()
    """only these networks, at the profile's width or another, such as osnet_x0_25; empty: all of the table; no effect
    on tables and figures with fixed networks, such as table1 and figure5a"""
    seeds: int = 0
    """repetitions of every experiment: seeds 0 to N-1; 0: two in profile mini, else one"""
    recipe: tuple[str, ...] = ()
    """changes to the profile's recipe, such as lr=0.01 epochs=80; changed runs are separate results"""
    search_recipe: tuple[str, ...] = ()
    """changes to the profile's search recipe, such as epochs=40 alpha_lr=0.01, in every search"""
    unsupervised_recipe: tuple[str, ...] = ()
    """changes to the recipes of methods without labels, such as eps=0.5 feature=transfer"""
    recipe_of: RecipeOf = "paper"
    """training recipe: the paper's for all networks, or that of each network's authors if its card has one"""
    pretrained: Path | None = None
    """folder of pre-trained weights named after the networks, such as osnet.pth or msinet.safetensors"""
    store: Path = Path("results")
    """folder of finished runs"""
    name: str = ""
    """another name for the only data set under the data root"""
    keep_same_camera: bool = False
    """also rank gallery images of the query's identity and camera, for data sets with one camera"""

    def check(self) -> None:
        """Raise a `UserError` for an unknown name before any image is read. Also registers the user's own data sets."""
        if self.data_root is not None:
            notice(self.root, self.name)
        for name in self.datasets:
            card_of(name)
        for name in self.models:
            network_card(name)
        if self.seeds < 0:
            raise UserError(f"--seeds must be at least 0, got {self.seeds}")
        overridden(published(self.profile, "light"), self.recipe)
        overridden(published(self.profile, "search"), self.search_recipe)
        overridden(published(self.profile, "unsupervised"), self.unsupervised_recipe)
        if self.data_root is None and self.profile not in SIZES:
            raise DataError(
                f"profile {self.profile} trains on photographs: pass --data-root DIR, the folder that holds "
                "Market-1501-v15.09.15/, MSMT17_V1/, VeRi/ or VehicleID/ (the data sets' own layouts; "
                "msinet data check DIR lists what it recognises)"
            )

    @property
    def rendered(self) -> bool:
        """True if the images are those of the rendered world."""
        return self.data_root is None

    @property
    def repeats(self) -> int:
        """The number of seeds."""
        return self.seeds or (2 if self.profile == "mini" else 1)

    @property
    def repetitions(self) -> str:
        """The number of seeds in words."""
        return in_words(self.repeats)

    @property
    def complete(self) -> bool:
        """True if the tables include all data sets, large networks and the pre-trained group."""
        return self.whole or not self.rendered or self.profile == "smoke"

    @property
    def root(self) -> Path:
        """The data root: the one given, or the folder of this profile's rendered world."""
        return (
            Path(os.path.expanduser(self.data_root))
            if self.data_root
            else cache_folder() / "world" / f"{self.profile}-{VERSION}"
        )

    @property
    def pretext_folder(self) -> Path:
        """Folder of the weights pre-trained on the rendered pretext set; named after recipe and images.

        Raises:
            DataError: the pretext set is not rendered yet.
        """
        world = read_world(self.root / PRETEXT)
        if world is None:
            raise DataError(f"no pretext set in {self.root}; msinet data render {self.root} renders it")
        key = stable_hash([RESULTS_VERSION, canonical(resolve_pretraining(self.profile).recipe), world["fingerprint"]])
        return self.store / "pretrained" / f"{self.profile}-{key}"

    def weights_name(self, model: str, seed: int) -> str:
        """File name of a network's weights without suffix. Each seed has its own weights of the pretext training."""
        return model if seed == 0 or self.pretrained is not None else f"{model}-seed{seed}"

    @property
    def weights_folder(self) -> Path | None:
        """Folder of pre-trained weights: the one given, else that of the pretext training if there is one."""
        if self.pretrained is not None or not self.rendered or read_world(self.root / PRETEXT) is None:
            return self.pretrained
        return self.pretext_folder if self.pretext_folder.is_dir() else None

    @property
    def root_name(self) -> str:
        """Name of the data root in names of files; empty for the rendered world."""
        return "" if self.data_root is None else self.data_root.resolve().name

    def default_datasets(self) -> tuple[str, ...]:
        """Data sets of the tables before any is on disk: those asked for, else all (of the rendered world)."""
        return self.datasets or tuple(name for name in main_datasets() if not self.rendered or name in SETS)

    def available_datasets(self) -> tuple[str, ...]:
        """Data sets to use: those asked for, else those found under the data root.

        Raises:
            DataError: no such data root, or none of the known layouts under it.
        """
        if not self.root.exists():
            if self.rendered:
                raise DataError("the world is not rendered yet; python -m ablations run renders it on first use")
            raise missing_root(self.root, "the folder of the data sets, or a list of images")
        if self.datasets and not self.rendered:
            return self.datasets
        on_disk = available(self.root)
        if missing := [one for name in self.datasets for one in folders_behind(name) if one not in on_disk]:
            raise DataError(f"{missing[0]} is not rendered yet; python -m ablations run renders it on first use")
        if self.datasets:
            return self.datasets
        found = tuple(name for name in on_disk if not card_of(name).part_of)
        if not found:
            raise DataError(f"no known data set under {self.root}; msinet data check {self.root} says more")
        return found

    def load(self, name: str) -> Dataset:
        """A data set of the request.

        Raises:
            DataError: as `msinet.data.load_dataset`.
        """
        if self.name and self.data_root is not None:
            notice(self.root, self.name)
        return load_dataset(name, self.root, keep_same_camera=self.keep_same_camera)

    def as_args(self) -> list[str]:
        """The command-line arguments that reproduce this request."""
        words: list[str] = []
        for one in fields(self):
            value = getattr(self, one.name)
            if value != one.default:
                words.append("--" + one.name.replace("_", "-"))
                if value is not True:
                    words += [str(v) for v in value] if isinstance(value, tuple) else [str(value)]
        return words

    def named(self, network: str) -> str:
        """A network's name with its width in this profile. A name with a width, such as msinet_x1_0, is unchanged."""
        return network if network not in CARDS else network_card(network).named(self.profile)

    def search(self, source: str, seed: int, **changes: Any) -> Experiment:
        """A search on a training set with this profile's recipe and changes to it."""
        recipe = resolve_search(self.profile, source).recipe
        recipe = override(recipe, parse_settings(self.search_recipe) | changes)
        return Experiment(self.named("supernet"), source, source, recipe, self.profile, seed)

    def experiment(self, model: str, source: str, target: str, seed: int, init: Init = "scratch") -> Experiment:
        """The training and evaluation of a network with this profile's recipe.

        If the profile has no cross-domain trainings, the weights of the in-domain training are evaluated.
        """
        across = source != target and find_profile(self.profile).cross_domain_training
        scratch = init == "scratch"
        recipe = _recipe(self.profile, source, model, across, self.recipe, self.recipe_of, scratch)
        same_weights = source != target and not across
        return Experiment(model, source, target, recipe, self.profile, seed, init, same_weights=same_weights)

    def unsupervised(self, method: Method, model: str, source: str, target: str, seed: int) -> Experiment:
        """A method without labels of the target, with this profile's recipe. Its feature determines the neck."""
        resolved = resolve_unsupervised(self.profile, method, target, across=source != target)
        recipe = overridden(resolved, self.unsupervised_recipe).recipe
        experiment = Experiment(model, source, target, recipe, self.profile, seed, "pretrained")
        return experiment.with_options(neck=recipe.method_settings.neck)


@lru_cache(maxsize=1024)  # many cells of a study share a recipe
def _recipe(
    profile: str,
    source: str,
    model: str,
    cross_domain: bool,
    changes: tuple[str, ...],
    recipe_of: RecipeOf,
    scratch: bool,
) -> Recipe:
    resolved = resolve(profile, source, model, cross_domain=cross_domain, recipe_of=recipe_of, scratch=scratch)
    return overridden(resolved, changes).recipe


def in_words(seeds: int) -> str:
    """A number of seeds."""
    return f"{seeds} seed{'s' if seeds > 1 else ''}"
