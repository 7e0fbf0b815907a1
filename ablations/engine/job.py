"""A queued job: one experiment and the paths of its data. Importing this module does not import Optuna."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from ablations.engine.experiment import Experiment
from ablations.engine.request import Request
from ablations.engine.resolve import Resolution
from ablations.engine.store import Store
from msinet.errors import UserError

#: Attempts at a run before it counts as failed for good.
ATTEMPTS = 3


def default_storage(store: Path) -> str:
    """The default queue: a journal in the store, for the workers of one host."""
    return str(store / "queue.journal")


@dataclass(frozen=True)
class Job:
    """One attempt at a run."""

    run_id: str
    study: str
    """study that wants the run; for messages"""
    experiment: dict[str, Any]
    """as `Experiment.to_json` writes it"""
    trainings: tuple[dict[str, Any], ...] = ()
    """of a search: experiments that train its genotype"""
    data_root: str = ""
    """empty: the rendered world of the experiment's profile"""
    name: str = ""
    """another name for the only data set under the data root"""
    keep_same_camera: bool = False
    """whether gallery images of the query's identity and camera are ranked"""
    pretrained: str = ""
    """folder of pre-trained weights; empty: those of the rendered pretext set"""
    attempt: int = 1

    @classmethod
    def from_attrs(cls, attrs: Mapping[str, Any]) -> Self:
        """The job in the attributes of a trial.

        Raises:
            UserError: another version of the code queued it.
        """
        try:
            found = dict(attrs["job"])
            return cls(**found | {"trainings": tuple(found["trainings"])})
        except (KeyError, TypeError, ValueError) as error:
            raise UserError("the queue holds a job of another version of the code; enqueue it again") from error

    def to_json(self) -> dict[str, Any]:
        """The job as nested dictionaries and lists."""
        return asdict(self) | {"trainings": list(self.trainings)}

    def request(self, store: Store) -> Request:
        """The request of its experiment alone."""
        experiment = self.parse(self.experiment)
        return Request(
            profile=experiment.profile,
            data_root=Path(self.data_root) if self.data_root else None,
            name=self.name,
            keep_same_camera=self.keep_same_camera,
            datasets=tuple(dict.fromkeys((experiment.source, experiment.target))),
            pretrained=Path(self.pretrained) if self.pretrained else None,
            store=store.root,
        )

    def parse(self, experiment: Mapping[str, Any]) -> Experiment:
        """One of the job's experiments.

        Raises:
            UserError: it is not of this version of the code.
        """
        try:
            return Experiment.from_json(experiment)
        except UserError as error:
            raise UserError(f"run {self.run_id} was queued by another version; enqueue it again ({error})") from error


def jobs(resolution: Resolution) -> list[Job]:
    """Jobs of all runs that can start now. A search's job carries the trainings of its genotype."""
    request = resolution.request
    data_root, pretrained = (str(path.resolve()) if path else "" for path in (request.data_root, request.pretrained))
    return [
        Job(
            one.run_id,
            resolution.study.name,
            one.experiment.to_json(),
            tuple(training.to_json() for training in resolution.trainings_of(one.run_id)),
            data_root,
            request.name,
            request.keep_same_camera,
            pretrained,
        )
        for one in resolution.runs()
        if one.run_id and one.state not in ("waiting", "blocked")
    ]
