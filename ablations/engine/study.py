"""A study: the cells of a table or figure with their coordinates, before anything runs."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Literal

from ablations.engine.experiment import Experiment, Init, Scalar
from ablations.engine.request import Request
from msinet.data.layouts import card_of, short_name
from msinet.models.genotype import SEARCHED
from msinet.models.registry import in_study, label_of, split_name, with_width
from msinet.training.recipe import Recipe, Schedule

Group = Literal["untrained", "scratch", "pretrained", "pretext", "searched"]
GROUPS: dict[str, str] = {
    "untrained": "no training",
    "scratch": "from scratch",
    "pretrained": "pre-trained",
    "pretext": "pre-trained on the rendered pretext set",
    "searched": "searched, then trained from scratch",
}
Row = Mapping[str, Scalar]
Task = tuple[str, str]
"""training set and test set"""


@dataclass(frozen=True)
class Cell:
    """A table cell, one of its repetitions, and the experiment that fills it."""

    group: Group
    factors: tuple[tuple[str, Scalar], ...]
    """coordinates of the row; all cells of a study have the same factors"""
    train: str
    test: str
    seed: int
    experiment: Experiment
    draw: int = 0
    """repetition within a seed, such as random genotypes"""


@dataclass(frozen=True)
class Study:
    """A table or figure as a list of experiments."""

    name: str
    title: str
    varies: str
    """scientific hyper-parameters"""
    fixed: str
    """what is equal in all cells"""
    nuisance: str
    """what is averaged over"""
    cells: Callable[[Request, tuple[str, ...]], list[Cell]] = field(repr=False)
    """all cells for a request and the available data sets"""
    label: Callable[[Row], str] = field(repr=False)
    """how a row is printed"""
    baseline: tuple[tuple[str, Scalar], ...] = ()
    """factors of the row that others are compared with; see `baseline_row`"""
    axis: str = ""
    """factor that figures draw as a numeric axis"""
    remark: str = ""
    """limits of the comparison that a reader must know"""
    preferred_baseline: tuple[tuple[str, Scalar], ...] = ()
    """factors of a stricter baseline, used in the columns where it has results"""
    within: tuple[str, ...] = ()
    """factors that a row must share with its baseline"""

    def has_fixed_networks(self, request: Request, datasets: tuple[str, ...]) -> bool:
        """True if the networks of a request change no cell."""
        one, other = (self.cells(replace(request, models=(name,)), datasets) for name in ("msinet", "resnet50"))
        return one == other

    def baseline_row(self, row: Row, rows: Iterable[Row]) -> Row | None:
        """The baseline of a row: of the rows with its factors, the one most similar in the others; or None."""
        rows = list(rows)
        for factors in filter(None, (self.preferred_baseline, self.baseline)):
            shared = factors + tuple((name, row.get(name)) for name in self.within)
            if bases := [base for base in rows if all(base.get(name) == value for name, value in shared)]:
                return max(bases, key=lambda base: sum(base[name] == row[name] for name in row))
        return None


@dataclass(frozen=True)
class Point:
    """The request and the coordinates of a cell, except its row."""

    request: Request
    group: Group
    train: str
    test: str
    seed: int
    draw: int = 0

    @property
    def init(self) -> Init:
        """Initial weights of the group."""
        return "pretrained" if self.group in ("pretrained", "pretext") else "scratch"

    def experiment(self, model: str) -> Experiment:
        """The training of a network; its name includes the width."""
        return self.request.experiment(model, self.train, self.test, self.seed, self.init)

    def msinet(self, genotype: str = SEARCHED) -> Experiment:
        """The training of MSINet at the profile's width, by default with the paper's genotype."""
        plain = self.experiment(self.request.named("msinet"))
        return plain if genotype == SEARCHED else plain.known(genotype)

    def searched(self, **changes: Scalar | tuple[int, ...]) -> Experiment:
        """The training of the genotype that a search finds; `changes` are settings of the search."""
        search = self.request.search(self.train, self.seed, **changes)
        return replace(self.msinet(), genotype_from=search)

    def untrained(self, model: str) -> Experiment:
        """The evaluation of a network without training: only the test set and its image size matter."""
        plain = self.request.experiment(model, self.test, self.test, 0)
        return replace(plain, recipe=Recipe(image=plain.recipe.image, schedule=Schedule(epochs=0)))


def cross(
    request: Request,
    groups: Sequence[Group],
    rows: Sequence[Row],
    tasks: Sequence[Task],
    make: Callable[[Row, Point], Experiment | None],
) -> list[Cell]:
    """All combinations of groups, seeds, rows and tasks; the untrained group has one seed.

    Args:
        request: number of seeds.
        groups: kinds of initial weights.
        rows: factors of each row; an entry `draw` is the cell's repetition, not a factor.
        tasks: training and test sets.
        make: the experiment of a row at a point; None: the table has no such cell.
    """
    cells = []
    for group, seed in [(g, s) for g in groups for s in range(1 if g == "untrained" else request.repeats)]:
        for row, (train, test) in product(rows, tasks):
            factors = {name: value for name, value in row.items() if name != "draw"}
            point = Point(request, group, train, test, seed, int(row.get("draw", 0)))
            if (experiment := make(factors, point)) is not None:
                cells.append(Cell(group, tuple(factors.items()), train, test, seed, experiment, point.draw))
    return cells


def single(experiment: Experiment, name: str) -> Study:
    """A study of one experiment, under a name for messages."""
    cell = Cell("scratch", (), experiment.source, experiment.target, experiment.seed, experiment)
    return Study(name, "one experiment", "", "", "", lambda *_: [cell], lambda _: name)


# --- Groups and tasks ----------------------------------------------------------------------------


def group_label(group: str) -> str:
    """The group as it is printed; a group that tables add, such as the paper's, has its own name."""
    return GROUPS.get(group, group)


