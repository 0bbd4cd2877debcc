"""What tests of modalities share: a small WordPiece tokenizer."""

import pytest

from medjax.data.wordpiece import train_wordpiece


@pytest.fixture(scope="session")
def wordpiece(tmp_path_factory):
    """100 bins, 10 sentinels; knows the words of the tests."""
    path = tmp_path_factory.mktemp("wordpiece") / "wordpiece.json"
    texts = ["liver brain white matter no fracture seen"] * 3
    return train_wordpiece(texts, path, 600, num_sentinels=10, num_bins=100)
