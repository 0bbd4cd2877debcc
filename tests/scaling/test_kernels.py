"""The config's choice of kernels: it reaches the models, and one that cannot run is told of."""

import jax
import jax.numpy as jnp
import pytest
from medjax_kernels import assume, selection

from medjax import config as config_lib
from medjax.errors import UserError
from medjax.scaling import kernels

WIDTHS = {"attention": (72, 256), "cross_entropy": (2048,)}


def config(**chosen):
    result = config_lib.defaults()
    result.kernels.update(chosen)
    return result


def test_models_use_what_the_config_names(monkeypatch):
    seen = []
    choose = selection.choose

    def spy(operation, *args, **kwargs):
        seen.append((operation, choose(operation, *args, **kwargs)))
        return seen[-1][1]

    monkeypatch.setattr(selection, "choose", spy)
    from medjax_kernels import attention, cross_entropy

    x = jnp.zeros((1, 3, 2, 4))
    with kernels.using(config(attention="reference")):
        jax.eval_shape(lambda: attention(x, x, x))
        jax.eval_shape(
            lambda: cross_entropy(x[0, :, 0], x[0, :, 1], jnp.zeros(3, jnp.int32), jnp.ones(3))
        )
    assert seen == [("attention", "reference"), ("cross_entropy", "xla")]


@pytest.mark.parametrize(
    ("device", "chosen", "dtype"),
    [
        (("cpu",), {}, "float32"),
        (("gpu", (7, 0)), {}, "float16"),
        (("gpu", (8, 0)), {"attention": "pallas_triton", "cross_entropy": "xla"}, "bfloat16"),
    ],
)
def test_what_can_run_passes(device, chosen, dtype):
    with assume(*device):
        kernels.check(config(**chosen), WIDTHS, jnp.dtype(dtype))


def test_what_cannot_run_is_told_of_with_its_key():
    with assume("gpu", (7, 0)):
        for operation in WIDTHS:
            with pytest.raises(UserError, match=rf"kernels.{operation}.*7\.0; xla or reference"):
                kernels.check(config(**{operation: "pallas_triton"}), WIDTHS, jnp.dtype("float16"))


def test_unknown_implementation():
    with pytest.raises(UserError, match=r"kernels\.attention is 'fast', none of auto, reference"):
        config_lib.override(config(), ["--config.kernels.attention=fast"])
