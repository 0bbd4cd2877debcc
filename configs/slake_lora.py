"""PaliGemma learns from SLAKE's questions about radiographs, CT and MR, and finds organs.

    python -m medjax.train --config=configs/slake_lora.py \\
        --config.init=/weights/pt_224.npz --config.tokenizer=/weights/tokenizer.model \\
        --config.data.manual_dir=/data

/data/slake holds the dataset (https://www.med-vqa.com/slake): train.json, validate.json, test.json
and imgs/.

It needs `pip install -e '.[medical,eval]'`; other models and adapters follow a colon, as in
`slake_lora.py:paligemma-3b-448,attention`.

English questions alone: with Chinese ones beside them (--config.data.conditioning.languages='()')
images of one language's test part are in the other's training part.
"""

from medjax.recipes import medical_lora, source


def get_config(arg="paligemma-3b-224"):
    """The recipe; `arg` is a model and, after a comma, `attention` or `all`."""
    c = medical_lora("slake_lora", arg)
    c.text_length = c.data.conditioning.max_answer_tokens = 128
    c.data.conditioning.languages = ("en",)
    c.epochs = 10.0
    for part in ("train", "validation", "test"):
        c.data[part].slake = source("slake", part)
    c.evaluate.by = ("answer_type", "content_type", "modality", "location", "answer_length")
    c.decode.max_new_tokens = 32
    return c
