"""The reference studies by priority: `python -m ablations fill` runs them in this order until its time is used up."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Priority:
    """A study and its number of seeds. Entries share their runs."""

    study: str
    seeds: int = 1
    profile: str = "mini"


#: First one seed of the main table, then three, then the studies behind the paper's other claims.
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
