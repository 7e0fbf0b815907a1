"""Profile mini, the default: small images and few steps, for two CPU cores.

The paper's SGD at 0.065 needs tens of thousands of steps, so mini has an optimizer of its own. 16 epochs have 10 steps
each on any data set. With so few steps a long warm-up gets over the first plateau sooner, and the learning rate must
stay high to near the end; erasing, which guards long trainings against memorising the images, only slows so short a one
(docs/tuning.md).
"""

from msinet.training.recipes.layers import Changes, Profile

SHORT: Changes = {"optimizer": "adam", "lr": 4e-3, "steps_per_epoch": 10}
PERSONS: Changes = {"height": 64, "width": 32, "pad": 2, "erase": 0.0}

PROFILE = Profile(
    "mini",
    "small images, 160 steps: for a laptop",
    changes={
        "light": SHORT | PERSONS | {"epochs": 16, "warmup": 6, "milestones": (13, 15)},
        # A tenth of this learning rate leaves the features of transformers collapsed.
        "transformer": SHORT | PERSONS | {"epochs": 16, "warmup": 6},
        # Few steps need larger ones of the architecture too.
        "search": SHORT
        | PERSONS
        | {"epochs": 12, "warmup": 5, "milestones": (10, 11), "alpha_lr": 0.05, "alpha_milestones": (10, 11)},
        # In 200 steps a twelfth of an image is too hard a view of it.
        "pretraining": SHORT
        | {
            "height": 64,
            "width": 64,
            "identities": 16,
            "epochs": 20,
            "lr": 2e-3,
            "weight_decay": 5e-4,
            "warmup": 8,
            "milestones": (16, 19),
            "epoch_decay": 1.0,
            "crop": 0.25,
        },
    },
    vehicle_side=48,  # about as many pixels as a person has
    cross_domain_training=False,  # the time is better spent on longer trainings
    stretch_cross_domain=True,  # milestones near the end would lie beyond it
)
