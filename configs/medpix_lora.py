"""PaliGemma learns from MedPix 2.0: first what an image shows, then what a clinic asks.

    python -m medjax.train --config=configs/medpix_lora.py \\
        --config.init=/weights/pt_224.npz --config.tokenizer=/weights/tokenizer.model \\
        --config.data.manual_dir=/data

/data/medpix2 holds the dataset as its authors give it out (https://github.com/CHILab1/MedPix-2.0):
Case_topic.json, Descriptions.json, images/ and splitted_dataset/. Needs `pip install -e
'.[medical,eval]'`. Other models and adapters follow a colon:
`medpix_lora.py:paligemma-3b-448,attention` adapts the attention's layers alone.

What conditioning did is told beside the built dataset, in conditioning.html: questions that one
slice cannot answer, captions that say nothing or give the diagnosis away, names burned into images,
images that leak from one part of the data into another.
"""

from medjax.recipes import medical_lora, source


def get_config(arg="paligemma-3b-224"):
    """The recipe; `arg` is a model and, after a comma, `attention` or `all`."""
    c = medical_lora("medpix_lora", arg)
    # Questions of a table of one's own, such as tools/make_questions.py writes, come in with
    # --config.data.conditioning.question_tables=pairs.jsonl; their task is `table`.
    c.data.conditioning.templates = True
    # Passes over the questions of each phase. The alphabet is rehearsed beside the second.
    c.data.phases = (2.0, 8.0)
    c.data.train.alphabet = source("medpix2", "train", modes=("pre_training",))
    c.data.train.cases = source("medpix2", "train", modes=("alignment",), phase=1)
    c.data.train.rehearsal = source(
        "medpix2", "train", modes=("pre_training",), phase=1, weight=0.2
    )
    c.data.validation.medpix = source("medpix2", "validation")
    c.data.test.medpix = source("medpix2", "test")
    return c
