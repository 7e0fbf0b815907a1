"""Studies, one file each. A file defines `STUDY`, and `SWEEP` if a sweep precedes the study."""

import importlib
import pkgutil

from ablations.engine.study import Study
from ablations.engine.sweep import Sweep
from msinet.errors import unknown_name

_modules = [importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)]
_studies: list[Study] = [module.STUDY for module in _modules]
#: Studies by name: tables, figures, then the others.
STUDIES = {
    study.name: study
    for study in sorted(
        _studies, key=lambda s: (not s.name.startswith("table"), not s.name.startswith("figure"), s.name)
    )
}
SWEEPS: dict[str, Sweep] = {module.SWEEP.name: module.SWEEP for module in _modules if hasattr(module, "SWEEP")}


def find_study(name: str) -> Study:
    """The study of that name.

    Raises:
        UserError: unknown name; the message lists the known ones.
    """
    if name not in STUDIES:
        raise unknown_name("table or figure", name, STUDIES)
    return STUDIES[name]


def find_sweep(name: str) -> Sweep:
    """The sweep of that name.

    Raises:
        UserError: unknown name; the message lists the known ones.
    """
    if name not in SWEEPS:
        raise unknown_name("sweep", name, SWEEPS)
    return SWEEPS[name]
