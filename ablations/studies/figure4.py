"""Figure 4: maps after each MSI cell (Sec. 4.2). The runs are those of Table 2 on VeRi-776."""

from ablations.studies.figure1 import vehicle_study

STUDY = vehicle_study("figure4", "Figure 4: maps after each MSI cell", ("msinet",))
