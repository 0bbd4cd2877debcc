"""A tiny PaliGemma learns to answer questions about brain MRI, from scratch, on a laptop.

First a base is trained on captions and on finding things; then LoRA, on all seven targets, turns it
to questions that it has never seen, with some detection rehearsed so that it is not forgotten. The
data are made from the MRI template that the nilearn package carries.
"""

from ml_collections import ConfigDict

QUESTIONS = ("plane", "level", "share", "balance", "fluid")
DETECTION = ("detect_brain", "detect_white_matter")


def _mri(split, tasks=(), weight=1.0):
    return ConfigDict(dict(source="mni152_vqa", split=split, tasks=tasks, weight=weight))


def get_config():
    c = ConfigDict()
    c.name = "quickstart"
    c.model = ConfigDict(
        dict(
            img=dict(width=96, depth=3, mlp_dim=192, num_heads=4, patch_size=14),
            llm=dict(width=96, depth=3, mlp_dim=192, num_heads=4, num_kv_heads=1, head_dim=32),
        )
    )
    c.tokenizer_vocab_size = 512
    c.ordered_loc_init = True
    c.image_size = 112
    c.text_length = 40
    c.batch_size = 32
    c.data = ConfigDict(dict(test=dict(mri=_mri("test"))))
    c.evaluate = ConfigDict(dict(group="slab"))  # neighbouring slices are much alike
    c.stages = ConfigDict()
    c.stage_order = ("base", "base_lora")

    base = c.stages.base = ConfigDict()
    base.data = ConfigDict(
        dict(
            train=dict(
                captions=_mri("train", ("caption",)),
                brain=_mri("train", DETECTION[:1]),
                white_matter=_mri("train", DETECTION[1:]),
            ),
            validation=dict(mri=_mri("validation", ("caption", *DETECTION))),
        )
    )
    base.steps = 900
    base.eval_every = 300
    base.optimizer = ConfigDict(dict(learning_rate=2e-3, weight_decay=0.05, warmup_steps=100))

    lora = c.stages.base_lora = ConfigDict()
    lora.data = ConfigDict(
        dict(
            train=dict(
                questions=_mri("train", QUESTIONS),
                rehearsal=_mri("train", DETECTION, weight=0.3),
            ),
            validation=dict(mri=_mri("validation", (*QUESTIONS, *DETECTION))),
        )
    )
    lora.lora = ConfigDict(dict(rank=8, alpha=32.0))
    lora.steps = 500
    lora.eval_every = 250
    lora.optimizer = ConfigDict(dict(learning_rate=5e-3, warmup_steps=50))
    return c
