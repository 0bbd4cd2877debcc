"""Recipes and command lines become configs; what no run could use is refused."""

import ast
import copy
import importlib.util
import math
import pathlib
import re
from collections.abc import Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from medjax.config import fourm, paligemma
from medjax.config.family import PARTS, Family
from medjax.errors import UserError

FAMILIES: dict[str, Family] = {f.name: f for f in (paligemma.FAMILY, fourm.FAMILY)}


def defaults(family: str = "paligemma") -> ConfigDict:
    """Every key that a recipe may set. Sources and models have keys of their own, see there."""
    return ConfigDict(FAMILIES[family].keys(), allow_dotted_keys=False)


def _family(config: ConfigDict, where: str = "config") -> Family:
    name = config.get("family", "paligemma")
    if name not in FAMILIES:
        raise UserError(f"{where}: family is {name!r}, none of {', '.join(FAMILIES)}")
    return FAMILIES[name]


_OVERRIDE = re.compile(r"--?(?:no)?config\.(?P<name>[^=\s]+)(?:=(?P<value>.*))?", re.DOTALL)
_OPTIONS = re.compile(r"(?:stages\.[^.]+\.)?optimizer\.options")


def load(path_and_arg: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """The full config of a recipe.

    Args:
      path_and_arg: "configs/quickstart.py", or with an argument for get_config "recipe.py:448".
      overrides: "--config.optimizer.learning_rate=1e-3" and the like.

    Raises:
      UserError: a file that is no recipe, an unknown key, or a value of the wrong type.
    """
    path, _, arg = path_and_arg.partition(":")
    return override(resolve(_recipe(path, arg), where=path), overrides)


def override(config: ConfigDict, overrides: Sequence[str]) -> ConfigDict:
    """The config with "--config.key=value" applied; see `load`."""
    found = [(argument, _OVERRIDE.fullmatch(argument)) for argument in overrides]
    for _, match in found:
        if match is not None:
            _check_reaches_all_stages(config, match["name"])
    arguments = ["medjax"]
    for argument, match in found:
        arguments += [argument] if match is None else _prepared(config, match)
    holder = flags.FlagValues()
    config_flags.DEFINE_config_dict("config", config, flag_values=holder, sys_argv=arguments)
    try:
        rest = holder(arguments)[1:]
    except (flags.Error, ValueError, TypeError) as error:
        raise UserError(f"command line: {error}") from error
    if rest:
        raise UserError(f"command line: {' '.join(rest)} is not --config.key=value")
    check(config, where="command line")
    return config


def _prepared(config: ConfigDict, match: re.Match[str]) -> list[str]:
    """An override as config_flags understands it; none if it is in the config already."""
    name, value = match["name"], match["value"]
    _open_stage_key(config, name)
    folder, _, option = name.rpartition(".")
    is_option = _OPTIONS.fullmatch(folder)
    _check_known(config, folder if is_option else name)
    if value is None:
        return [match[0]]
    with config.unlocked(), config.ignore_type():
        if is_option:
            _get(config, folder)[option] = _literal(name, value)
            return []
        if name == "model":  # a ConfigDict may give way to a name
            config.model = value
            return []
    if isinstance(_get(config, name), tuple) and not value.startswith(("(", "[", "'", '"')):
        parts = tuple(part.strip() for part in value.split(",") if part.strip())
        if parts and all(part.isdecimal() for part in parts):
            parts = tuple(map(int, parts))
        return [f"--config.{name}={parts!r}"]
    return [match[0]]


def _literal(name: str, value: str) -> Any:
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError) as error:
        raise UserError(
            f"command line: {name}={value} is no Python value such as 0.95, True or 'float32'"
        ) from error


