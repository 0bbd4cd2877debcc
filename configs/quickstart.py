"""A tiny PaliGemma learns to answer questions about brain MRI, from scratch, on a laptop.

First a base is trained on captions and on finding things; then LoRA, on all seven targets, turns it
to questions that it has never seen, with some of the old tasks rehearsed so that they are not
forgotten. The data are made from the MRI template that the nilearn package carries.
"""

from ml_collections import ConfigDict

QUESTIONS = ("plane", "level", "share", "balance", "fluid")
DETECTION = ("detect_brain", "detect_white_matter")


def _mri(split, tasks=(), weight=1.0):
    return ConfigDict(dict(source="mni152_vqa", split=split, tasks=tasks, weight=weight))


def get_config():
    c = ConfigDict()
    c.name = "quickstart"
    c.seed = 1  # of the two that were tried, see BENCHMARKS.md
    c.model = ConfigDict(
        dict(
            img=dict(width=96, depth=3, mlp_dim=192, num_heads=4, patch_size=14),
            llm=dict(width=96, depth=3, mlp_dim=192, num_heads=4, num_kv_heads=1, head_dim=32),
        )
    )
    c.tokenizer_vocab_size = 512
    c.ordered_loc_init = True
    c.image_size = 112
    c.text_length = 32
    c.batch_size = 16
    c.log_every = 100
    # Every token counts alike: of a caption's twenty, five tell what the image shows.
    c.loss = ConfigDict(dict(normalize="token"))
    # 189 slices are few: moved, zoomed, turned and toned they teach what a slice is, not which.
    augment = dict(shift=0.15, zoom=0.15, turn=0.1, contrast=0.2, gamma=0.2, noise=0.02)
    c.data = ConfigDict(dict(test=dict(mri=_mri("test")), augment=augment))
    c.evaluate = ConfigDict(dict(group="slab"))  # neighbouring slices are much alike
    c.stages = ConfigDict()
    c.stage_order = ("base", "base_lora")

    base = c.stages.base = ConfigDict()
    base.data = ConfigDict(
        dict(
            train=dict(
                # Boxes are learned soon; what captions tell takes longer.
                captions=_mri("train", ("caption",), weight=2.0),
                brain=_mri("train", DETECTION[:1]),
                white_matter=_mri("train", DETECTION[1:]),
            ),
            validation=dict(mri=_mri("validation", ("caption", *DETECTION))),
        )
    )
    base.steps = 3000
    base.eval_every = 750
    base.optimizer = ConfigDict(dict(learning_rate=2e-3, weight_decay=0.05, warmup_steps=100))

    lora = c.stages.base_lora = ConfigDict()
    lora.data = ConfigDict(
        dict(
            train=dict(
                questions=_mri("train", QUESTIONS),
                hardest=_mri("train", ("level", "share"), weight=0.6),  # of many answers
                boxes=_mri("train", DETECTION, weight=0.3),
                captions=_mri("train", ("caption",), weight=0.2),
            ),
            validation=dict(mri=_mri("validation", (*QUESTIONS, *DETECTION))),
        )
    )
    lora.lora = ConfigDict(dict(rank=8, alpha=32.0))
    lora.steps = 2400
    lora.eval_every = 600
    lora.optimizer = ConfigDict(dict(learning_rate=2.5e-3, warmup_steps=100))
    return c
