"""What is masked and how: the modalities, and the mixture that their budgets are drawn from."""

import dataclasses

KINDS = ("image", "sequence")
KEEPS = ("random", "all", "binary")
# What the tables of `dirichlet.py` hold.
ALPHAS = (1e-3, 1e6)


@dataclasses.dataclass(frozen=True)
class Modality:
    """One modality of a sample, and its part in each component of the mixture.

    Attributes:
      name: under which its tokens are given.
      kind: "image" (any subset of its tokens is drawn; decoded in parallel) or "sequence" (spans
        are replaced by sentinels; decoded from left to right).
      max_tokens: an image's number of tokens; the cap of a budget.
      input_alphas: Dirichlet concentration of the input budget, one for each component. Zero: the
        component never takes this modality.
      target_alphas: the same of the target budget.
      min_tokens: floor of both budgets.
      keep: of a sequence, one for each component: the probability that a token stays in the input
        is drawn from [0, 1) ("random"), is 1 ("all"), or one of 0 and 1 ("binary"). Empty: random.
      vocab_offset: added to a sequence's tokens, which makes room for the sentinels' ids.
    """

    name: str
    kind: str
    max_tokens: int
    input_alphas: tuple[float, ...]
    target_alphas: tuple[float, ...]
    min_tokens: int = 0
    keep: tuple[str, ...] = ()
    vocab_offset: int = 0


@dataclasses.dataclass(frozen=True)
class MaskingScheme:
    """Everything about masking that is the same for all samples; hashable.

    Attributes:
      modalities: in the order of the encoder's tokens; their indices are the modality ids.
      input_tokens: least and greatest number of input tokens, of which one is drawn evenly.
      target_tokens: the same of target tokens. None: all that is not input is target.
      encoder_length: tokens of the packed input; the greatest number of input tokens if None.
      decoder_length: tokens of the packed target; must be given if `target_tokens` is None.
      sentinels: ids of the first, second, ... sentinel. A sequence of n tokens can take
        (n + 1) // 2 + 1 of them.
      pad: id that fills what is not valid.
      weights: of the components; even if None.
      max_tries: how often budgets are drawn again when one is below its floor; the last stays.
      shuffle_decoder: whether the modalities' order in the decoder is drawn for each sample, which
        matters to targets beyond `decoder_length` and to attention across modalities.

    Raises:
      ValueError: values that do not fit together.
    """

    modalities: tuple[Modality, ...]
    input_tokens: tuple[int, int]
    target_tokens: tuple[int, int] | None
    encoder_length: int | None = None
    decoder_length: int | None = None
    sentinels: tuple[int, ...] = ()
    pad: int = 0
    weights: tuple[float, ...] | None = None
    max_tries: int = 100
    shuffle_decoder: bool = True

    def __post_init__(self):
        if not self.modalities:
            raise ValueError("a masking scheme needs a modality")
        names = [m.name for m in self.modalities]
        if len(set(names)) < len(names):
            raise ValueError(f"names of modalities repeat: {', '.join(names)}")
        for modality in self.modalities:
            self._check(modality)
        for side in ("input_alphas", "target_alphas"):
            if side == "target_alphas" and self.target_tokens is None:
                continue
            for i in range(self.components):
                if not any(getattr(m, side)[i] for m in self.modalities):
                    raise ValueError(f"{side} of component {i} are all zero")
        weights = self.weights
        if weights is not None and (
            len(weights) != self.components or min(weights) < 0 or not sum(weights) > 0
        ):
            raise ValueError(f"weights {weights} are not those of {self.components} components")
        for name in ("input_tokens", "target_tokens"):
            span = getattr(self, name)
            if span is not None and not 0 <= span[0] <= span[1] <= 2**16:
                raise ValueError(f"{name} {span} is no range within 0 to 65536")
        if self.target_tokens is None and self.decoder_length is None:
            raise ValueError("without target_tokens, decoder_length must be given")
        if min(*self.packed_lengths, self.max_tries) < 1:
            raise ValueError(
                f"packed lengths {self.packed_lengths} and max_tries {self.max_tries} "
                "must be positive"
            )

    @property
    def components(self) -> int:
        """How many components the mixture has."""
        return len(self.modalities[0].input_alphas)

    @property
    def packed_lengths(self) -> tuple[int, int]:
        """Of the encoder and of the decoder."""
        encoder, decoder = self.encoder_length, self.decoder_length
        return (
            self.input_tokens[1] if encoder is None else encoder,
            (self.target_tokens or (0, 0))[1] if decoder is None else decoder,
        )

    def _check(self, modality: Modality) -> None:
        name = f"modality {modality.name!r}:"
        if modality.kind not in KINDS:
            raise ValueError(f"{name} kind {modality.kind!r} is none of {', '.join(KINDS)}")
        floor, cap = modality.min_tokens, modality.max_tokens
        if not 1 <= cap <= 2**15 or not 0 <= floor <= cap:
            raise ValueError(
                f"{name} min_tokens {floor} and max_tokens {cap}: expected "
                "0 <= min_tokens <= max_tokens, and max_tokens within 1 to 32768"
            )
        for side in ("input_alphas", "target_alphas", "keep"):
            values = getattr(modality, side)
            if len(values) != self.components and not (side == "keep" and not values):
                raise ValueError(f"{name} {side} {values} are not {self.components} values")
        for alpha in (*modality.input_alphas, *modality.target_alphas):
            if alpha != 0 and not ALPHAS[0] <= alpha <= ALPHAS[1]:
                raise ValueError(f"{name} alpha {alpha} is neither 0 nor within {ALPHAS}")
        if not set(modality.keep) <= set(KEEPS):
            raise ValueError(f"{name} keep {modality.keep} is none of {', '.join(KEEPS)}")
        if modality.kind == "sequence":
            needed = (modality.max_tokens + 1) // 2 + 1
            if len(self.sentinels) < needed:
                raise ValueError(
                    f"{name} {modality.max_tokens} tokens can take {needed} sentinels, "
                    f"and there are {len(self.sentinels)}"
                )
