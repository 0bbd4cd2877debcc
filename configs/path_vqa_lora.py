"""PaliGemma learns from PathVQA's questions about pathology images.

    python -m medjax.train --config=configs/path_vqa_lora.py \\
        --config.init=/weights/pt_224.npz --config.tokenizer=/weights/tokenizer.model \\
        --config.data.manual_dir=/data

/data/path_vqa holds the dataset's parquet files, as the Hugging Face hub has them
(flaviagiammarino/path-vqa).

It needs `pip install -e '.[medical,eval]'`; other models and adapters follow a colon, as in
`path_vqa_lora.py:paligemma-3b-448,attention`.

Nobody says which patient an image is of: what depends on one another is the image.
"""

from medjax.recipes import medical_lora, source


def get_config(arg="paligemma-3b-224"):
    """The recipe; `arg` is a model and, after a comma, `attention` or `all`."""
    c = medical_lora("path_vqa_lora", arg)
    c.text_length = c.data.conditioning.max_answer_tokens = 128
    c.epochs = 5.0
    for part in ("train", "validation", "test"):
        c.data[part].path_vqa = source("path_vqa", part)
    c.evaluate.by = ("answer_type", "answer_length")
    c.decode.max_new_tokens = 32
    return c
