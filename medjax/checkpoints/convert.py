"""From one checkpoint format to another, streaming; `tools/convert.py` is its command line.

From big_vision, huggingface, medjax or peft to any of them. An adapter, which is the input, lies in
its folder or is given, is merged in float32, or written as one.
"""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

from medjax.checkpoints import (
    big_vision,
    hf_config,
    hf_processor,
    huggingface,
    model_folder,
    peft,
)
from medjax.checkpoints.adapters import Adapter, Base, check_base, merged
from medjax.checkpoints.hashes import remembered_hash
from medjax.checkpoints.tensors import DTYPES, Checkpoint, LazyArray
from medjax.cli import say
from medjax.errors import UserError
from medjax.models import config as model_config
from medjax.models import variants
from medjax.models.config import PaliGemmaConfig
from medjax.models.variants import PADDED_VOCAB_SIZE, VOCAB_SIZE

SOURCES = ("big_vision", "huggingface", "medjax", "peft")
TARGETS = ("huggingface", "big_vision", "medjax", "peft")


@dataclasses.dataclass(frozen=True)
class Request:
    """What to convert, and how.

    Attributes:
      source, target: one of SOURCES, one of TARGETS.
      input: an npz file (big_vision) or a folder.
      output: an npz file (big_vision) or a folder, which appears when it is complete.
      model_config: official name or JSON file; needed for big_vision, which does not say what model
        it is; of an input that does, it must be the model.
      dtype: of the written weights, a key of DTYPES; by default the source's.
      base: weights that `input`, an adapter alone, belongs to; by default those that it names.
      adapter: folder of a PEFT or medjax adapter.
      keep_adapter: write the adapter beside the base instead of merging it (to medjax only).
      other_base: merge an adapter even if it was trained on other weights than these.
      tokenizer: sentencepiece model file that belongs to the model; by default the source's own.
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
    named = variants.resolve(request.model_config) if request.model_config is not None else None
    if request.source == "medjax" and weights != request.input:
        checkpoint = open_any_model(weights, model_folder.read_config(request.input))
        tokenizer = request.input / model_folder.TOKENIZER
        if tokenizer.is_file():  # the adapter's own, whatever the base brings
            checkpoint = dataclasses.replace(checkpoint, tokenizer=tokenizer)
    elif request.source == "peft":
        checkpoint = open_any_model(weights, named)
    elif request.source == "big_vision":
        assert named is not None
        checkpoint = big_vision.open_npz(weights, named)
    elif request.source == "huggingface":
        checkpoint = huggingface.open_folder(weights)
    else:
        checkpoint = model_folder.open_model(weights)
    if named is not None:
        check_model(checkpoint, named, f"--model-config {request.model_config}")
    return checkpoint


def check_model(checkpoint: Checkpoint, named: PaliGemmaConfig, name: str) -> None:
    """Raises UserError if a checkpoint is not the named model, but for Gemma's padding."""
    found, wanted = _sizes(checkpoint.config), _sizes(named)
    different = [
        f"{key} is {found[key]}, not {wanted[key]}" for key in found if found[key] != wanted[key]
    ]
    if different:
        more = f", and {len(different) - 4} more" if len(different) > 4 else ""
        raise UserError(
            f"{name} is not the model of {checkpoint.where}, whose {', '.join(different[:4])}{more}"
        )


def _sizes(config: PaliGemmaConfig) -> dict[str, Any]:
    """What a model is made of, flat: "llm.width" -> 2048; vocabularies without padding."""
    rows = VOCAB_SIZE if config.llm.vocab_size == PADDED_VOCAB_SIZE else config.llm.vocab_size
    llm = dataclasses.replace(config.llm, vocab_size=rows)
    nested = model_config.to_dict(dataclasses.replace(config, llm=llm))
    towers = {
        f"{tower}.{key}": value for tower in ("img", "llm") for key, value in nested[tower].items()
    }
    return {"image_size": config.image_size, **towers}


