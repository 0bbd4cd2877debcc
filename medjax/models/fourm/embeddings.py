"""How tokens of every modality become vectors of one width."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from medjax.errors import UserError
from medjax.modalities.table import Modality
from medjax.models.fourm.config import FourMConfig
from medjax.models.fourm.positions import fixed_positions
from medjax.models.layers import Dtype, Linear

# What pads the sequences of the original: its embedding is never trained by being read.
PAD = 0
_normal = nnx.initializers.normal(0.02)
_xavier = nnx.initializers.xavier_uniform()


class Embeddings(nnx.Module):
    """The embeddings of one side, encoder or decoder; parameters are kept by modality.

    embed_tokens: [V, D]. projection: of patches and embeddings. modality_embedding: [D];
    position_embedding: [n, D], of the modalities whose positions are learned.
    """

    def __init__(
        self,
        config: FourMConfig,
        names: Sequence[str],
        *,
        shared: Sequence[str] = (),
        dtype: Dtype = jnp.float32,
        param_dtype: Dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """names: the modalities of this side. shared: whose modality embedding the other has."""
        self.config = config
        chosen = [config.modality(name) for name in names]

        def param(*shape, axes):
            return nnx.Param(_normal(rngs.params(), shape, param_dtype), axes=axes)

        def project(modality: Modality) -> Linear:
            # The modality's embedding is bias enough to the pixels of a patch.
            return Linear(
                modality.features, width, axes=(None, "embed"), use_bias=not modality.is_image,
                dtype=dtype, param_dtype=param_dtype, init=_xavier, rngs=rngs,
            )  # fmt: skip

        width = config.width
        self.embed_tokens = nnx.Dict(
            {
                m.name: param(m.vocab_size, width, axes=("vocab", "embed"))
                for m in chosen
                if m.has_ids
            }
        )
        self.projection = nnx.Dict({m.name: project(m) for m in chosen if not m.has_ids})
        self.modality_embedding = nnx.Dict(
            {m.name: param(width, axes=("embed",)) for m in chosen if m.name not in shared}
        )
        self.position_embedding = nnx.Dict(
            {
                m.name: param(m.length, width, axes=(None, "embed"))
                for m in chosen
                if m.learned_positions
            }
        )

    def content(
        self,
        tokens: Int[Array, "B T"],
        positions: Int[Array, "B T"],
        mine: Mapping[str, Bool[Array, "B T"]],
        features: Mapping[str, Float[Array, "B n I"]],
    ) -> Float[Array, "B T D"]:
        """What the tokens are, float32; zero where they are of no modality in `mine`.

        Args:
          mine: which tokens are of a modality, for those to embed.
          features: patches and embeddings by modality, gathered by position.

        Raises:
          UserError: features that are missing or of the wrong width.
        """
        total = jnp.zeros((*tokens.shape, self.config.width), jnp.float32)
        for name, here in mine.items():
            modality = self.config.modality(name)
            if modality.has_ids:
                table = self.embed_tokens[name].get_value()
                rows = _rows(table, tokens, here)
                if not modality.is_image:
                    read = (tokens != PAD)[..., None]
                    rows = jnp.where(read, rows, jax.lax.stop_gradient(rows))
            else:
                rows = self.projection[name](_gathered(modality, features, positions, here))
                rows = jnp.where(here[..., None], rows, 0.0)
            total = total + rows.astype(jnp.float32)
        return total

    def place(
        self,
        positions: Int[Array, "B T"],
        mine: Mapping[str, Bool[Array, "B T"]],
        other: "Embeddings | None" = None,
    ) -> Float[Array, "B T D"]:
        """Where the tokens are and of what modality, float32; zero where they are of none.

        Args:
          mine: see `content`.
          other: the side that has the modality embeddings which this one shares.
        """
        table, first = self._fixed(tuple(mine))
        row = jnp.full(positions.shape, len(table), jnp.int32)
        total = jnp.zeros((*positions.shape, self.config.width), jnp.float32)
        for name, here in mine.items():
            modality = self.config.modality(name)
            owner = self if name in self.modality_embedding else other
            assert owner is not None
            embedding = owner.modality_embedding[name].get_value().astype(jnp.float32)
            total = total + jnp.where(here[..., None], embedding, 0.0)
            if modality.learned_positions:
                learned = self.position_embedding[name].get_value()
                total = total + _rows(learned, positions, here).astype(jnp.float32)
            else:
                start, rows = first[name]
                row = jnp.where(here, start + jnp.clip(positions, 0, rows - 1), row)
        return total + jnp.take(table, row, axis=0, mode="fill", fill_value=0)

    def _fixed(self, names: Sequence[str]) -> tuple[Array, dict[str, tuple[int, int]]]:
        """All fixed positions in one table, and where each modality's begin and how many it has."""
        tables: dict[tuple[bool, int], tuple[int, np.ndarray]] = {}
        first, length = {}, 0
        for name in names:
            modality = self.config.modality(name)
            if modality.learned_positions:
                continue
            rows = fixed_positions(modality, self.config.width)
            # Grids of the same size are the same, and so are sequences.
            start, _ = tables.setdefault((modality.is_image, len(rows)), (length, rows))
            length = max(length, start + len(rows))
            first[name] = start, len(rows)
        parts = [rows for _, rows in tables.values()]
        empty = np.zeros((0, self.config.width), np.float32)
        return jnp.asarray(np.concatenate([empty, *parts])), first


def _rows(table: Float[Array, "n D"], index: Int[Array, "B T"], here: Bool[Array, "B T"]):
    """Rows of a table where `here`, else zeros, which get no gradient."""
    beyond = jnp.where(here, index, table.shape[0])
    return jnp.take(table, beyond, axis=0, mode="fill", fill_value=0)


def _gathered(modality: Modality, features: Mapping, positions, here) -> Float[Array, "B T I"]:
    if modality.name not in features:
        raise UserError(f"the batch has no features of modality {modality.name!r}")
    values = features[modality.name]
    if values.ndim != 3 or values.shape[-1] != modality.features:
        raise UserError(
            f"features of modality {modality.name!r} have shape {tuple(values.shape)}; expected "
            f"[batch, tokens, {modality.features}]"
        )
    beyond = jnp.where(here, positions, values.shape[1])[..., None]
    return jnp.take_along_axis(values, beyond, axis=1, mode="fill", fill_value=0)
