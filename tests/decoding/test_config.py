import pytest

from medjax.decoding import DecodeConfig
from medjax.errors import UserError


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(method="gready"), "'gready' is none of greedy, sample, beam"),
        (dict(max_new_tokens=0), "max_new_tokens 0 must be at least 1"),
        (dict(method="sample", num_samples=0), "num_samples 0 must be at least 1"),
        (dict(method="sample", temperature=0.0), "choose method 'greedy'"),
        (dict(method="sample", temperature=1e-7), "must be at least 1e-06"),
        (dict(method="sample", temperature=float("nan")), "temperature nan"),
        (dict(method="sample", top_p=0.0), r"top_p 0.0 is not in \(0, 1\]"),
        (dict(method="sample", top_p=1.1), "top_p 1.1"),
        (dict(method="beam"), "num_beams 1 must be at least 2"),
        (dict(method="beam", num_beams=2, length_penalty=float("inf")), "length_penalty inf"),
        (dict(temperature=0.7), "temperature 0.7 means nothing to method 'greedy'"),
        (dict(num_beams=4), "choose method 'beam'"),
        (dict(method="beam", num_beams=4, top_p=0.5), "top_p 0.5 means nothing to method 'beam'"),
        (dict(method="sample", length_penalty=0.0), "length_penalty 0.0 means nothing"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(UserError, match=message):
        DecodeConfig(**settings)
