"""PaliGemma learns from one's own images and questions, by adapters beside its frozen weights.

    python -m medjax.train --config=configs/paligemma_lora.py \\
        --config.init=/weights/pt_224.npz --config.tokenizer=/weights/tokenizer.model \\
        --config.data.train.own.source=train.jsonl \\
        --config.data.validation.own.source=validation.jsonl \\
        --config.data.test.own.source=test.jsonl

The weights are Google's: a big_vision npz with Gemma's tokenizer, or a Hugging Face folder, which
brings its own. Another model of the family is named after a colon, as in
`--config=configs/paligemma_lora.py:paligemma2-3b-448`. Each line of the data is a JSON object such
as {"image": "scan.png", "prefix": "answer en is there a fracture?", "suffix": "no"}.
"""

from ml_collections import ConfigDict


def get_config(arg="paligemma-3b-224"):
    """The recipe for paligemma-3b, paligemma2-3b, -10b or -28b, at -224, -448 or -896 pixels."""
    _, _, size = arg.rpartition("-")
    if not size.isdigit():
        raise ValueError(f"{arg!r} does not end in an image size, as paligemma-3b-224 does")
    c = ConfigDict()
    c.name = "paligemma_lora"

    # The weights to start from, and what they are; a Hugging Face folder says the latter itself.
    c.model = arg
    c.init = ""
    c.tokenizer = ""  # Gemma's tokenizer.model; may stay empty with a Hugging Face folder

    # Examples to a step, on all devices together. If memory is short, set accumulation to 2 or 4:
    # so many parts are computed one after another, with the same result.
    c.batch_size = 16
    c.accumulation = 1
    # Pixels; the weights are made for one size. More show finer detail and cost memory and time.
    c.image_size = int(size)
    # Tokens of question and answer together. What is longer is cut at its end, and counted.
    c.text_length = 256
    # Of matmuls and of the frozen weights. auto: bfloat16 where the hardware has it, float16 on
    # V100 and T4 (with loss scaling), float32 on a CPU.
    c.dtype = "auto"
    # How devices share the work: data x fsdp x tensor is their number, -1 what the others leave.
    # fsdp cuts the weights and fetches them when they are used, for models that one GPU can't
    # hold; tensor cuts each layer's computation.
    c.mesh = ConfigDict(dict(data=-1, fsdp=1, tensor=1))

    c.lora = ConfigDict()
    # Width of the adapters: more can learn more, and needs more examples.
    c.lora.rank = 8
    # The adapters' output is multiplied by alpha / rank.
    c.lora.alpha = 32.0
    # Which linear layers of the language model are adapted; fewer make a smaller adapter.
    c.lora.targets = (
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    )  # fmt: skip

    # JSON-lines files. Without validation the last weights are kept, not the best; without test
    # nothing is evaluated at the end.
    c.data = ConfigDict(
        dict(
            train=dict(own=dict(source="", image_root="", tasks=())),
            validation=dict(own=dict(source="", image_root="", tasks=())),
            test=dict(own=dict(source="", image_root="", tasks=())),
        )
    )

    # Passes over the training data. (For a number of steps set steps, and epochs to 0.)
    c.epochs = 5.0
    # Between 1e-5 (much like what PaliGemma knows) and 1e-4 (new kinds of images).
    c.optimizer = ConfigDict(dict(learning_rate=5e-5, schedule="cosine", warmup_steps=5))
    c.remat = "full"  # layers are computed again in the backward pass, which saves most memory

    c.log_every = 10
    c.eval_every = 100
    c.checkpoint_every = 100
    c.restore_best = True
    # If a patient has several images: the key of the data's lines that names the patient. Intervals
    # of the results are then over patients.
    c.evaluate = ConfigDict(dict(group=""))
    c.decode = ConfigDict(dict(max_new_tokens=64))
    # Merged weights for transformers, as large as the model. Verifying them needs the model in
    # float32 on the device; the adapter alone is written with tools/convert.py --to peft.
    c.export = ConfigDict(dict(huggingface=True, verify=False))
    return c
