"""Profile mini, the default: small images, and light networks trained until they can be compared, for two CPU cores.

It uses the paper's SGD with the same learning rate for all networks, and 90 epochs of 10 steps on any data set. The
warm-up takes a sixth of the steps: with less, MSINet stays on the first plateau. Random erasing, which prevents
overfitting in long trainings, only slows this short one (docs/tuning.md).
"""

from msinet.training.recipes.layers import Changes, Profile

SHORT: Changes = {"steps_per_epoch": 10}
PERSONS: Changes = {"height": 64, "width": 32, "pad": 2, "erase": 0.0}
ADAM: Changes = {"optimizer": "adam", "lr": 4e-3}

PROFILE = Profile(
    "mini",
    "small images, 900 steps: for two CPU cores",
    changes={
        "light": SHORT | PERSONS | {"epochs": 90, "warmup": 15, "milestones": (58, 70)},
        # With a tenth of this learning rate, or with SGD, the features of transformers stay collapsed.
        "transformer": SHORT | PERSONS | ADAM | {"epochs": 90, "warmup": 36},
        # With few steps the architecture also needs a larger learning rate.
        "search": SHORT
        | PERSONS
        | ADAM
        | {"epochs": 12, "warmup": 5, "milestones": (10, 11), "alpha_lr": 0.05, "alpha_milestones": (10, 11)},
        # For 600 steps, crops of a twelfth of an image are too hard. After only 200 steps DBSCAN finds few clusters
        # (docs/tuning.md).
        "pretraining": SHORT
        | ADAM
        | {
            "height": 64,
            "width": 64,
            "identities": 16,
            "epochs": 60,
            "lr": 2e-3,
            "weight_decay": 5e-4,
            "warmup": 15,
            "milestones": (48, 57),
            "epoch_decay": 1.0,
            "crop": 0.25,
        },
        # k1 and k2 are scaled to 10 images of an identity (Market-1501: 17). All methods have 4 images of a cluster in
        # a batch. eps, length and mmcl's own settings were chosen on another world (docs/tuning.md).
        "unsupervised": PERSONS
        | {"epochs": 24, "milestones": (18,), "steps_per_epoch": 20, "images": 4, "k1": 18, "k2": 4, "eps": 0.45},
        # 1 % of Market-1501 is 7.6 times the images of an identity; 1 % of 1,000 images would be only one identity's.
        "mmcl": {"optimizer": "adam", "lr": 3.5e-4, "hardest": 0.076},
        # As many labelled steps as "light": 900. mmt takes them first; the schedule is that of these 45 epochs.
        "adapting": {"epochs": 45, "milestones": (34,)},
        "mmt": {"epochs": 69, "warmup": 8, "milestones": (23, 39), "source_share": 0.655},
    },
    vehicle_side=48,  # about as many pixels as a person has
    cross_domain_training=False,  # the time is better spent on longer trainings
    stretch_cross_domain=True,  # milestones near the end would lie beyond it
)