def _open_stage_key(config: ConfigDict, name: str) -> None:
    """Gives a stage the run's value of a key that it leaves alone, so that it can be overridden."""
    top, stage, key = (*name.split(".", 2), "", "")[:3]
    if top != "stages" or stage not in config.stages:
        return
    if _OPTIONS.fullmatch(key.rpartition(".")[0]):
        key = "optimizer.options"  # a stage's own are all that it has
    elif not _has(config, key) or isinstance(_get(config, key), ConfigDict):
        return
    within = [key[: end.start()] for end in re.finditer(r"\.|$", key)]  # a, a.b, a.b.c
    family = _family(config)
    if any(
        k in family.whole_run or (family.is_open(k) and k != "optimizer.options") for k in within
    ):
        return
    value = copy.deepcopy(_get(config, key))
    level = config.stages[stage]
    *folders, last = key.split(".")
    with config.unlocked():
        for folder in folders:
            if folder not in level:
                level[folder] = ConfigDict()
            level = level[folder]
        if last not in level:
            level[last] = value


def _check_known(config: ConfigDict, name: str) -> None:
    """Raises UserError for a key that is not there."""
    level: Any = config
    for key in name.split("."):
        if not isinstance(level, ConfigDict) or key not in level:
            known = ", ".join(sorted(level)) if isinstance(level, ConfigDict) else ""
            raise UserError(
                f"command line: unknown key {name}; known here: {known or 'none'}. Names of one's "
                "own, such as sources, come from the recipe."
            )
        level = level[key]


def _check_reaches_all_stages(config: ConfigDict, name: str) -> None:
    """Raises UserError if a stage has its own value of a key of the run, which stays as it is."""
    # Options and sources are a stage's own as a whole.
    whole = re.match(r"optimizer\.options|data\.(train|validation)\.[^.]+", name)
    own = whole[0] if whole else name
    stages = [stage for stage in config.stages if _has(config.stages[stage], own)]
    if stages:
        raise UserError(
            f"command line: --config.{name} does not reach stages with their own {own}; set "
            + " and ".join(f"--config.stages.{stage}.{name}" for stage in sorted(stages))
        )


def _has(config: ConfigDict, dotted: str) -> bool:
    level: Any = config
    for key in dotted.split("."):
        if not isinstance(level, ConfigDict) or key not in level:
            return False
        level = level[key]
    return True


def _recipe(path: str, arg: str) -> ConfigDict:
    if not pathlib.Path(path).is_file():
        raise UserError(f"config {path!r} is no file; give a recipe such as configs/quickstart.py")
    spec = importlib.util.spec_from_file_location("medjax_recipe", path)
    if spec is None or spec.loader is None:
        raise UserError(f"config {path!r} is no Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config(arg) if arg else module.get_config()
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"config {path} fails: {type(error).__name__}: {error}") from error
    if not isinstance(config, ConfigDict):
        raise UserError(f"config {path}: get_config() returns no ConfigDict")
    return config


def resolve(recipe: ConfigDict, where: str = "config") -> ConfigDict:
    """The defaults with the recipe's keys over them, checked."""
    family = _family(recipe, where)
    config = defaults(family.name)
    _merge(config, recipe, "", where, family)
    check(config, where)
    return config


def _merge(into: ConfigDict, source: ConfigDict, prefix: str, where: str, family: Family) -> None:
    for key, value in source.items():
        name = f"{prefix}{key}"
        if family.is_open(name):
            with into.ignore_type():
                into[key] = _opened(name, value, where, family)
        elif key not in into:
            raise UserError(f"{where}: unknown key {name}; known here: {', '.join(sorted(into))}")
        elif isinstance(into[key], ConfigDict):
            if not isinstance(value, ConfigDict):
                raise UserError(f"{where}: {name} must be a ConfigDict, not {value!r}")
            _merge(into[key], value, f"{name}.", where, family)
        else:
            into[key] = _typed(name, value, into[key], where)


