"""4M learns one's own images, masks, reports and findings: any of them from any others.

    python -m medjax.train --config=configs/fourm.py \\
        --config.data.train.own.source=train.jsonl \\
        --config.data.validation.own.source=validation.jsonl \\
        --config.data.test.own.source=test.jsonl

Each line of the data is a JSON object with a value for each modality that is asked for:

    {"id": "7", "image": "7.png", "mask": "7-mask.png", "report": "a fracture of the radius",
     "findings": [{"box": [0.1, 0.2, 0.5, 0.6], "label": "fracture"}]}

image: a file that Pillow reads, DICOM, or NIfTI with "axis" and "slice" beside it. mask: an indexed
or grey PNG, or NIfTI, whose values are the classes (255: not known). Boxes are y1, x1, y2, x2 in
parts of the image's height and width. Paths start from the file's own folder, or from image_root.

First two tokenizers are trained, of images and of masks, then one model on what they and the texts
say. Its size is an official one, named after a colon (models/fourm/variants.py has all), as in
`--config=configs/fourm.py:fm_base_12e_12d_swiglu_nobias`. After training:

    python -m medjax.generate --workdir=runs/fourm --given image=new.png --make tok_mask

To adapt such a model to other data by adapters beside its frozen weights, name it and its
tokenizers; its modalities are what it reads and predicts:

    python -m medjax.train --config=configs/fourm.py:lora --config.name=fourm_lora \\
        --config.stages.fourm.init=runs/fourm/fourm/model \\
        --config.stages.fourm.tokenizers.tok_image=runs/fourm/image_tokenizer/model \\
        --config.stages.fourm.tokenizers.tok_mask=runs/fourm/mask_tokenizer/model \\
        --config.data.train.own.source=train.jsonl
"""

from ml_collections import ConfigDict

# What is read and what is predicted. Leave out what the data do not have.
INPUTS = ("image", "tok_image", "tok_mask", "report", "findings")
TARGETS = ("tok_image", "tok_mask", "report", "findings")
CLASSES = ("other", "finding")  # of masks, from 0 on
SIDE, PATCH = 224, 16  # pixels; 196 tokens an image
IMAGE_IDS, MASK_IDS = 1024, 512
MAKERS = {"tok_image": "image_tokenizer", "tok_mask": "mask_tokenizer"}
LORA = "lora"


def _modalities():
    """What there is. Another modality is another entry, made of a key of the data's lines."""
    grid = dict(image_size=SIDE, patch_size=PATCH)
    text = dict(kind="sequence", vocab_size=30_000)
    return ConfigDict(
        dict(
            # Pixels, which the model reads but cannot make; for that there are tokens of them.
            image=dict(kind="patches", channels=3, content="image", **grid),
            tok_image=dict(
                kind="image_tokens", vocab_size=IMAGE_IDS, content="image", source="image", **grid
            ),
            tok_mask=dict(
                kind="image_tokens", vocab_size=MASK_IDS, content="labels", source="mask",
                classes=CLASSES, **grid,
            ),
            report=dict(content="text", max_length=128, **text),
            findings=dict(content="boxes", max_length=64, **text),
        )
    )  # fmt: skip


def _training_data():
    """Sources, of which each batch draws one. Those without a path are left out.

    The values of a source's lines are those of its modalities; none named are all that there are.
    """
    own = ConfigDict(dict(source="", image_root="", weight=1.0, modalities=()))
    # How a sample is divided into what is read and what is predicted: each modality's share of the
    # tokens is drawn from a Dirichlet distribution with these alphas. Small ones make it all or
    # nothing, 0 leaves it out. A list has one number for each component of the mixture, or one for
    # all: here every other sample is read from its pixels alone, as most will be asked.
    own.mixture = (1.0, 1.0)
    own.input_alphas = ConfigDict({n: (0.5, 1.0 if n == "image" else 0.0) for n in INPUTS})
    own.target_alphas = ConfigDict({n: (0.5, 0.0 if n == "tok_image" else 1.0) for n in TARGETS})
    # Images of which nothing else is known, and reports without an image. A batch of reports has
    # room for fewer tokens.
    images = ConfigDict(
        dict(source="", image_root="", weight=0.5, modalities=("image", "tok_image"))
    )
    texts = ConfigDict(dict(source="", weight=0.1, modalities=("report",)))
    texts.input_tokens = (8, 64)
    texts.target_tokens = (64, 64)
    return ConfigDict(dict(own=own, images=images, texts=texts))