def open_any_adapter(path: pathlib.Path) -> Adapter:
    """An adapter folder of PEFT or of medjax.

    Raises:
      UserError: it is neither.
    """
    if model_folder.has_adapter(path):
        return model_folder.open_adapter(path)
    if (path / peft.CONFIG).is_file():
        return peft.open_adapter(path)
    raise UserError(f"{path} holds neither {peft.CONFIG} (PEFT) nor {model_folder.LORA} (medjax)")


def open_any_model(path: pathlib.Path, config: PaliGemmaConfig | None = None) -> Checkpoint:
    """A model in whatever format it is: npz file, medjax folder or Hugging Face folder.

    Args:
      config: of the model, needed for an npz file.

    Raises:
      UserError: it is none of them.
    """
    if path.is_file() and path.suffix == ".npz":
        if config is None:
            raise UserError(
                f"{path} does not say what model it is; name it: model in a recipe, --model-config "
                "of convert.py"
            )
        return big_vision.open_npz(path, config)
    if is_huggingface(path):
        return huggingface.open_folder(path)
    if (path / model_folder.MODEL).is_file():
        return model_folder.open_model(path)
    raise UserError(f"{path} is no npz file, medjax folder or Hugging Face folder")


def is_huggingface(path: pathlib.Path) -> bool:
    """Whether a path is a Hugging Face folder and no medjax folder."""
    return (path / "config.json").is_file() and not (path / model_folder.MODEL).is_file()


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
    checkpoint, adapter = source.checkpoint, source.adapter
    if request.target == "peft" and adapter is None:
        raise UserError(f"{request.input} has no adapter to write; give one as --adapter")
    if request.target in ("huggingface", "peft"):
        hf_config.check(checkpoint.config)
    if request.keep_adapter and adapter is None:
        raise UserError(f"--keep-adapter: {request.input} has no adapter, and none is given")
    dtype = DTYPES[request.dtype] if request.dtype else None
    what = "none" if adapter is None else "merged"
    if request.target == "peft" or request.keep_adapter:
        what = "kept"
        result = checkpoint.astype(dtype)
    elif adapter is not None:
        result = merged(checkpoint, adapter, dtype)
    else:
        result = checkpoint.astype(dtype)
    if request.target == "huggingface":
        result = huggingface.padded(result)
    elif request.target == "big_vision":
        result = big_vision.unpadded(result)
    if tick is not None:
        result = _ticking(result, tick)
    try:
        _write(request, result, source)
    except OSError as error:
        raise UserError(
            f"output {request.output} cannot be written: {error}; nothing is left of it"
        ) from error
    count = sum(array.size for array in result.arrays.values())
    return {
        "from": request.source,
        "to": request.target,
        "input": str(request.input),
        "output": str(request.output),
        "parameters": count,
        "dtype": sorted({str(array.dtype) for array in result.arrays.values()}),
        "vocabulary_rows": result.config.llm.vocab_size,
        "adapter": what,
    }


def _ticking(checkpoint: Checkpoint, tick: Callable[[str], None]) -> Checkpoint:
    def wrap(name: str, array: LazyArray) -> LazyArray:
        def read():
            value = array.read()
            tick(name)
            return value

        return dataclasses.replace(array, read=read)

    arrays = {name: wrap(name, array) for name, array in checkpoint.arrays.items()}
    return dataclasses.replace(checkpoint, arrays=arrays)


def _write(request: Request, result: Checkpoint, source: Source) -> None:
    output, overwrite, adapter = request.output, request.overwrite, source.adapter
    if request.target == "big_vision":
        big_vision.write_npz(result, output, overwrite=overwrite)
    elif request.target == "huggingface":
        weights = source.weights
        own_tokenizer = result.tokenizer in (None, weights / hf_processor.SENTENCEPIECE)
        copy_from = weights if is_huggingface(weights) and own_tokenizer else None
        huggingface.write_folder(result, output, overwrite=overwrite, copy_from=copy_from)
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
            output, result.config, result, kept, tokenizer=result.tokenizer, overwrite=overwrite
        )
