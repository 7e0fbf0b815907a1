"""Write a store of small made-up runs of the studies, to time reports: python tests/reports/make_store.py DIR RUNS."""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from conftest import HandStore

from ablations.engine.experiment import Experiment
from ablations.engine.request import Request
from ablations.studies import STUDIES

QUERIES, IDENTITIES, EPOCHS, SEEDS = 300, 60, 120, 8


def experiments(root: Path) -> list[Experiment]:
    """The trainings from scratch of all studies in profile mini; searched genotypes are the paper's."""
    request = Request(whole=True, seeds=SEEDS, store=root)
    cells = [cell for study in STUDIES.values() for cell in study.cells(request, request.default_datasets())]
    found = dict.fromkeys(cell.experiment for cell in cells if cell.experiment.genotype_from is None)
    return [one for one in found if one.init == "scratch" and not one.is_search]


def write(root: Path, count: int) -> int:
    """Write this number of runs, fewer if the studies have fewer, and return the number written."""
    hand, rng = HandStore(root), np.random.default_rng(0)
    identities = np.arange(QUERIES) % IDENTITIES
    chosen = experiments(root)[:count]
    for one in chosen:
        ap = np.clip(rng.uniform(0.3, 0.7) + 0.1 * rng.standard_normal(QUERIES), 0.01, 1)
        first = 1 + (rng.random(QUERIES) > ap) * rng.integers(1, 30, QUERIES)
        queries = [
            {"draw": 0, "query": f"{i}.jpg", "identity": int(identities[i]), "camera": i % 6, "positives": 4}
            | {"first_rank": int(first[i]), "ap": float(ap[i]), "inp": float(ap[i] / 2)}
            for i in range(QUERIES)
        ]
        history = [
            {"epoch": i, "steps": 10, "lr": 0.1, "loss": 1.0, "accuracy": min(0.97, 0.02 * i), "mAP": "", "R1": ""}
            for i in range(1, EPOCHS + 1)
        ]
        metrics = {f"R{k}": float((first <= k).mean()) for k in (1, 5, 10)}
        metrics |= {"mAP": float(ap.mean()), "mINP": float(ap.mean() / 2)}
        hand.publish(one, files={"queries.csv": queries, "history.csv": history}, **metrics)
    return len(chosen)


if __name__ == "__main__":
    print(f"{write(Path(sys.argv[1]), int(sys.argv[2]))} runs written")
