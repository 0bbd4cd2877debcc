"""4M's masking one sample at a time in NumPy: the rules of `medjax_kernels.masking` once more.

Written from the rules alone and sharing no code, for benchmarks and for tests of the distribution.
Random numbers come from a NumPy generator, so that single results differ.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from medjax_kernels.masking import MaskingScheme, Modality


class Sample(NamedTuple):
    """One masked sample: fields as those of `medjax_kernels.masking.Masked`, without the batch."""

    encoder: dict[str, np.ndarray]
    decoder: dict[str, np.ndarray]
    input_counts: np.ndarray
    target_counts: np.ndarray


class Masker:
    """Masks samples by a scheme; what does not depend on the sample is prepared once."""

    def __init__(self, scheme: MaskingScheme, seed: int):
        self.scheme = scheme
        self.rng = np.random.default_rng(seed)
        self.sentinels = np.array(scheme.sentinels, np.int32)
        modalities = scheme.modalities
        self.image = np.array([m.kind == "image" for m in modalities])
        self.floors = np.array([m.min_tokens for m in modalities])
        self.most = np.array([m.max_tokens for m in modalities])
        self.alphas = {
            side: np.array([getattr(m, side) for m in modalities], float).T
            for side in ("input_alphas", "target_alphas")
        }
        weights = np.ones(scheme.components) if scheme.weights is None else scheme.weights
        self.ends = np.cumsum(weights) / np.sum(weights)

    def __call__(self, tokens: Mapping[str, np.ndarray], lengths: Mapping[str, int]) -> Sample:
        """Masks one sample: ids [n] by modality, and how many of them there are."""
        scheme, rng = self.scheme, self.rng
        component = int(np.searchsorted(self.ends, rng.random(), side="right"))
        total = int(rng.integers(scheme.input_tokens[0], scheme.input_tokens[1] + 1))
        inputs = self._budget(self.alphas["input_alphas"][component], total, self.most)
        targets = np.full(len(inputs), 2**30)
        if scheme.target_tokens is not None:
            total = int(rng.integers(scheme.target_tokens[0], scheme.target_tokens[1] + 1))
            left = np.maximum(self.floors, np.where(self.image, self.most - inputs, self.most))
            targets = self._budget(self.alphas["target_alphas"][component], total, left)
        encoder, decoder = [], []
        for i, modality in enumerate(scheme.modalities):
            ids = tokens.get(modality.name)
            if modality.kind == "image":
                length = lengths.get(modality.name, modality.max_tokens)
                parts = self._image(ids, length, inputs[i], targets[i])
            else:
                ids = ids[: lengths[modality.name]] + modality.vocab_offset
                parts = self._sequence(modality, ids, component, inputs[i], targets[i])
            encoder.append(parts[0])
            decoder.append(parts[1])
        return self._pack(encoder, decoder)

    def _budget(self, alphas: np.ndarray, total: int, caps: np.ndarray) -> np.ndarray:
        taken = np.flatnonzero(alphas)
        for _ in range(self.scheme.max_tries):
            budget = np.zeros(len(alphas), int)
            budget[taken] = self.rng.dirichlet(alphas[taken]) * total
            left = total - budget.sum()
            if left > 0:
                greatest = self.rng.dirichlet(alphas[taken], size=left).argmax(axis=1)
                budget += np.bincount(taken[greatest], minlength=len(alphas))
            budget = np.minimum(budget, caps)
            if (budget >= self.floors).all():
                break
        return budget

    def _image(self, ids: np.ndarray | None, length: int, inputs: int, targets: int):
        order = self.rng.permutation(length)
        kept, target = np.sort(order[:inputs]), np.sort(order[inputs : inputs + targets])
        if ids is None:
            pad = self.scheme.pad
            return (np.full(len(kept), pad), kept), (np.full(len(target), pad), target)
        return (ids[kept], kept), (ids[target], target)

    def _spans(self, ids: np.ndarray, keep: float):
        """Input and target of a sequence, and where in the target sentinels are."""
        masked = self.rng.random(len(ids)) >= keep
        start = masked & ~np.concatenate([[False], masked[:-1]])
        run = np.cumsum(start) - 1
        spans = int(start.sum())
        inputs = np.where(masked, self.sentinels[run], ids)[start | ~masked]
        place = np.cumsum(masked)[masked] + run[masked]
        target = np.empty(masked.sum() + spans + 1, np.int32)
        target[place] = ids[masked]
        sentinel = np.append(np.flatnonzero(start[masked]) + np.arange(spans), len(target) - 1)
        target[sentinel] = self.sentinels[: spans + 1]
        return inputs, target, sentinel

    def _sequence(self, modality: Modality, ids, component: int, budget: int, targets: int):
        rng = self.rng
        rule = modality.keep[component] if modality.keep else "random"
        keep = {"random": rng.random, "all": lambda: 1.0, "binary": lambda: rng.integers(2)}[rule]()
        inputs, target, sentinel = self._spans(ids, keep if budget else 0.0)
        while budget and len(inputs) > budget:
            keep *= 0.9
            inputs, target, sentinel = self._spans(ids, keep)
        inputs = inputs[:budget]
        if len(target) > targets:
            begin = sentinel[rng.integers(max(1, len(sentinel) - 1))]
            if len(target) - begin < targets:
                begin = sentinel[len(target) - sentinel <= targets][0]
            target = target[begin : begin + targets]
        return (inputs, np.arange(len(inputs))), (target, np.arange(len(target)))

    def _pack(self, encoder: list, decoder: list) -> Sample:
        scheme = self.scheme
        input_counts = np.array([len(ids) for ids, _ in encoder])
        target_counts = np.array([len(ids) for ids, _ in decoder])
        size, decoder_size = scheme.packed_lengths
        fields = {
            "tokens": np.concatenate([ids for ids, _ in encoder]),
            "positions": np.concatenate([place for _, place in encoder]),
            "modality": np.repeat(np.arange(len(encoder)), input_counts),
        }
        packed = self._fill(fields, size)
        order = np.arange(len(decoder))
        if scheme.shuffle_decoder:
            order = self.rng.permutation(order)
        names = ("tokens", "targets", "positions", "modality", "block")
        rows: dict[str, list] = {name: [] for name in names}
        slot = 0
        for i in order:
            ids, place = decoder[i]
            if self.image[i]:
                read, predicted = np.full(len(ids), scheme.pad), ids
                block = np.full(len(ids), slot)
            else:
                read, predicted, place = ids[:-1], ids[1:], place[:-1]
                block = slot + place
            values = (read, predicted, place, np.full(len(read), i), block)
            for name, value in zip(names, values, strict=True):
                rows[name].append(value)
            slot += len(read)
        joined = {name: np.concatenate(values) for name, values in rows.items()}
        return Sample(packed, self._fill(joined, decoder_size), input_counts, target_counts)

    def _fill(self, fields: dict[str, np.ndarray], size: int) -> dict[str, np.ndarray]:
        """Cuts or fills up to `size`."""
        fillers = {"tokens": self.scheme.pad, "targets": self.scheme.pad, "modality": -1}
        used = min(size, len(fields["tokens"]))
        result = {"valid": np.arange(size) < used}
        for name, value in fields.items():
            result[name] = np.full(size, fillers.get(name, 0), np.int32)
            result[name][:used] = value[:used]
        return result


def batch(
    masker: Masker, tokens: Mapping[str, np.ndarray], lengths: Mapping[str, np.ndarray]
) -> Sample:
    """Masks a batch, one sample after the other, and stacks the results."""
    size = len(next(iter(lengths.values())))
    samples = [
        masker(
            {name: x[i] for name, x in tokens.items()},
            {name: int(x[i]) for name, x in lengths.items()},
        )
        for i in range(size)
    ]
    return Sample(
        *(
            {name: np.stack([getattr(s, side)[name] for s in samples]) for name in first}
            for side, first in zip(("encoder", "decoder"), samples[0][:2], strict=True)
        ),
        np.stack([s.input_counts for s in samples]),
        np.stack([s.target_counts for s in samples]),
    )
