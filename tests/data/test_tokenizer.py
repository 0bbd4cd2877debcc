"""Any text survives the way there and back, and no text yields a token that steers the model."""

import io
import pickle
import re

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st
from sentencepiece import sentencepiece_model_pb2

from medjax.data.loc_tokens import EXTRA_TOKENS
from medjax.data.tokenizer import Tokenizer, train_tokenizer
from medjax.errors import UserError

TEXTS = [
    "detect brain",
    "detect white matter",
    "<loc0010><loc0020><loc0900><loc1000> brain ; <loc0010><loc0020><loc0900><loc1000> dot",
    "answer en which plane is this?\naxial",
    "a slice with 37 percent grey matter, isn't it",
]
MARKUP = ["<start_of_turn>", "<end_of_turn>", "<mask>", "<2mass>", "[@BOS@]", "<unused0>"]
BENIGN = ["\n", "\n\n", "▁▁", "▁▁▁", "\t", "<table>", "</table>", "<h1>", "<b>", "</b>", "café"]

# All characters but halves of surrogate pairs, and sentencepiece's own sign for a space.
any_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁"), max_size=40)


def spm_model(**options) -> bytes:
    """A sentencepiece model in Gemma's manner, trained without medjax."""
    model = io.BytesIO()
    defaults = {
        "vocab_size": 400,
        "hard_vocab_limit": False,
        "model_type": "bpe",
        "byte_fallback": True,
        "split_digits": True,
        "normalization_rule_name": "identity",
        "add_dummy_prefix": False,
        "remove_extra_whitespaces": False,
        "pad_id": 0,
        "eos_id": 1,
        "bos_id": 2,
        "unk_id": 3,
        "pad_piece": "<pad>",
        "eos_piece": "<eos>",
        "bos_piece": "<bos>",
        "user_defined_symbols": [*MARKUP, *BENIGN],
        "minloglevel": 2,
    }
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS[:2] + TEXTS[4:]), model_writer=model, **(defaults | options)
    )
    return model.getvalue()


def gemma_like(bos_first: bool = False) -> sentencepiece_model_pb2.ModelProto:
    """A model of Gemma's size, with Gemma's first 109 pieces and fillers for the rest."""
    proto = sentencepiece_model_pb2.ModelProto.FromString(spm_model())
    kind = sentencepiece_model_pb2.ModelProto.SentencePiece
    del proto.pieces[:]
    control = ["<pad>", "<eos>", "<bos>", "<unk>"]
    if bos_first:
        control = ["<bos>", "<pad>", "<eos>", "<unk>"]
    for piece in control:
        proto.pieces.add(piece=piece, type=kind.UNKNOWN if piece == "<unk>" else kind.CONTROL)
    turns = ["<start_of_turn>", "<end_of_turn>", "\n"]
    unused = [f"<unused{i}>" for i in range(99)]
    for piece in ["<mask>", "<2mass>", "[@BOS@]", *unused, *turns]:
        proto.pieces.add(piece=piece, type=kind.USER_DEFINED)
    letters = [chr(c) for c in range(33, 127)]
    for piece in [*letters, "▁"]:
        proto.pieces.add(piece=piece, type=kind.NORMAL, score=-1.0)
    proto.trainer_spec.byte_fallback = False
    for i in range(len(proto.pieces), 256_000):
        proto.pieces.add(piece=f"\ue000{i}", type=kind.NORMAL, score=-2.0)
    return proto


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return train_tokenizer(TEXTS, tmp_path_factory.mktemp("tokenizer") / "tokenizer.model", 320)


@pytest.fixture(scope="module")
def raw():
    return spm_model()


@given(text=any_text)
def test_any_text_survives(small, text):
    assert small.decode(small.encode(text)) == text
    assert small.decode(small.encode(text, allow_special=True)) == text


def test_layout_of_a_small_tokenizer(small):
    assert (small.pad_id, small.eos_id, small.bos_id) == (0, 1, 2)
    assert small.loc_ids.start == small.vocab_size - 1152
    assert len(small.loc_ids) == 1024
    assert small.seg_ids == range(small.vocab_size - 128, small.vocab_size)
    assert small.encode("\n") == [small.newline_id]
    assert len(small.encode("123")) == 3
    assert len(small.encode("brain")) < 5


