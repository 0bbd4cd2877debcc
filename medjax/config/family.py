"""What a family of models adds to the keys that all have in common."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict


@dataclasses.dataclass(frozen=True)
class Family:
    """The keys of a family's configs.

    Attributes:
      name: the value of `family`.
      keys: gives every key with its default.
      source: the keys of one source of data, with their defaults.
      open: regular expressions of keys whose ConfigDicts have names of the user's own choice.
      whole_run: keys that all stages of a run share.
      choices, at_least: what values may be, and how small.
      check: raises UserError for values that do not fit together: (config, where).
    """

    name: str
    keys: Callable[[], dict[str, Any]]
    source: Mapping[str, Any]
    open: tuple[str, ...] = ()
    whole_run: tuple[str, ...] = ()
    choices: Mapping[str, tuple] = dataclasses.field(default_factory=dict)
    at_least: Mapping[str, float] = dataclasses.field(default_factory=dict)
    check: Callable[[ConfigDict, str], None] = lambda config, where: None

    def is_open(self, name: str) -> bool:
        """Whether a key's ConfigDict has names of the user's own choice."""
        return any(re.fullmatch(pattern, name) for pattern in self.open)


_IMPLEMENTATIONS = ("auto", "reference", "xla", "pallas_triton")
_DTYPES = ("auto", "float32", "bfloat16", "float16")

# The parts of a config's data; each names sources of one's own: name -> ConfigDict(source=..., ...)
PARTS = ("data.train", "data.validation", "data.test")
OPEN = (r"data\.(train|validation|test)", r"optimizer\.options", "model", "stages")
WHOLE_RUN = ("name", "family", "kernels", "data.dir", "data.test", "evaluate", "export")
CHOICES = {
    "dtype": _DTYPES,
    "param_dtype": _DTYPES,
    "remat": ("none", "dots", "full"),
    "kernels.attention": _IMPLEMENTATIONS,
    "kernels.cross_entropy": _IMPLEMENTATIONS,
    "optimizer.schedule": ("cosine", "linear", "constant"),
    "data.on_bad_example": ("error", "skip"),
    "early_stopping.mode": ("auto", "min", "max"),
}
AT_LEAST = {
    "batch_size": 1, "accumulation": 1, "keep_latest": 1, "evaluate.batch_size": 1,
    "seed": 0, "steps": 0, "epochs": 0, "log_every": 0, "eval_every": 0, "checkpoint_every": 0,
    "keep_best": 0, "evaluate.examples": 0, "lora.rank": 0, "data.workers": 0,
    "data.image_cache_mib": 0, "optimizer.learning_rate": 0, "optimizer.weight_decay": 0,
    "optimizer.warmup_steps": 0, "optimizer.clip_norm": 0, "loss.label_smoothing": 0,
    "average_decay": 0, "early_stopping.patience": 0, "early_stopping.min_delta": 0,
}  # fmt: skip


def common(towers: tuple[str, ...]) -> dict[str, Any]:
    """The keys that every family has. `towers`: where adapters are, unless a recipe says."""
    return {
        "name": "run",  # names the default workdir, runs/<name>
        "family": "paligemma",  # of models: paligemma or fourm
        "seed": 0,
        "dtype": "auto",  # of matmuls: auto, float32, bfloat16, float16
        "param_dtype": "auto",  # of weights that do not train: auto is dtype
        "remat": "none",  # what the backward pass recomputes: none, dots, full
        # Implementations, see kernels/README.md: auto, reference, xla, pallas_triton.
        "kernels": {"attention": "auto", "cross_entropy": "auto"},
        "lora": {
            "rank": 0,  # 0: no adapters, all weights train
            "alpha": 16.0,
            "dropout": 0.0,
            "targets": ("q_proj", "k_proj", "v_proj", "o_proj",
                        "gate_proj", "up_proj", "down_proj"),
            "towers": towers,
            "init": "kaiming",  # or normal
        },
        "data": {
            "dir": "",  # where built datasets are kept; none: the user's cache
            "train": {},
            "validation": {},
            "test": {},
            "on_bad_example": "error",  # or skip (and count)
            # Random variations of training images; sizes, see data/augment.py.
            "augment": {"shift": 0.0, "zoom": 0.0, "turn": 0.0,
                        "contrast": 0.0, "gamma": 0.0, "noise": 0.0},
            "image_cache_mib": 256,  # resized images kept in memory
            "workers": 0,  # processes that read ahead; 0: threads alone
        },
        "batch_size": 16,  # examples per optimizer step, on all devices together
        "accumulation": 1,  # parts that a batch is cut into, one after another
        "steps": 0,  # or:
        "epochs": 0.0,  # passes over the training data
        "optimizer": {
            "optax_name": "adamw",  # any optimizer of optax
            "learning_rate": 1e-4,
            "weight_decay": 0.0,  # on matrices; norms and biases are spared
            "options": {},  # further arguments of the optimizer, such as b2
            "schedule": "cosine",  # after the warm-up: cosine, linear, constant
            "warmup_steps": 0,
            "clip_norm": 0.0,  # 0: off
            # ((regular expression, multiplier), ...): the first that is found in a parameter's
            # name counts; 0 freezes.
            "lr_multipliers": (),
        },
        "average_decay": 0.0,  # of the weights' moving average, which is what is kept; 0: off
        "mesh": {"data": -1, "fsdp": 1, "tensor": 1},  # -1: what the others leave
        # When (steps; 0: never).
        "log_every": 50,
        "eval_every": 0,
        "checkpoint_every": 500,
        "keep_latest": 1,
        "keep_best": 1,  # by early_stopping.metric
        "restore_best": False,  # end with the best weights rather than the last
        "early_stopping": {
            "metric": "loss",  # a figure of validation, as metrics.jsonl names it
            "mode": "auto",  # min or max: what is better; auto: less of losses, more of others
            "patience": 0,  # evaluations without improvement that end a stage; 0: off
            "min_delta": 0.0,  # an improvement is more than this
        },
        "stages": {},
        "stage_order": (),  # of the stages' names; none: alphabetical
    }  # fmt: skip
