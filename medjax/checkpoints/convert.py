"""From one checkpoint format to another, streaming; `tools/convert.py` is its command line.

PaliGemma's from big_vision, huggingface, medjax or peft to any of them; 4M's from 4m (apple/ml-4m)
or medjax to either. An adapter, which is the input, lies in its folder or is given, is merged in
float32, or written as one.
"""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

from medjax.checkpoints import (
    big_vision,
    fourm,
    fourm_config,
    hf_config,
    hf_processor,
    huggingface,
    model_folder,
    peft,
    wordpiece_file,
)
from medjax.checkpoints.adapters import Adapter, Base, check_base, merged
from medjax.checkpoints.formats import (
    check_model,
    is_huggingface,
    named_model,
    open_any_adapter,
    open_any_model,
)
from medjax.checkpoints.hashes import remembered_hash
from medjax.checkpoints.tensors import DTYPES, Checkpoint, LazyArray
from medjax.cli import say
from medjax.errors import UserError
from medjax.models import families, variants
from medjax.models.fourm import FourMConfig

__all__ = [
    "SOURCES", "TARGETS", "Request", "Source", "check_model", "convert", "is_huggingface",
    "open_any_adapter", "open_any_model", "open_source", "result",
]  # fmt: skip

SOURCES = ("big_vision", "huggingface", "medjax", "peft", "4m")
TARGETS = ("huggingface", "big_vision", "medjax", "peft", "4m")
# The formats that know one family of models.
_FAMILIES = {
    "big_vision": families.PALIGEMMA, "huggingface": families.PALIGEMMA,
    "peft": families.PALIGEMMA, "4m": families.FOURM,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Request:
    """What to convert, and how.

    Attributes:
      source, target: one of SOURCES, one of TARGETS.
      input: an npz file (big_vision) or a folder.
      output: an npz file (big_vision) or a folder, which appears when it is complete.
      model_config: official name or JSON file; needed for big_vision, which does not say what model
        it is, and for 4m if modalities are not official; of an input that says it, it must be the
        model.
      dtype: of the written weights, a key of DTYPES; by default the source's.
      base: weights that `input`, an adapter alone, belongs to; by default those that it names.
      adapter: folder of a PEFT or medjax adapter.
      keep_adapter: write the adapter beside the base instead of merging it (to medjax only).
      other_base: merge an adapter even if it was trained on other weights than these.
      tokenizer: sentencepiece model file (of 4M: WordPiece file) that belongs to the model; by
        default the source's own.
      base_model: what a PEFT adapter names as its base.
      overwrite: whether an earlier result may be replaced.
    """

    source: str
    target: str
    input: pathlib.Path
    output: pathlib.Path
    model_config: str | None = None
    dtype: str | None = None
    base: pathlib.Path | None = None
    adapter: pathlib.Path | None = None
    keep_adapter: bool = False
    other_base: bool = False
    tokenizer: pathlib.Path | None = None
    base_model: str | None = None
    overwrite: bool = False

    def __post_init__(self):
        _one_of("--from", self.source, SOURCES)
        _one_of("--to", self.target, TARGETS)
        if self.dtype is not None:
            _one_of("--dtype", self.dtype, tuple(DTYPES))
        if self.source == "big_vision" and self.model_config is None:
            raise UserError(
                "a big_vision checkpoint does not say what model it is; give --model-config, a "
                f"JSON file or one of {', '.join(variants.VARIANTS)}"
            )
        if self.keep_adapter and self.target != "medjax":
            raise UserError("--keep-adapter goes with --to medjax; to PEFT's format, --to peft")
        if self.tokenizer is not None and not self.tokenizer.is_file():
            raise UserError(f"--tokenizer {self.tokenizer} is no file")


def _one_of(flag: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UserError(f"{flag} {value!r} is none of {', '.join(known)}")


@dataclasses.dataclass(frozen=True)
class Source:
    """What a request reads: a plain model, where its weights are, and its adapter, if any."""

    checkpoint: Checkpoint
    weights: pathlib.Path
    adapter: Adapter | None


def open_source(request: Request) -> Source:
    """Opens and checks everything that `request` reads.

    Raises:
      UserError: see the formats' own functions.
    """
    path = request.input
    adapter = None
    if request.source == "peft":
        adapter = peft.open_adapter(path)
    elif request.source == "medjax" and model_folder.has_adapter(path):
        adapter = model_folder.open_adapter(path)
    alone = adapter is not None and not model_folder.has_params(path)
    if request.base is not None and not alone:
        raise UserError(f"--base goes with an adapter alone; {path} is none")
    if adapter is not None and request.adapter is not None:
        raise UserError(f"{path} has an adapter already; --adapter cannot add another")
    weights = _base(request, adapter) if adapter is not None and alone else path
    checkpoint = _open_weights(request, weights)
    if request.adapter is not None:
        adapter = open_any_adapter(request.adapter)
    if adapter is not None:
        if (alone or request.adapter is not None) and not request.other_base:
            _check_base(adapter, weights)
        adapter.check(checkpoint.config)
    if request.tokenizer is not None:
        if isinstance(checkpoint.config, FourMConfig):
            wordpiece_file.check(checkpoint.config, request.tokenizer, checkpoint.where)
        else:
            hf_processor.fitting_tokenizer(checkpoint, request.tokenizer)
        checkpoint = dataclasses.replace(checkpoint, tokenizer=request.tokenizer)
    return Source(checkpoint, weights, adapter)


def _check_base(adapter: Adapter, weights: pathlib.Path) -> None:
    """Raises UserError if an adapter was trained on other weights; says so if nobody can tell."""
    if adapter.base is not None and adapter.base.sha256 is not None:
        check_base(adapter, remembered_hash(weights), str(weights))
        return
    named = "" if adapter.base is None else f", which it calls {adapter.base.path}"
    say(
        f"warning: {adapter.where} holds no hash of its base{named}; that {weights} is that base "
        "cannot be checked"
    )


def _base(request: Request, adapter: Adapter) -> pathlib.Path:
    """Where the weights of an adapter alone are."""
    base = request.base
    if base is None and adapter.base is not None:
        base = pathlib.Path(adapter.base.path)
    if base is None:
        raise UserError(f"{request.input} does not name its base; give it as --base")
    if request.base is not None and not base.exists():
        raise UserError(f"--base {base} does not exist")
    if not base.exists():
        raise UserError(
            f"{request.input} holds an adapter alone; its base {base} is not there. Put it back, "
            "or convert with --base, which says where it is now"
        )
    return base


def _open_weights(request: Request, weights: pathlib.Path) -> Checkpoint:
    """The model itself: of the format that the request says, or an adapter's base, of any."""
    named = named_model(request.model_config) if request.model_config is not None else None
    if request.source == "medjax" and weights != request.input:
        config = model_folder.read_config(request.input)
        checkpoint = open_any_model(weights, config)
        where = f"{weights}, the base of {request.input},"
        families.check(checkpoint.config, families.of(config), where)
        tokenizer = model_folder.own_tokenizer(request.input, config) or checkpoint.tokenizer
        # The adapter's own tokenizer and modalities, whatever the base brings.
        own = config if isinstance(config, FourMConfig) else checkpoint.config
        checkpoint = dataclasses.replace(checkpoint, config=own, tokenizer=tokenizer)
    elif request.source == "peft":
        checkpoint = open_any_model(weights, named)
    elif request.source == "big_vision":
        assert named is not None
        families.check(named, families.PALIGEMMA, f"--model-config {request.model_config}")
        checkpoint = big_vision.open_npz(weights, named)
    elif request.source == "huggingface":
        checkpoint = huggingface.open_folder(weights)
    elif request.source == "4m":
        if named is not None:
            families.check(named, families.FOURM, f"--model-config {request.model_config}")
        checkpoint = fourm.open_folder(weights, named)
    else:
        checkpoint = model_folder.open_model(weights)
    if request.source in _FAMILIES:
        where = f"--from {request.source}: {weights}"
        families.check(checkpoint.config, _FAMILIES[request.source], where)
    if named is not None and request.source != "4m":  # which is opened by it
        check_model(checkpoint, named, f"--model-config {request.model_config}")
    return checkpoint


def convert(
    request: Request, source: Source | None = None, tick: Callable[[str], None] | None = None
) -> dict:
    """Does what `request` says.

    Args:
      source: what `open_source(request)` gave, if it is open already.
      tick: called with the name of every array that has been read.

    Returns:
      What was done: formats, paths, number of parameters, dtype, vocabulary rows, adapter.

    Raises:
      UserError: nothing is written then.
    """
    source = source or open_source(request)
    _check_target(request, source)
    written = result(request, source)
    try:
        _write(request, written if tick is None else _ticking(written, tick), source)
    except OSError as error:
        raise UserError(
            f"output {request.output} cannot be written: {error}; nothing is left of it"
        ) from error
    config = written.config
    if isinstance(config, FourMConfig):
        vocabularies: dict[str, Any] = {"modalities": list(config.names)}
    else:
        vocabularies = {"vocabulary_rows": config.llm.vocab_size}
    what = "none" if source.adapter is None else "merged"
    return {
        "from": request.source,
        "to": request.target,
        "input": str(request.input),
        "output": str(request.output),
        "parameters": sum(array.size for array in written.arrays.values()),
        "dtype": sorted({str(array.dtype) for array in written.arrays.values()}),
        **vocabularies,
        "adapter": "kept" if _keeps_adapter(request) else what,
    }


def _check_target(request: Request, source: Source) -> None:
    """Raises UserError for what the target's format cannot say; says what its readers must know."""
    config, where = source.checkpoint.config, source.checkpoint.where
    if request.target in _FAMILIES:
        families.check(config, _FAMILIES[request.target], f"--to {request.target}: {where}")
    if source.adapter is None:
        if request.target == "peft":
            raise UserError(f"{request.input} has no adapter to write; give one as --adapter")
        if request.keep_adapter:
            raise UserError(f"--keep-adapter: {request.input} has no adapter, and none is given")
    if request.target in ("huggingface", "peft"):
        hf_config.check(config)
    if request.target == "4m" and (own := fourm_config.unofficial(config)):
        say(
            f"warning: {', '.join(own)}: not so in apple/ml-4m's table of modalities; the original "
            "reads this model once they are entered in its fourm/data/modality_info.py, and medjax "
            "with the present model.json as --model-config"
        )


def _keeps_adapter(request: Request) -> bool:
    return request.target == "peft" or request.keep_adapter


def result(request: Request, source: Source) -> Checkpoint:
    """The weights that `request` writes: the adapter merged unless it is kept, in their dtype."""
    dtype = DTYPES[request.dtype] if request.dtype else None
    checkpoint = source.checkpoint.astype(dtype)
    if source.adapter is not None and not _keeps_adapter(request):
        checkpoint = merged(source.checkpoint, source.adapter, dtype)
    if request.target == "huggingface":
        return huggingface.padded(checkpoint)
    if request.target == "big_vision":
        return big_vision.unpadded(checkpoint)
    return checkpoint


def _ticking(checkpoint: Checkpoint, tick: Callable[[str], None]) -> Checkpoint:
    def wrap(name: str, array: LazyArray) -> LazyArray:
        def read():
            value = array.read()
            tick(name)
            return value

        return dataclasses.replace(array, read=read)

    arrays = {name: wrap(name, array) for name, array in checkpoint.arrays.items()}
    return dataclasses.replace(checkpoint, arrays=arrays)


def _write(request: Request, written: Checkpoint, source: Source) -> None:
    output, overwrite, adapter = request.output, request.overwrite, source.adapter
    if request.target == "big_vision":
        big_vision.write_npz(written, output, overwrite=overwrite)
    elif request.target == "huggingface":
        weights = source.weights
        own_tokenizer = written.tokenizer in (None, weights / hf_processor.SENTENCEPIECE)
        copy_from = weights if is_huggingface(weights) and own_tokenizer else None
        huggingface.write_folder(written, output, overwrite=overwrite, copy_from=copy_from)
    elif request.target == "4m":
        fourm.write_folder(written, output, overwrite=overwrite)
    elif request.target == "peft":
        assert adapter is not None
        base = Base(request.base_model) if request.base_model else None
        peft.write_adapter(adapter, output, base=base, overwrite=overwrite)
    else:
        kept = adapter if request.keep_adapter else None
        if kept is not None and kept.base is None:
            base = Base(str(source.weights.absolute()), remembered_hash(source.weights))
            kept = dataclasses.replace(kept, base=base)
        model_folder.write_folder(
            output, written.config, written, kept, tokenizer=written.tokenizer, overwrite=overwrite
        )
