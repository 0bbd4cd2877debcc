"""WordPiece for 4M: ids, sentinels, coordinates; the same file from the same texts."""

import hashlib
import json
import pickle
import subprocess
import sys

import pytest
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers

from medjax.data.wordpiece import WordPiece, coordinate, sentinel, train_wordpiece
from medjax.errors import UserError

TEXTS = [
    "An axial T1 slice of a brain.",
    "A coronal slice: grey matter and white matter, left hemisphere.",
    "White matter lies beneath grey matter; Ärzte know.",
    "v0=1 v1=2 [S_3] [EOS]",
]
SIZES = dict(num_sentinels=5, num_bins=10)
NUM_SPECIAL = 4 + 5 + 4 * 10


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> WordPiece:
    path = tmp_path_factory.mktemp("wordpiece") / "tokenizer.json"
    return train_wordpiece(TEXTS, path, vocab_size=160, **SIZES)


def pieces(tokenizer: WordPiece) -> dict[str, int]:
    return json.loads(tokenizer.text)["model"]["vocab"]


def test_special_tokens_come_first(trained):
    assert (trained.pad_id, trained.unk_id, trained.sos_id, trained.eos_id) == (0, 1, 2, 3)
    assert trained.sentinel_ids == list(range(4, 9))
    assert trained.coordinate_ids == tuple(list(range(9 + 10 * a, 19 + 10 * a)) for a in range(4))
    vocabulary = pieces(trained)
    assert vocabulary[sentinel(3)] == vocabulary["[S_3]"] == 7
    assert vocabulary[coordinate(2, 5)] == vocabulary["v2=5"] == 34
    assert sorted(vocabulary.values()) == list(range(trained.vocab_size))
    added = [token["content"] for token in json.loads(trained.text)["added_tokens"]]
    assert len(added) == NUM_SPECIAL
    assert min(i for piece, i in vocabulary.items() if piece not in added) == NUM_SPECIAL


def test_texts_come_back_in_lower_case(trained):
    ids = trained.encode("White MATTER, grey matter.")
    assert trained.unk_id not in ids
    assert min(ids) >= NUM_SPECIAL
    assert trained.decode(ids) == "white matter, grey matter."
    assert trained.decode(trained.encode("Ärzte")) == "arzte"
    # What is frequent is one piece, and what was never seen is spelt.
    assert len(trained.encode("matter")) == 1
    assert len(trained.encode("raters")) > 1
    assert trained.decode(trained.encode("raters")) == "raters"
    assert trained.encode("ж") == [trained.unk_id]
    assert trained.encode("") == []


def test_pieces_are_those_of_greedy_longest_matches(trained):
    vocabulary = pieces(trained)
    for word in ("slices", "brains", "hemispherical", "whiter"):
        wanted, start = [], 0
        while start < len(word):
            for end in range(len(word), start, -1):
                piece = ("##" if start else "") + word[start:end]
                if piece in vocabulary:
                    break
            wanted.append(vocabulary[piece])
            start = end
        assert trained.encode(word) == wanted


def test_special_tokens_are_read_only_where_allowed(trained):
    text = "v0=3 v3=9 [S_2] grey matter [EOS]"
    marked = trained.encode(text, allow_special=True)
    vocabulary = pieces(trained)
    middle = [vocabulary["grey"], vocabulary["matter"]]
    assert marked == [vocabulary["v0=3"], vocabulary["v3=9"], 6, *middle, 3]
    assert trained.decode(marked) == "v0=3 v3=9 [S_2] grey matter"
    plain = trained.encode(text)
    assert not {i for i in plain if i < NUM_SPECIAL and i != trained.unk_id}
    # A bin that there is not is no coordinate.
    assert not {*trained.encode("v0=10", allow_special=True)} & {*trained.coordinate_ids[0]}


def test_decoding_ends_at_the_end_and_passes_over_padding(trained):
    ids = trained.encode("grey matter")
    padded = [trained.sos_id, *ids, trained.eos_id, *ids, trained.pad_id]
    assert trained.decode(padded) == trained.decode([*ids, 0, 0]) == "grey matter"
    for wrong in (-1, trained.vocab_size):
        with pytest.raises(UserError, match=f"{wrong} is no id of its vocabulary"):
            trained.decode([wrong])


def test_boxes(trained):
    assert trained.box([1, 0, 9, 5]) == trained.encode("v0=1 v1=0 v2=9 v3=5", allow_special=True)
    for wrong in ([1, 2, 3], [0, 0, 0, 10], [0, -1, 0, 0]):
        with pytest.raises(UserError, match="is no box; one has 4 bins of 0 to 9"):
            trained.box(wrong)


