"""A tiny run of 4M on one's own data, `recipe.py:FOLDER`: two tokenizers, 4M, then its adapter."""

from ml_collections import ConfigDict


def _own(folder, part, **more):
    return ConfigDict(dict(own=dict(source=f"{folder}/{part}.jsonl", **more)))


def _tokenizer(modality, quantizer, **more):
    network = dict(type="vit", width=8, depth=1, num_heads=2)
    return ConfigDict(
        dict(
            kind="tokenizer", modality=modality, optimizer=dict(learning_rate=5e-3),
            tokenizer=dict(encoder=network, decoder=network, quantizer=quantizer, **more),
        )
    )  # fmt: skip


def get_config(folder):
    c = ConfigDict(dict(name="tiny", family="fourm"))
    image = dict(image_size=16, patch_size=4)
    c.modalities = ConfigDict(
        dict(
            scan=dict(kind="patches", channels=1, content="image", **image),
            tok_scan=dict(kind="image_tokens", vocab_size=16, content="image", source="scan",
                          **image),
            tok_organ=dict(kind="image_tokens", vocab_size=15, content="labels", source="organ",
                           classes=("other", "organ"), **image),
            code=dict(kind="image_tokens", vocab_size=7, image_size=16, patch_size=8),
            caption=dict(max_length=10),
            det=dict(max_length=8),
        )
    )  # fmt: skip
    c.wordpiece_vocab_size = 200
    c.wordpiece_sentinels = 8
    c.wordpiece_bins = 8
    c.batch_size = 4
    c.steps = 6
    c.log_every = 2
    c.checkpoint_every = 2
    c.data = ConfigDict(
        {part: _own(folder, part) for part in ("train", "validation", "test")}
        | {"augment": dict(shift=0.1, zoom=0.1, noise=0.02)}
    )
    c.masking = ConfigDict(dict(input_tokens=(4, 16), target_tokens=(8, 12)))
    c.tokenizers = ConfigDict(dict(tok_scan="scan_tokenizer", tok_organ="organ_tokenizer"))
    c.evaluate = ConfigDict(
        dict(
            group="patient", batch_size=4, num_steps=2, shown=2,
            directions=("scan -> tok_organ", "tok_scan, caption -> det"),
        )
    )  # fmt: skip
    c.stages = ConfigDict()
    c.stage_order = ("scan_tokenizer", "organ_tokenizer", "fourm", "adapted")
    vq = dict(type="vq", num_codes=16, code_width=4, decay=0.8)
    c.stages.scan_tokenizer = _tokenizer("tok_scan", vq, channels=1)
    c.stages.scan_tokenizer.eval_every = 3
    c.stages.organ_tokenizer = _tokenizer("tok_organ", dict(type="fsq", levels=(5, 3)))
    c.stages.fourm = ConfigDict(
        dict(
            kind="fourm", accumulation=2, average_decay=0.5, eval_every=3,
            inputs=("scan", "tok_scan", "tok_organ", "code", "caption", "det"),
            targets=("tok_scan", "tok_organ", "code", "caption", "det"),
            model=dict(width=16, encoder_depth=1, decoder_depth=1, num_heads=2, gated=True),
            optimizer=dict(learning_rate=1e-2),
        )
    )  # fmt: skip
    c.stages.adapted = ConfigDict(
        dict(
            kind="fourm", optimizer=dict(learning_rate=1e-2),
            lora=dict(rank=2, alpha=4.0, dropout=0.1),
        )
    )  # fmt: skip
    return c
