"""PaliGemma learns from VQA-RAD's questions about radiographs, CT and MR.

    python -m medjax.train --config=configs/vqa_rad_lora.py \\
        --config.init=/weights/pt_224.npz --config.tokenizer=/weights/tokenizer.model \\
        --config.data.manual_dir=/data

/data/vqa_rad holds the dataset: its JSON file and images (https://osf.io/89kps), or the parquet
files of the Hugging Face hub.

It needs `pip install -e '.[medical,eval]'`; other models and adapters follow a colon, as in
`vqa_rad_lora.py:paligemma-3b-448,attention`.

The published parts share images: an image's other questions are in training. So the parts are made
anew here, by image. For the field's own, which flatters, add
--config.data.conditioning.split=published --config.data.conditioning.leaks=warn. The Hub's files do
not say of what type a question is, or what an image shows: with them, add
--config.evaluate.by='("answer_type", "answer_length")'.
"""

from medjax.recipes import medical_lora, source


def get_config(arg="paligemma-3b-224"):
    """The recipe; `arg` is a model and, after a comma, `attention` or `all`."""
    c = medical_lora("vqa_rad_lora", arg)
    c.text_length = c.data.conditioning.max_answer_tokens = 128
    c.data.conditioning.split = "made"
    c.epochs = 20.0
    for part in ("train", "validation", "test"):
        c.data[part].vqa_rad = source("vqa_rad", part)
    c.evaluate.by = ("answer_type", "question_type", "location", "phrase_type", "answer_length")
    c.decode.max_new_tokens = 32
    return c
