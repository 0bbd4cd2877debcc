"""PaliGemma learns from a folder of one's own DICOM studies.

    python -m medjax.train --config=configs/dicom_studies_lora.py \\
        --config.init=/weights/pt_224.npz --config.tokenizer=/weights/tokenizer.model \\
        --config.data.manual_dir=/data

/data/dicom_studies is a tree of DICOM files of any names; a labels.csv in it may hold questions of
one's own.

It needs `pip install -e '.[medical,eval]'`; other models and adapters follow a colon, as in
`dicom_studies_lora.py:paligemma-3b-448,attention`.

Without such a table, questions about modality, plane and body part are made of what the files'
headers say. Parts are made by patient; names, dates and numbers of patients are not copied.
"""

from medjax.recipes import medical_lora, source


def get_config(arg="paligemma-3b-224"):
    """The recipe; `arg` is a model and, after a comma, `attention` or `all`."""
    c = medical_lora("dicom_studies_lora", arg)
    c.data.conditioning.templates = True
    c.data.conditioning.split = "made"
    c.epochs = 5.0
    for part in ("train", "validation", "test"):
        c.data[part].studies = source("dicom_studies", part)
    c.evaluate.by = ("modality", "plane", "location", "answer_length")
    return c