def column_label(train: str, test: str) -> str:
    """The column as it is printed: M, MS, VR, VID, or MS>M for a test set that is not the training set."""
    return short_name(train) if train == test else f"{short_name(train)}>{short_name(test)}"


def column_order(train: str, test: str) -> tuple[bool, int, int, str]:
    """Sort key of columns: in-domain before cross-domain, then the order of the data sets' cards."""
    return train != test, card_of(train).order, card_of(test).order, column_label(train, test)


def trained_groups(request: Request) -> tuple[Group, ...]:
    """Trained groups of a request: from scratch, and pre-trained where tables are complete or weights are given."""
    if not request.complete and request.pretrained is None:
        return ("scratch",)
    return "scratch", pretrained_group(request)


def pretrained_group(request: Request) -> Group:
    """The group of pre-trained networks: on the rendered world, from its pretext set unless weights are given."""
    return "pretext" if request.rendered and request.pretrained is None else "pretrained"


def tasks(request: Request, datasets: Sequence[str]) -> list[Task]:
    """All in-domain and cross-domain tasks on the available data sets, as listed on the data sets' cards."""
    short = not request.complete and not request.datasets
    inside = [(name, name) for name in datasets if not (short and card_of(name).extra)]
    return inside + [(name, other) for name in datasets for other in card_of(name).across if other in datasets]


def first_tasks(request: Request, datasets: Sequence[str]) -> list[Task]:
    """The columns of Table 2: all tasks. Short tables have only the tasks trained on MS, in-domain and cross-domain.

    A few cells with long trainings are more informative than many with short ones.
    """
    every = tasks(request, datasets)
    if request.complete or request.datasets:
        return every
    return [task for task in every if task[0] == "msmt17"] or every


def vehicle_tasks(request: Request, datasets: Sequence[str]) -> list[Task]:
    """VeRi-776 in-domain and to VehicleID, as in the paper; without VeRi-776 all tasks."""
    every = tasks(request, datasets)
    return [task for task in every if task[0] == "veri776"] or every


def home(datasets: Sequence[str], preferred: str = "msmt17") -> list[Task]:
    """In-domain task of the data set on which the paper runs an ablation, or of the first available one."""
    name = preferred if preferred in datasets or not datasets else datasets[0]
    return [(name, name)]


# --- Rows that are networks ----------------------------------------------------------------------


def table_networks(request: Request, study: str) -> list[str]:
    """Networks that a table compares by default; short tables leave heavy ones out."""
    return [card.name for card in in_study(study) if request.complete or not card.heavy]


def network_rows(request: Request, default: Iterable[str]) -> list[Row]:
    """A row per network: those asked for, else the default ones. Names without a width get that of the profile."""
    names = dict.fromkeys(map(split_name, map(request.named, request.models or default)))
    return [{"network": name, "width": width, "alignment": "none"} for name, width in names]


def model_of(row: Row) -> str:
    """The name of a row's network with its width."""
    return with_width(str(row["network"]), float(row["width"]))


def network_label(row: Row) -> str:
    """The paper's name of the network, with a width other than 1; the variant on the card if it is aligned."""
    return label_of(model_of(row), "pam=True" if row["alignment"] == "pam-self" else "")
