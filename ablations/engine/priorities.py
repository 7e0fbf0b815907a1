"""The reference studies by weight: `python -m ablations fill` runs them in this order, as far as the time allows."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Priority:
    """A study with its number of seeds. Runs that an earlier entry has made are shared."""

    study: str
    seeds: int = 1
    profile: str = "mini"
    words: tuple[str, ...] = ()
    """more of the command line, such as --datasets msmt17"""


#: First one seed of the main table, then three; then what the paper's other claims rest on.
PRIORITIES: tuple[Priority, ...] = (
    Priority("table2", 1),
    Priority("table2", 3),
    Priority("table1", 1),
    Priority("table5", 3),
    Priority("figure5a", 1),
    Priority("table1", 3),
    Priority("figure5d", 3),
    Priority("figure5c", 3),
    Priority("figure5e", 3),
    Priority("table6", 1),
    Priority("figure5b", 1),
    Priority("figure5a", 3),
    Priority("table3", 3),
    Priority("table2", 1, "full"),
)
