"""Optimizers and schedules from a config's words."""

import inspect
import re
from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from medjax.errors import UserError

_DECAYED = ("kernel", "embed_tokens", "position_embedding", "lora_a", "lora_b")


def schedule(config: ConfigDict, steps: int) -> optax.Schedule:
    """Learning rate by step: linear warm-up from 0, then cosine or linear to 0, or constant."""
    warmup, peak = config.warmup_steps, config.learning_rate
    if warmup < 0 or (warmup and warmup >= steps):
        raise UserError(f"optimizer.warmup_steps {warmup} must be in [0, steps {steps}); lower it")
    rest = steps - warmup
    after = {
        "constant": lambda: optax.constant_schedule(peak),
        "cosine": lambda: optax.cosine_decay_schedule(peak, rest),
        "linear": lambda: optax.linear_schedule(peak, 0.0, rest),
    }[config.schedule]()
    if not warmup:
        return after
    # The first step trains already: 1 / warmup of the peak, not 0.
    rise = optax.linear_schedule(peak / warmup, peak, max(1, warmup - 1))
    return optax.join_schedules([rise, after], [warmup])


def multiplier(name: str, lr_multipliers: Iterable[tuple[str, float]]) -> float:
    """The factor of a parameter's learning rate: that of the first pattern found in its name."""
    return next((m for pattern, m in lr_multipliers if re.search(pattern, name)), 1.0)


def check_multipliers(names: Iterable[str], lr_multipliers) -> None:
    """Raises UserError for a pattern that is malformed or that no parameter's name contains."""
    names = list(names)
    for pair in lr_multipliers:
        try:
            pattern, factor = pair
            found = any(re.search(pattern, name) for name in names)
        except (TypeError, ValueError, re.error) as error:
            raise UserError(
                f"optimizer.lr_multipliers: {pair!r} is no (regular expression, number): {error}"
            ) from error
        if not found or not isinstance(factor, int | float) or factor < 0:
            raise UserError(
                f"optimizer.lr_multipliers: {pair!r} must name a parameter that trains "
                f"(such as {names[0]}) and a multiplier of at least 0"
            )


def check(config: ConfigDict, steps: int, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raises UserError unless the optimizer can train parameters of these shapes.

    Its state is made and updated on paper: nothing is computed.
    """
    params = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    try:
        optimizer = create(config, steps)
        state = jax.eval_shape(optimizer.init, params)
        jax.eval_shape(optimizer.update, params, state, params)
    except UserError:
        raise
    except Exception as error:  # optax checks nothing: a wrong argument fails wherever it is used
        first = (str(error).splitlines() or [""])[0]
        raise UserError(
            f"optimizer.optax_name, optimizer.options: optax.{config.optax_name} with options "
            f"{config.options.to_dict()} fails ({type(error).__name__}: {first}). Correct the "
            "options, or choose an optimizer that needs gradients and a learning rate alone, such "
            "as adamw"
        ) from error


def create(config: ConfigDict, steps: int) -> optax.GradientTransformation:
    """The optimizer for a flat dictionary {name: array} of trainable parameters.

    Raises:
      UserError: `optax_name` or an option that optax does not know.
    """
    factory = getattr(optax, config.optax_name, None)
    if config.optax_name.startswith("_") or not callable(factory):
        raise UserError(f"optimizer.optax_name: optax has no {config.optax_name!r}")
    known = inspect.signature(factory).parameters
    if "learning_rate" not in known:
        raise UserError(f"optimizer.optax_name: optax.{config.optax_name} is no optimizer")
    options = dict(config.options)
    if unknown := sorted(set(options) - set(known)):
        raise UserError(
            f"optimizer.options: optax.{config.optax_name} has no {', '.join(unknown)}; "
            f"it has {', '.join(known)}"
        )
    if config.weight_decay:
        if "weight_decay" not in known:
            raise UserError(
                f"optimizer.weight_decay: optax.{config.optax_name} has none; set it to 0"
            )
        if "mask" not in known:
            raise UserError(
                f"optimizer.weight_decay: optax.{config.optax_name} cannot spare norms and biases "
                "from it; set it to 0, or choose adamw"
            )
        options |= {"weight_decay": config.weight_decay, "mask": _decay_mask}
    elif "weight_decay" in known:
        options.setdefault("weight_decay", 0.0)
    transforms = [factory(schedule(config, steps), **options)]
    if config.clip_norm:
        transforms.insert(0, optax.clip_by_global_norm(config.clip_norm))
    if config.lr_multipliers:
        transforms.append(_scale_by_name(config.lr_multipliers))
    return optax.chain(*transforms)


def _decay_mask(params: dict[str, jax.Array]) -> dict[str, bool]:
    return {name: name.endswith(_DECAYED) for name in params}


def _scale_by_name(lr_multipliers) -> optax.GradientTransformation:
    def update(updates, params=None):
        del params
        return {name: u * multiplier(name, lr_multipliers) for name, u in updates.items()}

    return optax.stateless(update)
