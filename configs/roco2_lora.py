"""PaliGemma learns to caption radiology images from ROCO v2.

    python -m medjax.train --config=configs/roco2_lora.py \\
        --config.init=/weights/pt_224.npz --config.tokenizer=/weights/tokenizer.model \\
        --config.data.manual_dir=/data

/data/roco2 holds the dataset (https://zenodo.org/records/10821435): the folders of images, their
captions and their concepts.

It needs `pip install -e '.[medical,eval]'`; other models and adapters follow a colon, as in
`roco2_lora.py:paligemma-3b-448,attention`.

Images of an article that a later part has too, and copies of its images, are left out of training
and validation.
"""

from medjax.recipes import medical_lora, source


def get_config(arg="paligemma-3b-224"):
    """The recipe; `arg` is a model and, after a comma, `attention` or `all`."""
    c = medical_lora("roco2_lora", arg)
    c.data.conditioning.leaks = "drop"
    c.epochs = 3.0
    for part in ("train", "validation", "test"):
        c.data[part].roco2 = source("roco2", part)
    c.evaluate.by = ("modality", "answer_length")
    return c
