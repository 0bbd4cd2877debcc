"""The configuration: every key with its default, and how a recipe and the command line change it.

A recipe is a Python file with `get_config(arg)` that returns an ml_collections ConfigDict with the
keys that it wants different (google-research/big_vision's idiom). Which keys there are is a
family's: `family="paligemma"` (the default) or `family="fourm"`. Keys that it does not list are
errors. `stages` may name several trainings that follow one another in one run; each is a ConfigDict
of what differs from the rest of the config.
"""

from medjax.config.loading import (
    FAMILIES,
    check,
    defaults,
    load,
    override,
    resolve,
    stage_config,
    stage_names,
)

__all__ = [
    "FAMILIES", "check", "defaults", "load", "override", "resolve", "stage_config", "stage_names",
]  # fmt: skip
