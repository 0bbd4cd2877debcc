"""What the recipes of medical datasets have in common; imports nothing but ml_collections."""

from ml_collections import ConfigDict

_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
_ALL = (*_ATTENTION, "gate_proj", "up_proj", "down_proj")
TARGETS = {"attention": _ATTENTION, "all": _ALL}


def source(dataset: str, split: str, **keys) -> ConfigDict:
    """A part of a medical dataset; `keys` are `tasks`, `modes`, `weight`, `phase`, ..."""
    return ConfigDict(dict(source=dataset, split=split, **keys))


def medical_lora(name: str, arg: str) -> ConfigDict:
    """LoRA on PaliGemma for questions about medical images, without data yet.

    Args:
      name: of the recipe.
      arg: a model of the family and, after a comma, which linear layers are adapted ("attention"
        or "all"), such as "paligemma-3b-448,attention".

    Raises:
      ValueError: `arg` is no such thing.
    """
    model, _, targets = arg.partition(",")
    _, _, size = model.rpartition("-")
    if not size.isdigit() or targets not in ("", *TARGETS):
        raise ValueError(
            f"{arg!r} is no model with its image size and, after a comma, attention or all, such "
            "as paligemma-3b-224,attention"
        )
    c = ConfigDict()
    c.name = name
    c.model, c.init, c.tokenizer = model, "", ""
    c.image_size = int(size)
    c.text_length = 256
    # A step is four examples, computed one at a time: what fits into 16 GB.
    c.batch_size, c.accumulation = 4, 4
    c.remat = "full"
    c.lora = ConfigDict(dict(rank=8, alpha=32.0, targets=TARGETS[targets or "all"]))
    c.optimizer = ConfigDict(dict(learning_rate=1e-5, schedule="constant", warmup_steps=2))
    c.data = ConfigDict(dict(manual_dir="", train={}, validation={}, test={}))
    c.data.conditioning = ConfigDict(dict(max_answer_tokens=c.text_length))
    c.log_every, c.eval_every, c.checkpoint_every = 10, 200, 200
    c.restore_best = True
    c.decode = ConfigDict(dict(max_new_tokens=128))
    # One patient's images are much alike: intervals are over patients.
    c.evaluate = ConfigDict(
        dict(
            group="patient",
            metrics=("basic", "vqa", "text", "degeneration"),
            by=("modality", "plane", "location", "seen", "answer_length"),
            grounding=True,
            every_stage=False,
        )
    )
    c.export = ConfigDict(dict(huggingface=True, verify=False))
    return c
