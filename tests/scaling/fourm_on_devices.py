"""Steps of 4M whose tokens are made and masked within them; `eight_devices.py` runs them."""

import numpy as np
import optax
from flax import nnx
from medjax_kernels.masking import MaskingScheme
from medjax_kernels.masking import Modality as Masked

from medjax.modalities.table import Modality
from medjax.models.build import build, fresh
from medjax.models.fourm import FourMConfig
from medjax.models.params import flatten
from medjax.models.tokenizers import ImageTokenizer, ImageTokenizerConfig, ViTConfig, VQConfig
from medjax.training.loop import Trainer
from medjax.training.objectives.fourm import Masking

MESHES = ("single", "2x2x2")  # of eight_devices.py
SCAN = Modality("scan", "patches", image_size=8, patch_size=4, channels=1)
TOK = Modality("tok", "image_tokens", 16, image_size=8, patch_size=4, content="image")
REPORT = Modality("report", "sequence", 32, max_length=6)
CONFIG = FourMConfig(
    16, 1, 1, 2, (SCAN, TOK, REPORT), ("scan", "tok", "report"), ("tok", "report"), gated=True
)
SCHEME = MaskingScheme(
    tuple(
        Masked(m.name, kind, m.length, (1.0,), (float(m.name in CONFIG.targets),))
        for m, kind in ((SCAN, "image"), (TOK, "image"), (REPORT, "sequence"))
    ),
    input_tokens=(3, 6),
    target_tokens=(3, 6),
    sentinels=tuple(range(24, 32)),
)
NETWORK = ViTConfig(8, 1, 2, 2.0)
TOKENIZER = ImageTokenizerConfig("image", 8, 4, 1, NETWORK, NETWORK, VQConfig(16, 3))


def batches() -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    scans = rng.uniform(-1, 1, (2, 8, 8, 8, 1)).astype(np.float32)
    texts = rng.integers(1, 24, (2, 8, 6)).astype(np.int32)
    lengths = rng.integers(1, 7, (2, 8)).astype(np.int32)
    return [
        {"scan": scan, "tok": scan, "report": text, "report/length": length}
        for scan, text, length in zip(scans, texts, lengths, strict=True)
    ]


def train(mesh) -> dict[str, np.ndarray]:
    """Figures and parameters after two steps, which other masks would lead elsewhere."""
    tokenizer = fresh(lambda: ImageTokenizer(TOKENIZER, rngs=nnx.Rngs(1)), mesh)
    aim = Masking(CONFIG, {"own": SCHEME}, {"tok": tokenizer}, weighting="modality")
    trainer = Trainer(
        build(CONFIG, mesh=mesh, seed=3), aim, optax.sgd(0.5), mesh=mesh,
        dtype=np.dtype(np.float32), seed=1, accumulation=2,
    )  # fmt: skip
    before = {name: np.asarray(x) for name, x in trainer.state.params.items()}
    figures = [trainer.step(batch, "own") for batch in batches()]
    result = {f"figures/{k}": np.array([f[k] for f in figures]) for k in figures[0]}
    result |= {f"params/{name}": np.asarray(x) for name, x in trainer.state.params.items()}
    result |= {f"learnt/{name}": result[f"params/{name}"] - x for name, x in before.items()}
    cut = flatten(trainer.model_with())["encoder/layers/mlp/up_proj/kernel"]
    return result | {"shard": np.array(cut.addressable_shards[0].data.shape)}
