"""A tiny 4M learns brain MRI in every direction, from scratch, on a laptop.

Two tokenizers come first, one of T1 slices and one of masks of grey and white matter; then one
model learns to make any of image, mask, caption and boxes of any of the others. The data are made
from the MRI template that the nilearn package carries.
"""

from ml_collections import ConfigDict

SIDE, PATCH = 64, 8  # pixels; 64 tokens an image


def _mri(split, modalities=(), weight=1.0, **more):
    return ConfigDict(
        dict(source="mni152", split=split, modalities=modalities, weight=weight, **more)
    )


def _tokenizer(modality, num_codes, learning_rate):
    network = dict(type="vit", width=96, depth=2, num_heads=4)
    c = ConfigDict(dict(kind="tokenizer", modality=modality, restore_best=True))
    c.tokenizer = dict(
        encoder=network, decoder=network,
        quantizer=dict(type="vq", num_codes=num_codes, code_width=16, decay=0.95),
    )  # fmt: skip
    c.data = ConfigDict(
        dict(train=dict(mri=_mri("train")), validation=dict(mri=_mri("validation")))
    )
    c.optimizer = ConfigDict(dict(learning_rate=learning_rate, warmup_steps=50))
    return c


def get_config():
    c = ConfigDict()
    c.name = "fourm_quickstart"
    c.family = "fourm"
    image = dict(image_size=SIDE, patch_size=PATCH)
    c.modalities = ConfigDict(
        dict(
            t1=dict(kind="patches", channels=1, content="image", **image),
            tok_t1=dict(kind="image_tokens", vocab_size=256, content="image", source="t1", **image),
            tok_tissue=dict(
                kind="image_tokens", vocab_size=128, content="labels", source="tissue",
                classes=("other", "grey matter", "white matter"), **image,
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
    augment = dict(shift=0.15, zoom=0.15, turn=0.1, contrast=0.2, gamma=0.2, noise=0.02)
    c.data = ConfigDict(dict(test=dict(mri=_mri("test")), augment=augment))
    c.evaluate = ConfigDict(dict(group="slab"))
    c.stages = ConfigDict()
    c.stage_order = ("t1_tokenizer", "tissue_tokenizer", "fourm")

    t1 = c.stages.t1_tokenizer = _tokenizer("tok_t1", 256, 2e-3)
    t1.tokenizer.channels = 1
    t1.steps = 1500
    t1.eval_every = 500
    tissue = c.stages.tissue_tokenizer = _tokenizer("tok_tissue", 128, 2e-3)
    tissue.steps = 1500
    tissue.eval_every = 500

    m = c.stages.fourm = ConfigDict(dict(kind="fourm"))
    m.model = ConfigDict(
        dict(
            width=128, encoder_depth=4, decoder_depth=4, num_heads=4, gated=True,
            activation="silu", qk_norm=True, qkv_bias=False, proj_bias=False, mlp_bias=False,
            norm_bias=False,
        )
    )  # fmt: skip
    m.inputs = ("t1", "tok_t1", "tok_tissue", "caption", "det")
    m.targets = ("tok_t1", "tok_tissue", "caption", "det")
    m.tokenizers = ConfigDict(dict(tok_t1="t1_tokenizer", tok_tissue="tissue_tokenizer"))
    m.masking = ConfigDict(dict(input_tokens=(16, 96), target_tokens=(64, 64)))
    m.data = ConfigDict(
        dict(train=dict(mri=_mri("train")), validation=dict(mri=_mri("validation")))
    )
    m.steps = 3000
    m.eval_every = 1000
    m.optimizer = ConfigDict(dict(learning_rate=2e-3, weight_decay=0.05, warmup_steps=100))
    return c
