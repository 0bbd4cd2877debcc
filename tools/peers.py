"""What other systems compute from a checkpoint, for `convert.py --verify`; needs torch."""

import importlib.util
import pathlib
from collections.abc import Sequence

import numpy as np

from medjax.checkpoints.probe import Probe


def missing(names: Sequence[str]) -> list[str]:
    """The packages of these that are not installed."""
    return [name for name in names if importlib.util.find_spec(name) is None]


def huggingface_logits(
    folder: pathlib.Path, probe: Probe, adapter: pathlib.Path | None = None
) -> np.ndarray:
    """transformers' float32 logits at the text's positions, [B, T, V].

    Args:
      folder: a Hugging Face folder; every key in it must be used and every weight be found.
      adapter: a PEFT folder to put on it.
    """
    import torch
    from transformers import PaliGemmaForConditionalGeneration

    model, info = PaliGemmaForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    wrong = {key: sorted(value) for key, value in info.items() if value}
    if wrong:
        raise RuntimeError(f"transformers does not load {folder} exactly: {wrong}")
    image_id = model.config.image_token_id
    patches = model.config.text_config.num_image_tokens
    if adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(adapter))
    rows = len(probe.tokens)
    tokens = np.concatenate([np.full((rows, patches), image_id), probe.tokens], axis=1)
    causal = np.cumsum(probe.mask_ar, axis=1) > 0
    kinds = np.concatenate([np.zeros((rows, patches)), causal], axis=1)
    with torch.inference_mode():
        out = model.eval()(
            input_ids=torch.tensor(tokens, dtype=torch.long),
            pixel_values=torch.tensor(probe.image.transpose(0, 3, 1, 2)),
            token_type_ids=torch.tensor(kinds, dtype=torch.long),  # 0 prefix, 1 suffix
        )
    return out.logits[:, patches:].numpy()