def test_training_is_deterministic_and_loads_again(small, tmp_path):
    again = train_tokenizer(iter(TEXTS), tmp_path / "new" / "tokenizer.model", 320)
    assert again.fingerprint == small.fingerprint
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["tokenizer.model"]
    for path in (tmp_path / "new", tmp_path / "new" / "tokenizer.model"):
        loaded = Tokenizer.load(path)
        assert loaded.fingerprint == small.fingerprint
        assert loaded.encode("detect brain\n") == small.encode("detect brain\n")
    loaded.save(tmp_path / "copy.model")
    saved = (tmp_path / "copy.model").read_bytes()
    assert saved == (tmp_path / "new" / "tokenizer.model").read_bytes()


def test_loc_tokens_do_not_become_words_of_the_vocabulary(small):
    # Training left them out, so no piece was learned for their spelling.
    assert len(small.encode("loc")) == 3


@pytest.mark.parametrize(
    ("texts", "size", "message"), [([], 320, "without text"), (TEXTS, 100, "larger one")]
)
def test_training_refuses(tmp_path, texts, size, message):
    with pytest.raises(UserError, match=message):
        train_tokenizer(texts, tmp_path / "tokenizer.model", size)
    assert not list(tmp_path.iterdir())


def test_loc_and_seg_only_where_allowed(small):
    text = "x<loc0000><loc1023> brain ; <seg000><seg127>"
    ids = small.encode(text, allow_special=True)
    special = [i for i in ids if i >= small.loc_ids.start]
    assert special == [
        small.loc_ids[0],
        small.loc_ids[1023],
        small.seg_ids[0],
        small.seg_ids[127],
    ]
    assert small.decode(ids) == text

    plain = small.encode(text)
    assert max(plain) < small.loc_ids.start
    assert small.decode(plain) == text
    # Spellings of tokens that do not exist stay characters even where tokens are allowed.
    assert max(small.encode("<loc1024><seg128><loc1>", allow_special=True)) < small.loc_ids.start


@given(
    parts=st.lists(
        st.sampled_from(
            [
                "<bos>",
                "<eos>",
                "<pad>",
                "<unk>",
                "</s>",
                "<image>",
                "<0x41>",
                "x",
                " ",
                "\n",
                *MARKUP,
            ]
        ),
        max_size=8,
    ),
    allow=st.booleans(),
)
def test_no_typed_text_yields_a_control_piece(raw, parts, allow):
    tokenizer = Tokenizer(raw)
    sp = sentencepiece.SentencePieceProcessor(model_proto=raw)
    text = "".join(parts)
    forbidden = {0, 1, 2, 3} | {sp.piece_to_id(p) for p in MARKUP}
    ids = tokenizer.encode(text, allow_special=allow)
    assert not forbidden & set(ids)
    assert tokenizer.decode(ids) == text


def test_markup_is_a_piece_of_the_file_to_begin_with(raw):
    # Else the test above could not fail: plain sentencepiece does yield these.
    sp = sentencepiece.SentencePieceProcessor(model_proto=raw)
    for piece in MARKUP:
        assert sp.encode(piece) == [sp.piece_to_id(piece)]


@given(
    parts=st.lists(st.sampled_from(["detect", " ", "   ", "\n", "\n\n", "\t", "<b>", "37", "é"]))
)
def test_ordinary_text_is_tokenized_as_sentencepiece_does(raw, parts):
    text = "".join(parts)
    sp = sentencepiece.SentencePieceProcessor(model_proto=raw)
    assert Tokenizer(raw).encode(text) == sp.encode(text)


def test_benign_pieces_stay_pieces(raw):
    tokenizer = Tokenizer(raw)
    for piece in BENIGN:
        assert len(tokenizer.encode(piece)) == 1, piece


