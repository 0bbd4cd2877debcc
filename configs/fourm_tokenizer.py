"""A tokenizer of 4M, or PaliGemma's mask codec, learns one's own images or masks.

    python -m medjax.train --config=configs/fourm_tokenizer.py \\
        --config.data.train.own.source=train.jsonl \\
        --config.data.validation.own.source=validation.jsonl \\
        --config.data.test.own.source=test.jsonl --config.modalities.tok_image.source=ct

Without these keys it learns the MRI template that the nilearn package carries, in a few minutes on
two cores. What is trained is named after a colon:

    fourm_tokenizer.py:image       images become tokens (the default)
    fourm_tokenizer.py:mask        masks of classes become tokens
    fourm_tokenizer.py:mask_codec  one class at a time becomes the 16 <seg> tokens of PaliGemma

Behind it, "conv" makes the networks of an image or mask tokenizer convolutional instead of vision
transformers, and "fsq" has its codes by finite scalar quantization instead of a codebook, as in
`fourm_tokenizer.py:image,conv,fsq`.

Each line of the data is a JSON object such as {"ct": "7.png"} or {"organ": "7-organs.png"}: of
masks, each pixel of the file is the number of its class, and 255 where that is not known. The
result lies in <workdir>/train/model; train/reconstruction.json and .png say how good it is.
"""

from ml_collections import ConfigDict


def get_config(arg="image"):
    """The recipe for what `arg` names; see above."""
    what, *variants = arg.split(",")
    if what not in ("image", "mask", "mask_codec") or not {*variants} <= {"conv", "fsq"}:
        raise ValueError(f"{arg!r} is none of image, mask, mask_codec, with conv or fsq behind")
    c = ConfigDict()
    c.name = "fourm_tokenizer"
    c.family = "fourm"
    c.kind = "mask_codec" if what == "mask_codec" else "tokenizer"

    # What the tokens stand for. `source` is the key of the data's lines; `vocab_size` is the number
    # of codes, image_size and patch_size are pixels: (image_size / patch_size)^2 tokens an image.
    # Smaller patches and more codes give more detail back, and 4M has more to predict.
    c.modalities = ConfigDict()
    if what == "image":
        c.modality = "tok_image"
        c.modalities.tok_image = dict(
            kind="image_tokens", content="image", source="t1",
            vocab_size=256, image_size=64, patch_size=8,
        )  # fmt: skip
    else:
        c.modality = "tok_mask"
        # The codec cuts each class out of the whole image and has fixed sizes: 128 codes, 64 pixels
        # on a side, 16 a token.
        c.modalities.tok_mask = dict(
            kind="image_tokens", content="labels", source="tissue",
            classes=("other", "grey matter", "white matter"),  # from 0 on
            vocab_size=256 if what == "mask" else 128, image_size=64,
            patch_size=8 if what == "mask" else 16,
        )  # fmt: skip
    # mask_codec: a class is learned from images where it fills so many pixels.
    c.min_pixels = 64
    # mask_codec: start from weights of PaliGemma's format, vae-oid.npz or a run's train/model.
    c.init = ""

    if what == "mask_codec":
        # decay: of the moving averages that the codebook is made of; nearer to 1 for long
        # trainings. commitment: how much latents are held to their codes.
        c.tokenizer = ConfigDict(dict(quantizer=dict(decay=0.99, commitment=0.25)))
    else:
        # conv: one width for each halving of the image's side, as many as make a patch.
        network = dict(type="vit", width=96, depth=2, num_heads=4)
        if "conv" in variants:
            network = dict(type="conv", widths=(16, 32, 64), blocks=1)
        # fsq: the product of the levels is the number of codes.
        quantizer = dict(type="vq", num_codes=256, code_width=16, decay=0.95)
        if "fsq" in variants:
            quantizer = dict(type="fsq", levels=(8, 8, 4))
        c.tokenizer = ConfigDict(dict(encoder=network, decoder=network, quantizer=quantizer))
    if what == "image":
        c.tokenizer.channels = 1  # grey; 3 for colour

    # JSON-lines files, or the template. Without validation the last weights are kept, not the best;
    # without test, the figures at the end are of the validation data.
    c.data = ConfigDict(
        dict(
            train=dict(own=dict(source="mni152/train", image_root="")),
            validation=dict(own=dict(source="mni152/validation", image_root="")),
            test=dict(own=dict(source="mni152/test", image_root="")),
            # Largest random variations of training images, in parts of their side, a right angle
            # or their intensities. Images are moved within their dark margin alone. Nothing is
            # mirrored.
            augment=dict(shift=0.15, zoom=0.15, turn=0.1, contrast=0.2, gamma=0.2, noise=0.02),
        )
    )

    # Images to a step, on all devices together; or masks, of the codec.
    c.batch_size = 16
    # (For passes over the data set epochs, and steps to 0.)
    c.steps = 1000
    c.optimizer = ConfigDict(dict(schedule="cosine", warmup_steps=50))
    # Less (1e-4) where it starts from weights.
    c.optimizer.learning_rate = 1e-3 if what == "mask_codec" else 2e-3
    c.log_every = 100
    c.eval_every = 250
    c.checkpoint_every = 250
    c.restore_best = True
    return c
