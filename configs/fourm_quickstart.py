"""A tiny 4M learns brain MRI in every direction, from scratch, on a laptop.

Two tokenizers come first, one of T1 slices and one of masks of grey and white matter; then one
model learns to make any of image, mask, caption and boxes of any of the others. The data are made
from the MRI template that the nilearn package carries.
"""

from ml_collections import ConfigDict

SIDE, PATCH = 48, 4  # pixels: 12 x 12 tokens an image
CODES = 256
PICTURES = ("t1", "tok_t1", "tok_tissue")
TEXTS = ("caption", "det")

# What is read and predicted has three cases: a little of everything, the T1 slice alone, the mask
# alone. A number is a modality's weight in each; 0 leaves it out.
CASES = (0.25, 0.45, 0.3)
READ = dict(
    t1=(1.0, 10.0, 0.0), tok_t1=(1.0, 0.0, 0.0), tok_tissue=(1.0, 0.0, 10.0),
    caption=(1.0, 0.0, 0.0), det=(1.0, 0.0, 0.0),
)  # fmt: skip
PREDICTED = dict(
    tok_t1=(1.0, 0.5, 1.5), tok_tissue=(1.0, 3.0, 0.0),
    caption=(1.0, 0.5, 0.5), det=(1.0, 0.5, 0.5),
)  # fmt: skip


def _mri(split, modalities=(), **more):
    return ConfigDict(dict(source="mni152", split=split, modalities=modalities, **more))


def _masked(split, names):
    """Slices with some modalities, masked in the three cases."""
    alphas = dict(
        input_alphas={name: READ[name] for name in names},
        target_alphas={name: PREDICTED[name] for name in names if name in PREDICTED},
    )
    return _mri(split, names, mixture=CASES, **alphas)


def _tokenizer(modality):
    network = dict(type="vit", width=64, depth=1, num_heads=4)
    quantizer = dict(type="vq", num_codes=CODES, code_width=16, decay=0.95)
    c = ConfigDict(dict(kind="tokenizer", modality=modality, restore_best=True))
    c.tokenizer = dict(encoder=network, decoder=network, quantizer=quantizer)
    c.data = ConfigDict(
        dict(train=dict(mri=_mri("train")), validation=dict(mri=_mri("validation")))
    )
    c.steps = 800
    c.eval_every = 200
    c.optimizer = ConfigDict(dict(learning_rate=3e-3, warmup_steps=50))
    return c


def get_config():
    c = ConfigDict()
    c.name = "fourm_quickstart"
    c.family = "fourm"
    image = dict(image_size=SIDE, patch_size=PATCH)
    tokens = dict(kind="image_tokens", vocab_size=CODES, **image)
    c.modalities = ConfigDict(
        dict(
            t1=dict(kind="patches", channels=1, content="image", **image),
            tok_t1=dict(content="image", source="t1", **tokens),
            tok_tissue=dict(
                content="labels", source="tissue", classes=("other", "grey matter", "white matter"),
                **tokens,
            ),
            caption=dict(max_length=32),
            det=dict(max_length=24),
        )
    )  # fmt: skip
    c.wordpiece_vocab_size = 2048
    c.wordpiece_sentinels = 20
    c.wordpiece_bins = 64
    c.batch_size = 16
    c.log_every = 100
    # 189 slices are few: moved, zoomed, turned and toned they teach what a slice is, not which.
    augment = dict(shift=0.15, zoom=0.15, turn=0.1, contrast=0.2, gamma=0.2, noise=0.02)
    c.data = ConfigDict(dict(test=dict(mri=_mri("test")), augment=augment))
    c.evaluate = ConfigDict(
        dict(
            group="slab",  # neighbouring slices are much alike
            directions=(
                "t1 -> tok_tissue", "t1 -> caption", "t1 -> det",
                "tok_tissue -> tok_t1", "tok_tissue -> caption", "tok_tissue -> det",
                "caption -> tok_t1", "caption -> tok_tissue",
                "det -> tok_t1", "det -> tok_tissue",
            ),
        )
    )  # fmt: skip
    c.stages = ConfigDict()
    c.stage_order = ("t1_tokenizer", "tissue_tokenizer", "fourm")
    c.stages.t1_tokenizer = _tokenizer("tok_t1")
    c.stages.t1_tokenizer.tokenizer.channels = 1
    c.stages.tissue_tokenizer = _tokenizer("tok_tissue")

    m = c.stages.fourm = ConfigDict(dict(kind="fourm"))
    # Attention that finds the patch at a token's own place is what has to be learned first. Norms
    # of queries and keys (qk_norm) keep it from becoming sharp within so few steps.
    m.model = ConfigDict(
        dict(
            width=96, encoder_depth=3, decoder_depth=3, num_heads=4, gated=True, activation="silu",
            qkv_bias=False, proj_bias=False, mlp_bias=False, norm_bias=False,
        )
    )  # fmt: skip
    m.inputs = (*PICTURES, *TEXTS)
    m.targets = (*PICTURES[1:], *TEXTS)
    m.tokenizers = ConfigDict(dict(tok_t1="t1_tokenizer", tok_tissue="tissue_tokenizer"))
    m.masking = ConfigDict(dict(input_tokens=(48, 144), target_tokens=(64, 64)))
    m.data = ConfigDict(
        dict(
            train=dict(
                all=_masked("train", m.inputs),
                pictures=_masked("train", PICTURES),  # without texts and boxes they turn and zoom
            ),
            validation=dict(all=_masked("validation", m.inputs)),
        )
    )
    m.batch_size = 8
    m.steps = 4500
    m.eval_every = 1500
    m.average_decay = 0.998
    m.optimizer = ConfigDict(dict(learning_rate=3e-3, weight_decay=0.05, warmup_steps=100))
    return c
