"""The one masking function, and its packing on its own."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key

from medjax_kernels import selection
from medjax_kernels.masking import draws, pallas_triton, reference, xla
from medjax_kernels.masking.packed import Masked, Part
from medjax_kernels.masking.scheme import KINDS, MaskingScheme, Modality

# The width is the number of tokens of all modalities: a program of the kernel holds one of them.
_INT = ("int32",)
SUPPORT = {
    "pallas_triton": selection.Support((8, 0), dtypes=_INT, widths=(1, 2**14), auto=_INT),
    "xla": selection.Support(dtypes=_INT, auto=_INT),
    "reference": selection.Support(dtypes=_INT, auto=_INT),
}
PACK_SUPPORT = {name: SUPPORT[name] for name in ("xla", "reference")}


def masking(
    scheme: MaskingScheme,
    tokens: Mapping[str, Int[Array, "B n"]],
    lengths: Mapping[str, Int[Array, "B"]],
    keys: Key[Array, "B"],
    *,
    chunks: Mapping[str, Int[Array, "B n"]] | None = None,
    implementation: str = "auto",
) -> Masked:
    """Draws what of each sample is input and what is target, and packs both to fixed lengths.

    The rules are those of 4M (arXiv:2312.06647, apple/ml-4m: fourm/data/masking.py). A component of
    the mixture gives each modality a budget of input and of target tokens. Of an image, random
    tokens of these numbers are taken, each of them input or target. Of a sequence, spans are
    masked: the input has a sentinel in the place of each, the target lists each sentinel with its
    span, and ends with one more. While the input is over its budget, it is drawn again with fewer
    tokens kept. A target over its budget loses the spans before one that is drawn, and what is then
    beyond the budget: such a sequence cannot be put together again from input and target.

    A sample's key alone decides about it: neither the batch nor the number of devices matters, and
    all implementations give the same integers. There is nothing to differentiate.

    Args:
      scheme: modalities and mixture.
      tokens: int32 ids by modality. An image has its `max_tokens`, a sequence at most these; what
        ends a sequence (EOS) is a token like any other. An image whose content is not tokens
        (patches) is left out: its packed positions say which to gather.
      lengths: how many of a sample's tokens there are, by modality: of every sequence; of an image
        only if there may be less than all (0: the sample does not have it).
      keys: one typed key for each sample, of any implementation of jax's. With others than
        threefry, samples are drawn one after the other.
      chunks: by sequence whose chunks are masked as a whole (detected objects): the index of each
        token's chunk, in ascending order, less than n.
      implementation: "reference" (plain), "xla" (all samples at once), "pallas_triton" (one program
        for each sample, for GPUs from compute capability 8.0), or "auto".

    Returns:
      Packed input and target, int32, and how many tokens each modality gave.

    Raises:
      ValueError: arrays that do not fit the scheme or each other, an unknown implementation, or one
        that cannot run here.
    """
    names = [m.name for m in scheme.modalities]
    chunks = {} if chunks is None else chunks
    sequences = [m.name for m in scheme.modalities if m.kind == "sequence"]
    _check_names("tokens", tokens, sequences, names)
    _check_names("lengths", lengths, sequences, names)
    _check_names("chunks", chunks, [], sequences)
    if keys.ndim != 1 or not jnp.issubdtype(keys.dtype, jax.dtypes.prng_key):
        raise ValueError(f"keys are {keys.dtype}{list(keys.shape)}, not typed keys [batch]")
    batch = keys.shape[0]
    for modality in scheme.modalities:
        _check_arrays(modality, batch, tokens, lengths, chunks)
    widths = {
        m.name: tokens[m.name].shape[1] if m.name in tokens else m.max_tokens
        for m in scheme.modalities
    }
    lengths = {
        name: jnp.clip(lengths[name], 0, widths[name])
        if name in lengths
        else jnp.full(batch, widths[name], jnp.int32)
        for name in names
    }
    chosen = selection.choose(
        "masking", implementation, SUPPORT, dtype=jnp.dtype("int32"), width=sum(widths.values())
    )
    drawn = draws.draw(scheme, widths, lengths, chunks, keys)
    functions = {"pallas_triton": pallas_triton, "xla": xla, "reference": reference}
    if batch == 0:
        chosen = "reference"  # a kernel needs a program
    return functions[chosen].masking(scheme, dict(tokens), lengths, drawn)


def pack(
    parts: Sequence[Part],
    encoder_length: int,
    decoder_length: int,
    *,
    order: Int[Array, "B M"] | None = None,
    pad: int = 0,
    implementation: str = "auto",
) -> Masked:
    """Packs what is input and what is target, as 4M does, for masks that were made elsewhere.

    The encoder gets all input tokens in the order of the parts. The decoder gets an image's target
    tokens as they are; of a sequence's, it reads all but the last and predicts all but the first.
    What does not fit is cut off at the end (apple/ml-4m, fourm/models/fm.py:
    forward_mask_encoder, forward_mask_decoder).

    Args:
      parts: one for each modality, arrays [B, n]; the index becomes the modality's id. A token of a
        sequence is input or target or neither: both stand in one array, each in its order.
      encoder_length: of the packed input.
      decoder_length: of the packed target.
      order: each modality's place in the decoder; that of the parts if None.
      pad: id that fills what is not valid.
      implementation: "reference" (sorts), "xla" (bisects), or "auto".

    Raises:
      ValueError: parts that do not fit, an unknown implementation, or one that cannot run here.
    """
    for i, part in enumerate(parts):
        found = {jnp.shape(x) for x in part[1:] if x is not None}
        if part.kind not in KINDS or len(found) != 1 or len(next(iter(found))) != 2:
            raise ValueError(
                f"part {i} of kind {part.kind!r} has shapes {sorted(found)}: expected one of "
                f"{', '.join(KINDS)}, and one shape [batch, n]"
            )
    shapes = [part.input_kept.shape for part in parts]
    if not parts or len({shape[0] for shape in shapes}) != 1:
        raise ValueError(f"parts of shapes {shapes} do not share one batch")
    chosen = selection.choose(
        "masking_pack",
        implementation,
        PACK_SUPPORT,
        dtype=jnp.dtype("int32"),
        width=sum(shape[1] for shape in shapes),
    )
    if order is None:
        order = jnp.broadcast_to(jnp.arange(len(parts)), (shapes[0][0], len(parts)))
    function = {"xla": xla, "reference": reference}[chosen].pack
    return function(parts, encoder_length, decoder_length, order, pad)


def _check_names(what: str, given: Mapping, needed: list[str], known: list[str]) -> None:
    unknown, absent = sorted(set(given) - set(known)), sorted(set(needed) - set(given))
    if unknown:
        raise ValueError(f"{what} of {', '.join(unknown)}: known are {', '.join(known)}")
    if absent:
        raise ValueError(f"{what} of {', '.join(absent)} are missing")


def _check_arrays(modality: Modality, batch: int, tokens, lengths, chunks) -> None:
    name = modality.name
    if name in tokens:
        array = tokens[name]
        fits = array.ndim == 2 and array.shape[0] == batch and array.dtype == jnp.int32
        exact = modality.kind == "image"
        most = modality.max_tokens
        if not fits or (array.shape[1] != most if exact else not 1 <= array.shape[1] <= most):
            raise ValueError(
                f"tokens of {name!r} are {array.dtype}{list(array.shape)}, expected "
                f"int32[{batch}, {'' if exact else 'at most '}{most}]"
            )
        if name in chunks and chunks[name].shape != array.shape:
            raise ValueError(
                f"chunks of {name!r} have shape {chunks[name].shape}, its tokens {array.shape}"
            )
    if name in lengths and jnp.shape(lengths[name]) != (batch,):
        raise ValueError(
            f"lengths of {name!r} have shape {jnp.shape(lengths[name])}, not {(batch,)}"
        )
