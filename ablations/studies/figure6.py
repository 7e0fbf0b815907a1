"""Figure 6: ranked lists of two networks (Sec. 4.5). The runs are those of Table 2 on VeRi-776."""

from ablations.studies.figure1 import vehicle_study

STUDY = vehicle_study("figure6", "Figure 6: ranked lists", ("resnet50", "msinet"))