def _tokenizer(modality):
    masks = modality == "tok_mask"  # easier than images
    width, depth, num_codes = (256, 4, MASK_IDS) if masks else (384, 6, IMAGE_IDS)
    network = dict(type="vit", width=width, depth=depth, num_heads=width // 64)
    c = ConfigDict(dict(kind="tokenizer", modality=modality, restore_best=True))
    # Tokens are the nearest of num_codes vectors. Without a codebook, and about as many ids:
    # quantizer=dict(type="fsq", levels=(8, 8, 4, 4)).
    c.tokenizer = ConfigDict(
        dict(
            encoder=network, decoder=network,
            quantizer=dict(type="vq", num_codes=num_codes, code_width=32),
        )
    )  # fmt: skip
    c.optimizer = ConfigDict(dict(learning_rate=5e-4, warmup_steps=500, clip_norm=1.0))
    c.steps = 20_000
    c.eval_every = 2000
    return c


def _fourm():
    c = ConfigDict(dict(kind="fourm"))
    # Who makes the tokens of which modality: a stage, or the folder of a trained tokenizer.
    c.tokenizers = ConfigDict({name: "" for name in MAKERS if name in (*INPUTS, *TARGETS)})
    # Tokens of a sample that are read and that are predicted, least and greatest; the first is
    # drawn for each sample. At least as many as are given at once later.
    c.masking = ConfigDict(dict(input_tokens=(32, 256), target_tokens=(128, 128)))
    c.optimizer = ConfigDict(
        dict(learning_rate=5e-4, weight_decay=0.05, warmup_steps=1000, clip_norm=1.0)
    )
    c.optimizer.options = ConfigDict(dict(b2=0.95))
    c.eval_every = 2000
    return c


def get_config(arg="fm_tiny_6e_6d_swiglu_nobias"):
    """The recipe for an official size of 4M from scratch, or for adapters ("lora")."""
    c = ConfigDict()
    c.name = "fourm"
    c.family = "fourm"
    c.modalities = _modalities()
    # Samples to a step, on all devices together. If memory is short, set accumulation to 2 or 4.
    c.batch_size = 64
    c.accumulation = 1
    c.data = ConfigDict(
        dict(
            train=_training_data(),
            validation=dict(own=dict(source="", image_root="")),
            test=dict(own=dict(source="", image_root="")),
            # Random variations of what is trained on; masks and boxes move with their image.
            augment=dict(shift=0.1, zoom=0.1, turn=0.1, contrast=0.1, gamma=0.1, noise=0.01),
        )
    )
    c.log_every = 50
    c.checkpoint_every = 1000
    # How results are made, at the end of a run and by medjax.generate. Guidance above 1 is truer to
    # what is given and less varied; it asks the model twice. If a patient has several images, set
    # group to the key of the data's lines that names the patient.
    c.evaluate = ConfigDict(
        dict(scheme="roar", num_steps=16, temperature=0.0, guidance=1.0, group="")
    )
    c.evaluate.directions = ()  # such as ("image -> tok_mask", "image,report -> findings")

    c.stages = ConfigDict(dict(fourm=_fourm()))
    m = c.stages.fourm
    if arg == LORA:
        m.init = ""  # the model's folder of a run of this recipe
        # Width of the adapters, whose output is multiplied by alpha / rank. (Models of style gelu
        # have no gate_proj: there lora.targets must name the other layers.)
        m.lora = ConfigDict(dict(rank=8, alpha=16.0))
        m.optimizer.learning_rate = 1e-4
        m.optimizer.warmup_steps = 50
        m.steps = 2000
        m.eval_every = 200
        m.restore_best = True
        return c
    m.model, m.inputs, m.targets = arg, INPUTS, TARGETS
    m.steps = 50_000
    # What is kept is the weights' moving average over about 1 / (1 - average_decay) steps.
    m.average_decay = 0.999
    for name in m.tokenizers:
        m.tokenizers[name] = MAKERS[name]
        c.stages[MAKERS[name]] = _tokenizer(name)
    c.stage_order = (*m.tokenizers.values(), "fourm")
    return c
