"""PaliGemma learns from PMC-VQA's multiple-choice questions about figures of papers.

    python -m medjax.train --config=configs/pmc_vqa_lora.py \\
        --config.init=/weights/pt_224.npz --config.tokenizer=/weights/tokenizer.model \\
        --config.data.manual_dir=/data

/data/pmc_vqa holds the dataset: train.csv, test.csv and the folder of figures, as the Hugging Face
hub has them (xmcmic/PMC-VQA).

It needs `pip install -e '.[medical,eval]'`; other models and adapters follow a colon, as in
`pmc_vqa_lora.py:paligemma-3b-448,attention`.

There is no validation part, so that the last weights are kept, not the best. Figures of an article
that the test part has too, and copies of its figures, are left out of training.
"""

from medjax.recipes import medical_lora, source


def get_config(arg="paligemma-3b-224"):
    """The recipe; `arg` is a model and, after a comma, `attention` or `all`."""
    c = medical_lora("pmc_vqa_lora", arg)
    c.data.conditioning.leaks = "drop"
    c.epochs = 2.0
    c.data.train.pmc_vqa = source("pmc_vqa", "train")
    c.data.test.pmc_vqa = source("pmc_vqa", "test")
    c.evaluate.by = ("answer_length",)
    c.evaluate.grounding = True
    c.decode.max_new_tokens = 32
    return c