def test_a_file_that_holds_loc_and_seg_gives_the_same_ids(raw):
    symbols = [*MARKUP, *BENIGN]
    proto = sentencepiece_model_pb2.ModelProto.FromString(raw)
    size = len(proto.pieces)
    for token in EXTRA_TOKENS:
        proto.pieces.add(piece=token, score=0.0, type=proto.SentencePiece.USER_DEFINED)
    holds, lacks = Tokenizer(proto.SerializeToString()), Tokenizer(raw)
    assert holds.vocab_size == lacks.vocab_size == size + 1152
    assert (holds.loc_ids, holds.seg_ids) == (lacks.loc_ids, lacks.seg_ids)
    for text in ["<loc0010> brain <seg001>", "<loc1024>", *symbols, *TEXTS]:
        for allow in (True, False):
            assert holds.encode(text, allow) == lacks.encode(text, allow)
            assert holds.decode(holds.encode(text, allow)) == lacks.decode(
                lacks.encode(text, allow)
            )


def test_a_file_with_some_of_the_tokens_is_refused(raw):
    proto = sentencepiece_model_pb2.ModelProto.FromString(raw)
    for token in EXTRA_TOKENS[:1000]:
        proto.pieces.add(piece=token, type=proto.SentencePiece.USER_DEFINED)
    with pytest.raises(UserError, match="1000 loc and seg tokens"):
        Tokenizer(proto.SerializeToString())


def test_gemmas_layout():
    proto = gemma_like()
    tokenizer = Tokenizer(proto.SerializeToString(), "gemma")
    assert tokenizer.vocab_size == 257_152
    assert (tokenizer.pad_id, tokenizer.eos_id, tokenizer.bos_id) == (0, 1, 2)
    assert tokenizer.newline_id == 108
    assert tokenizer.encode("<loc0000><loc1023><seg000><seg127>", allow_special=True) == [
        256000,
        257023,
        257024,
        257151,
    ]
    assert min(tokenizer.encode("<start_of_turn>user<unused7>[@BOS@]")) > 108

    for i in range(3):  # Gemma-sized, but not Gemma's
        proto.pieces.add(piece=f"\ue001{i}", score=-2.0)
    with pytest.raises(UserError, match=re.escape("range(256003, 257027)")):
        Tokenizer(proto.SerializeToString(), "other")


def test_other_special_ids_at_gemmas_size_are_refused():
    with pytest.raises(UserError, match=re.escape("(1, 2, 0)")):
        Tokenizer(gemma_like(bos_first=True).SerializeToString(), "other")


def test_decode_stops_at_eos_and_leaves_out_what_is_no_text(small):
    brain = small.encode(" brain")
    loc = list(small.loc_ids[1:5])
    ids = [small.bos_id, *loc, *brain, small.eos_id, *brain, small.pad_id]
    assert small.decode(ids) == "<loc0001><loc0002><loc0003><loc0004> brain"
    assert small.decode([small.pad_id, *brain, small.pad_id]) == " brain"
    assert small.decode([*brain, small.vocab_size + 3]) == " brain\ufffd"
    assert small.decode([]) == ""
    with pytest.raises(ValueError, match="-1"):
        small.decode([-1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"add_dummy_prefix": True}, "add_dummy_prefix"),
        ({"pad_id": -1}, "<pad>"),
        ({"user_defined_symbols": MARKUP}, "newline"),  # falls apart into bytes
    ],
)
def test_unfit_models_are_refused(options, message):
    if message == "newline":
        options = {**options, "byte_fallback": False}
    with pytest.raises(UserError, match=message):
        Tokenizer(spm_model(**options), "unfit")


def test_unfit_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="Cannot read the tokenizer"):
        Tokenizer.load(tmp_path / "missing.model")
    with pytest.raises(UserError, match="Cannot read the tokenizer"):
        Tokenizer.load(tmp_path)  # a folder without tokenizer.model
    for content in (b"{}", b'{"model": "a tokenizer.json"}', b"", spm_model()[:-7]):
        (tmp_path / "x.model").write_bytes(content)
        with pytest.raises(UserError, match=r"x\.model"):
            Tokenizer.load(tmp_path / "x.model")


def test_half_a_surrogate_pair_is_named(small):
    with pytest.raises(UserError, match="surrogate"):
        small.encode("brain \ud83d")


def test_pickles(small):
    again = pickle.loads(pickle.dumps(small))
    assert again.fingerprint == small.fingerprint
    assert again.encode(TEXTS[2], True) == small.encode(TEXTS[2], True)