def test_files_there_and_back(trained, tmp_path):
    trained.save(tmp_path / "copy.json")
    for copy in (WordPiece.load(tmp_path / "copy.json"), pickle.loads(pickle.dumps(trained))):
        assert copy.text == trained.text
        assert copy.encode("an axial brain") == trained.encode("an axial brain")
    library = tokenizers.Tokenizer.from_file(str(tmp_path / "copy.json"))
    text = "a brain v0=1 [S_1]"
    assert library.encode(text).ids == trained.encode(text, allow_special=True)


TRAIN = """
import hashlib, random, sys
from medjax.data.wordpiece import train_wordpiece
draw = random.Random(0)
words = ["".join(draw.choice("abcdefgh") for _ in range(draw.randint(2, 7))) for _ in range(200)]
texts = [" ".join(draw.choice(words) for _ in range(8)) for _ in range(200)]
text = train_wordpiece(texts, sys.argv[1], 200, num_sentinels=2, num_bins=3).text
print(hashlib.sha256(text.encode()).hexdigest())
"""


def test_the_same_texts_give_the_same_file(tmp_path):
    """Also in another process, where hash tables have another order."""
    found = {
        subprocess.run(
            [sys.executable, "-c", TRAIN, tmp_path / "tokenizer.json"],
            capture_output=True, text=True, check=True,
        ).stdout
        for _ in range(3)
    }  # fmt: skip
    assert len(found) == 1
    written = (tmp_path / "tokenizer.json").read_bytes()
    assert found == {hashlib.sha256(written).hexdigest() + "\n"}


def test_case_can_be_kept_and_defaults_are_the_originals(tmp_path):
    cased = train_wordpiece(["Brain brain"], tmp_path / "a.json", 100, **SIZES, lowercase=False)
    assert cased.decode(cased.encode("Brain")) == "Brain"
    full = train_wordpiece(TEXTS, tmp_path / "b.json")
    assert len(full.sentinel_ids) == 200
    assert [len(ids) for ids in full.coordinate_ids] == [1000] * 4
    assert full.coordinate_ids[3][-1] == 4203


def test_what_cannot_be_trained_is_refused(tmp_path):
    with pytest.raises(UserError, match="cannot be trained without text"):
        train_wordpiece([" ", "v0=3 [EOS]"], tmp_path / "a.json")
    message = r"vocabulary of 50 has no room for 49 special tokens .* which are \d+ pieces"
    with pytest.raises(UserError, match=message):
        train_wordpiece(TEXTS, tmp_path / "a.json", 50, **SIZES)
    assert not (tmp_path / "a.json").exists()


def other(kind: str) -> str:
    """The file of a tokenizer that is not 4M's."""
    model = {
        "bpe": models.BPE(), "bare": models.WordPiece(unk_token="[UNK]"),
        "uneven": models.WordPiece(unk_token="[UNK]"),
    }[kind]  # fmt: skip
    made = tokenizers.Tokenizer(model)
    made.normalizer, made.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    if kind == "uneven":
        made.add_special_tokens(["[PAD]", "[UNK]", "[SOS]", "[EOS]", "v0=0", "v1=0", "v2=0"])
    return made.to_str()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "x.json is no file of the tokenizers library"),
        (other("bpe"), "x.json holds a BPE tokenizer; 4M's is WordPiece"),
        (other("bare"), r"x.json has no \[PAD\], \[UNK\], \[SOS\], \[EOS\]"),
        (other("uneven"), r"x.json has \[1, 1, 1, 0\] bins"),
    ],
)
def test_other_files_are_refused(text, message):
    with pytest.raises(UserError, match=message):
        WordPiece(text, "x.json")


def test_half_a_character_is_refused(trained, tmp_path):
    message = "half a surrogate pair at character 2"
    with pytest.raises(UserError, match=message):
        trained.encode("a \ud800")
    with pytest.raises(UserError, match=message):
        train_wordpiece(["a \ud800"], tmp_path / "a.json")


def test_a_missing_file(tmp_path):
    with pytest.raises(
        UserError, match=r"Cannot read the tokenizer .*nothing.json: .*No such file"
    ):
        WordPiece.load(tmp_path / "nothing.json")


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(UserError, match="need the tokenizers library: pip install"):
        WordPiece("{}")
