"""Every table and figure by name."""

from ablations.alignment import ALIGNMENT_READINGS, FIGURE5E, TABLE5
from ablations.calibration import CALIBRATION
from ablations.catalogue import Catalogue
from ablations.cells import FIGURE5C, FIGURE5D
from ablations.discrepancies import DISCREPANCY_STUDY
from ablations.pictures import FIGURE1, FIGURE4, FIGURE6
from ablations.searches import FIGURE5A, FIGURE5B, TABLE1
from ablations.sweep import ALIGNMENT_SWEEP, SWEEP
from ablations.table2 import TABLE2
from ablations.table3 import TABLE3
from ablations.table6 import TABLE6
from msinet.errors import unknown_name

CATALOGUES = {
    catalogue.name: catalogue
    for catalogue in (
        TABLE1,
        TABLE2,
        TABLE3,
        TABLE5,
        TABLE6,
        FIGURE1,
        FIGURE4,
        FIGURE5A,
        FIGURE5B,
        FIGURE5C,
        FIGURE5D,
        FIGURE5E,
        FIGURE6,
        CALIBRATION,
        DISCREPANCY_STUDY,
        ALIGNMENT_READINGS,
        SWEEP,
        ALIGNMENT_SWEEP,
    )
}


def find_catalogue(name: str) -> Catalogue:
    """The catalogue of that name, or the error that lists those there are."""
    if name not in CATALOGUES:
        raise unknown_name("table or figure", name, CATALOGUES)
    return CATALOGUES[name]
