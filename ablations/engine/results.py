"""The tidy frame of a study: one row per table cell and repetition, with coordinates, state and record."""

import pandas as pd

from ablations.engine.resolve import Resolution
from ablations.engine.store import Store


def results(resolution: Resolution, store: Store) -> pd.DataFrame:
    """The cells of a resolution with the records of their finished runs.

    Columns: study, group, factor.<name> for each factor, train, test, seed, draw, state, run_id, search_id; then the
    columns of `Store.frame`, metrics in [0, 1], NaN for runs that are not finished.
    """
    rows = [
        {
            "study": resolution.study.name,
            "group": one.cell.group,
            **{f"factor.{name}": value for name, value in one.cell.factors},
            "train": one.cell.train,
            "test": one.cell.test,
            "seed": one.cell.seed,
            "draw": one.cell.draw,
            "state": one.state,
            "run_id": one.run_id,
            "search_id": one.search_id,
        }
        for one in resolution.cells
    ]
    frame = pd.DataFrame(rows)
    records = store.frame().drop(columns="seed", errors="ignore")
    return frame.join(records, on="run_id") if len(frame) else frame
