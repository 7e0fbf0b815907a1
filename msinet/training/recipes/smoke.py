"""Profile smoke: a handful of tiny images and six steps, to test the code."""

from msinet.training.recipes.layers import Changes, Profile

TINY: Changes = {"identities": 4, "images": 2, "epochs": 2, "steps_per_epoch": 3, "optimizer": "adam", "lr": 1e-3}
PERSONS: Changes = {"height": 32, "width": 16, "pad": 1, "warmup": 1}

PROFILE = Profile(
    "smoke",
    "tiny images, 6 steps, in tables networks of a quarter of the width: for tests",
    changes={
        "light": TINY | PERSONS | {"milestones": (2,)},
        "transformer": TINY | PERSONS,
        "search": TINY
        | PERSONS
        | {"identities": 3, "milestones": (2,), "alpha_lr": 0.1, "alpha_milestones": (2,), "trials": 2},
        "pretraining": TINY
        | {"height": 32, "width": 32, "weight_decay": 5e-4, "warmup": 1, "epoch_decay": 1.0, "crop": 0.25},
        "unsupervised": TINY
        | PERSONS
        | {"warmup": 0, "milestones": (2,), "k1": 6, "k2": 2, "eps": 0.7, "min_samples": 2, "group": 4},
    },
)
