"""Texts compared with the true ones: words, n-grams, edits.

The n-gram metrics are those of the libraries that the field uses; what they leave open is set here:

- BLEU (Papineni et al., ACL 2002) by sacrebleu (Post, arXiv:1804.08771): of the whole set, case
  ignored, tokenizer 13a (zh for Chinese), exponential smoothing; over 1 to n-grams, in [0, 1].
- ROUGE-L (Lin, ACL 2004) by rouge-score, F-measure, without stemming.
- CIDEr-D (Vedantam et al., arXiv:1411.5726), n-grams and their frequencies by pycocoevalcap, in
  [0, 10]. Frequencies are of the true answers of the set that is scored, so that values of
  different sets, or of parts scored alone, do not compare. COCO's tokenizer needs Java; here words
  are `kinds.tokens`.
"""

import collections
import functools
import importlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from medjax.errors import UserError
from medjax.evaluation.bootstrap import OfSets, weighted_sums
from medjax.evaluation.metrics.kinds import Answer, normalise, spaced_words, tokens

_SIGMA = 6.0  # of CIDEr-D's penalty for lengths


@functools.cache
def library(name: str) -> Any:
    """An optional library of the extra `eval`, by the name that it is imported by.

    Raises:
      UserError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"This metric needs {name.split('.')[0]}: pip install -e '.[eval]'."
        ) from error


def exact_match(generated: str, truth: str) -> float:
    """1.0 if both say the same, else 0.0.

    Upper and lower case, white space at the ends, runs of white space and periods at the end make
    no difference; everything else does.
    """
    return float(normalise(generated) == normalise(truth))


def token_f1(generated: str, truth: str) -> float:
    """Harmonic mean of precision and recall over words, in [0, 1].

    Words are what white space separates, without case and without the punctuation around them; a
    word that occurs n times in one text and m times in the other is shared min(n, m) times. Order
    plays no part. Two texts without words agree (1.0). Source: SQuAD (arXiv:1606.05250), except
    that articles count here.
    """
    a, b = spaced_words(generated), spaced_words(truth)
    if not a or not b:
        return float(a == b)
    shared = sum((collections.Counter(a) & collections.Counter(b)).values())
    return 2.0 * shared / (len(a) + len(b))


def edit_similarity(generated: str, truth: str) -> float:
    """1 - Levenshtein distance over the longer text's characters, in [0, 1]; case and spaces aside.

    Two empty texts agree (1.0). By rapidfuzz.
    """
    distance = library("rapidfuzz.distance")
    return float(distance.Levenshtein.normalized_similarity(normalise(generated), normalise(truth)))


def rouge_l(generated: str, truth: str) -> float:
    """F-measure of the longest common subsequence of words, in [0, 1].

    rouge-score's tokenizer knows a to z and digits; where it finds nothing in one of two texts
    (Chinese), words are `kinds.tokens`.
    """
    made, true = _rouge_tokens(generated), _rouge_tokens(truth)
    if not made or not true:
        made, true = tokens(generated), tokens(truth)
    # The length by rapidfuzz, which is many times faster than rouge-score's own table.
    common = library("rapidfuzz.distance").LCSseq.similarity(made, true)
    return 2.0 * common / (len(made) + len(true)) if common else 0.0


@functools.lru_cache(maxsize=1 << 16)
def _rouge_tokens(text: str) -> tuple[str, ...]:
    return tuple(library("rouge_score.tokenize").tokenize(text, None))


def cider(answers: Sequence[Answer]) -> list[float]:
    """CIDEr-D of each answer of a set, in [0, 10]; the set's CIDEr-D is their mean.

    In a set of one every word is in all true answers, so that nothing counts: 0.
    """
    scorer = library("pycocoevalcap.cider.cider_scorer").CiderScorer(n=4)
    for answer in answers:
        made, true = (" ".join(tokens(text)) for text in (answer.generated, answer.truth))
        scorer += (made, [true])
    scorer.compute_doc_freq()
    # Its own `compute_cider` asks numpy for a logarithm per n-gram, which takes most of the time
    # that all metrics take.
    most = math.log(len(answers))
    weights = {gram: most - math.log(count) for gram, count in scorer.document_frequency.items()}
    return [
        _cider(made, true, weights, most)
        for made, [true] in zip(scorer.ctest, scorer.crefs, strict=True)
    ]


_Counts = Mapping[tuple[str, ...], int]


def _cider(
    made: _Counts, true: _Counts, weights: Mapping[tuple[str, ...], float], most: float
) -> float:
    """CIDEr-D of one answer: clipped cosines of weighted n-grams, times a penalty for lengths.

    Args:
      made, true: how often each 1 to 4-gram occurs.
      weights: inverse document frequencies.
      most: that of an n-gram which no true answer has.
    """
    dots, squares, true_squares = [0.0] * 4, [0.0] * 4, [0.0] * 4
    lengths = 0  # of the answer less that of the true one, in pairs of words
    for gram, count in true.items():
        place = len(gram) - 1
        true_squares[place] += (count * weights[gram]) ** 2
        lengths -= count if place == 1 else 0
    for gram, count in made.items():
        place = len(gram) - 1
        weight = weights.get(gram, most)
        squares[place] += (count * weight) ** 2
        lengths += count if place == 1 else 0
        if gram in true:
            dots[place] += min(count, true[gram]) * true[gram] * weight**2
    cosines = (
        dot / math.sqrt(a * b) if a and b else 0.0
        for dot, a, b in zip(dots, squares, true_squares, strict=True)
    )
    return 10.0 * sum(cosines) / 4 * math.exp(-(lengths**2) / (2 * _SIGMA**2))


def bleu(n: int, answers: Sequence[Answer], groups: Int[np.ndarray, "answers"]) -> OfSets:
    """BLEU over 1 to n-grams of sets that hold each group of answers some number of times.

    Args:
      n: the longest n-grams, 1 to 4.
      answers: the whole set.
      groups: the number of each answer's group, from 0 on.

    Returns:
      What computes BLEU, in [0, 1], of how often each group is in a set. The statistics (lengths,
      n-grams, those found) are summed over a set before anything is divided.
    """
    statistics = np.array([_bleu_statistics(_language(a), a.generated, a.truth) for a in answers])
    sums = np.stack([np.bincount(groups, weights=column) for column in statistics.T], axis=1)

    def of_sets(counts: Float[np.ndarray, "samples groups"]) -> Float[np.ndarray, "samples"]:
        return bleu_of(weighted_sums(counts, sums), n)

    return of_sets


def bleu_of(statistics: Float[np.ndarray, "samples 10"], n: int) -> Float[np.ndarray, "samples"]:
    """BLEU from summed statistics, as sacrebleu computes it with exponential smoothing.

    Args:
      statistics: of each set: words made, words true, 1 to 4-grams found, 1 to 4-grams made.
      n: the longest n-grams.
    """
    made, true = statistics[:, 0], statistics[:, 1]
    found, all_ = statistics[:, 2 : 2 + n], statistics[:, 6 : 6 + n]
    # The k-th length of which nothing is found counts as half, a quarter, ... of one n-gram.
    halvings = np.cumsum(found == 0, axis=1)
    hits = np.where(found > 0, found, 0.5**halvings)
    usable = np.all(all_ > 0, axis=1) & np.any(found > 0, axis=1)
    precisions = np.where(usable[:, None], hits / np.maximum(all_, 1), 1.0)
    brevity = np.exp(np.minimum(0.0, 1.0 - true / np.maximum(made, 1)))
    return np.where(usable, brevity * np.exp(np.log(precisions).mean(1)), 0.0)


def _language(answer: Answer) -> str:
    return "zh" if str(answer.extra.get("language", "")).lower().startswith("zh") else "13a"


@functools.lru_cache(maxsize=1 << 17)  # BLEU-1 to BLEU-4 have them in common
def _bleu_statistics(tokenizer: str, generated: str, truth: str) -> tuple[int, ...]:
    score = _bleu(tokenizer).sentence_score(generated, [truth])
    return (score.sys_len, score.ref_len, *score.counts, *score.totals)


@functools.cache
def _bleu(tokenizer: str) -> Any:
    # `effective_order` changes no statistics; without it, each sentence is warned of.
    metric = library("sacrebleu.metrics").BLEU
    return metric(lowercase=True, tokenize=tokenizer, effective_order=True)
