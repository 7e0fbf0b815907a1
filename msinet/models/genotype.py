"""Genotypes: one letter per interaction, two per cell. Does not import torch.

N none, G channel gate, A cross attention, E exchange (Sec. 3.2).
"""

import json
from pathlib import Path

from msinet.errors import UserError

#: Table 1: the interactions found on MSMT17, two per cell, cell 1 first.
SEARCHED = "GGEGAGGNGAEA"
#: The operations, in the order of the architecture parameters.
OPERATIONS = "NGAE"
#: File to which a search writes its genotype.
GENOTYPE = "genotype.json"


def check_genotype(genotype: str) -> str:
    """The genotype in upper case.

    Raises:
        UserError: a letter other than N, E, G, A, or a length that is not a multiple of six
            (three stages, two interactions per cell).
    """
    letters = genotype.upper().replace(" ", "")
    if not letters or len(letters) % 6 or set(letters) - set(OPERATIONS):
        raise UserError(
            f"genotype {genotype!r} is not valid: it needs a multiple of six letters out of "
            f"{', '.join(OPERATIONS)} (two per cell, three stages), such as {SEARCHED!r}"
        )
    return letters


def read_genotype(path: Path) -> str:
    """The genotype in a file that `search` wrote.

    Raises:
        UserError: the file is missing, damaged, or holds no genotype.
    """
    try:
        return check_genotype(json.loads(path.read_text(encoding="utf-8"))["genotype"])
    except (UserError, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} holds no genotype ({error}); msinet search writes such files") from error
