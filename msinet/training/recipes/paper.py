"""Profile paper: the published schedules, for real data on a GPU (Sec. 4.2-4.3).

The other profiles are changes to this one. Each kind of recipe has one table of changes to the defaults of `Recipe`,
which are the paper's for MSINet on persons.
"""

from msinet.training.recipe import Method
from msinet.training.recipes.layers import Changes, Profile, Source

#: Vision transformers: TransReID's baseline (He et al., ICCV 2021), as trained for ViT-B. Three differences: its half
#: precision is an option here (`precision`), training images are resized bilinearly, not bicubically, and erased boxes
#: have the sizes of the other networks (2 to 40 % of the area instead of 2 to 33 %).
TRANSFORMER: Changes = {
    "epochs": 120,
    "lr": 0.008,
    "weight_decay": 1e-4,
    "bias_lr": 2.0,
    "warmup": 5,
    "milestones": (),
    "cosine_to": 0.002,
    "label_smoothing": 0.0,
    "soft_margin": True,
    "normalize_triplet": False,
    "erase_fill": "noise",
}
#: The weights of the supernet (Sec. 4.2). Its loss is the contrast of Eq. 2 without label smoothing.
SEARCH: Changes = {"lr": 0.025, "label_smoothing": 0.0}
#: CDNet's ImageNet recipe, the nearest to MSINet's own, which is not published. Label smoothing is not stated there.
PRETRAINING: Changes = {
    "height": 224,
    "width": 224,
    "sampler": "shuffled",
    "identities": 32,
    "pad": 0,
    "crop": 0.08,
    "erase": 0.0,
    "epochs": 240,
    "lr": 0.1,
    "weight_decay": 3e-5,
    "warmup": 0,
    "milestones": (),
    "epoch_decay": 0.97,
    "triplet": False,
}
#: Methods without labels: the settings that their released codes share.
UNSUPERVISED: Changes = {
    "optimizer": "adam",
    "lr": 3.5e-4,
    "epochs": 50,
    "warmup": 0,
    "milestones": (20, 40),
    "steps_per_epoch": 400,
    "triplet": False,
}
#: Their differences from that and from the defaults of `Unsupervised`, as published for Market-1501.
METHODS: dict[Method, Changes] = {
    "clustercontrast": {"images": 16, "steps_per_epoch": 200, "memory_momentum": 0.1},
    "gs": {},
    "spcl": {},
    "hdcrl": {"eps": 0.5, "images": 16, "epochs": 70, "milestones": (30, 60), "steps_per_epoch": 100},
    "mmcl": {
        "optimizer": "sgd",
        "lr": 0.01,
        "identities": 32,
        "epochs": 60,
        "milestones": (40,),
        "steps_per_epoch": None,
        "memory_momentum": 0.5,
    },
    "idm": {"neighbour_lists": "k1+1", "jaccard_scaled": True, "triplet": True, "normalize_triplet": False},
    # 80 epochs of 200 steps on the source and 40 of 400 on the target; the milestones are those of the source.
    "mmt": {
        "neighbour_lists": "k1+1",
        "jaccard_scaled": True,
        "triplet": True,
        "epochs": 80,
        "warmup": 5,
        "milestones": (20, 35),
    },
}
#: Changes to that for other targets, as published.
TARGETS: dict[tuple[Method, str], Changes] = {
    ("clustercontrast", "msmt17"): {"steps_per_epoch": 400},
    ("clustercontrast", "veri776"): {"steps_per_epoch": 400},
    ("gs", "msmt17"): {"group": 1024, "steps_per_epoch": 800},
    ("spcl", "msmt17"): {"steps_per_epoch": 800},
    ("spcl", "veri776"): {"steps_per_epoch": 800},
    ("spcl", "vehicleid"): {"steps_per_epoch": 800},
}

#: docs/differences.md lists what the paper states and what only its released code shows.
BASES: dict[str, Source] = {
    "light": Source("the paper, Sec. 4.2-4.3, or its released code", {}),
    "transformer": Source("TransReID's baseline", TRANSFORMER),
    "search": Source("the paper, Sec. 3.1 and 4.2, or its released code", SEARCH),
    "pretraining": Source("CDNet's ImageNet recipe", PRETRAINING),
    "unsupervised": Source("released codes of the methods without labels", UNSUPERVISED),
}

PROFILE = Profile("paper", "the published schedules, on real data")