def _opened(name: str, value: Any, where: str, family: Family) -> Any:
    if name == "model":
        if not isinstance(value, str | ConfigDict):
            raise UserError(f"{where}: model must be a name, a .json file or a ConfigDict")
        return value
    if not isinstance(value, ConfigDict):
        raise UserError(f"{where}: {name} must be a ConfigDict, not {value!r}")
    if name == "stages":
        for stage, changes in value.items():
            if not isinstance(changes, ConfigDict) or "stages" in changes:
                raise UserError(f"{where}: stages.{stage} must be a ConfigDict without stages")
            if whole := [name for name in family.whole_run if _has(changes, name)]:
                raise UserError(
                    f"{where}: stages.{stage} sets {', '.join(whole)}, which all stages of a run "
                    "share; set it outside of stages"
                )
        like = defaults(family.name)
        return ConfigDict({key: _floats(changes, like) for key, changes in value.items()})
    if name not in PARTS:
        return value
    sources = ConfigDict()
    for key, spec in value.items():
        full = ConfigDict(copy.deepcopy(dict(family.source)))
        if not isinstance(spec, ConfigDict):
            raise UserError(f"{where}: {name}.{key} must be a ConfigDict(source=...)")
        _merge(full, spec, f"{name}.{key}.", where, family)
        sources[key] = full
    return sources


def _typed(name: str, value: Any, default: Any, where: str) -> Any:
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(default, tuple) and isinstance(value, list | tuple):
        return tuple(value)
    if type(value) is not type(default):
        raise UserError(
            f"{where}: {name} is {value!r}; expected {type(default).__name__} like {default!r}"
        )
    return value


def _floats(changes: ConfigDict, like: ConfigDict) -> ConfigDict:
    """A stage's keys with 1 as 1.0 where that is meant, so that the command line may say 0.5."""
    result = ConfigDict(changes)
    for key, value in changes.items():
        default = like.get(key)
        if isinstance(value, ConfigDict) and isinstance(default, ConfigDict):
            result[key] = _floats(value, default)
        elif isinstance(default, float) and type(value) is int:
            with result.ignore_type():
                result[key] = float(value)
    return result


def check(config: ConfigDict, where: str = "config") -> None:
    """Raises UserError for a value that no run could use."""
    family = _family(config, where)
    for name, choices in family.choices.items():
        value = _get(config, name)
        if value not in choices:
            raise UserError(f"{where}: {name} is {value!r}, none of {', '.join(choices)}")
    for name, least in family.at_least.items():
        if not least <= _get(config, name) < math.inf:
            raise UserError(f"{where}: {name} is {_get(config, name)}; it must be at least {least}")
    if config.loss.label_smoothing >= 1:
        raise UserError(
            f"{where}: loss.label_smoothing is {config.loss.label_smoothing}; it must be below 1"
        )
    if config.average_decay >= 1:
        raise UserError(f"{where}: average_decay is {config.average_decay}; it must be below 1")
    if config.batch_size % config.accumulation:
        raise UserError(
            f"{where}: batch_size {config.batch_size} cannot be cut into accumulation = "
            f"{config.accumulation} equal parts"
        )
    family.check(config, where)
    order = config.stage_order
    if order and sorted(order) != sorted(config.stages):
        raise UserError(
            f"{where}: stage_order {order} does not name each of the stages "
            f"{tuple(config.stages)} once"
        )
    for stage in config.stages:
        stage_config(config, stage, where)


def _get(config: ConfigDict, dotted: str) -> Any:
    for key in dotted.split("."):
        config = config[key]
    return config


def stage_config(config: ConfigDict, stage: str, where: str = "config") -> ConfigDict:
    """The config of one stage: the run's, with the stage's keys over it."""
    result = config.copy_and_resolve_references()
    if stage not in result.stages:
        return result
    changes = result.stages[stage]
    result.unlock()
    result.stages, result.stage_order = ConfigDict(), ()
    _merge(result, changes, "", f"{where}: stages.{stage}", _family(config))
    check(result, f"{where}: stages.{stage}")
    return result.lock()


def stage_names(config: ConfigDict) -> tuple[str, ...]:
    """The stages in their order; ("train",) if the recipe names none."""
    return tuple(config.stage_order) or tuple(sorted(config.stages)) or ("train",)
