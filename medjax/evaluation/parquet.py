"""Predictions of one system or of several as a table: predictions.parquet.

A row is a system's answer to an example, with the image in the form that Hugging Face datasets know
({bytes, path}), so that the file alone can be looked at:

    system, id, image_id, patient, group, task, question, generated, truth
    score_<metric>              a column each; null where an answer has no such score
    confidence, log_prob, log_prob_per_token, truncated
    extra_<key>                 what else is known of the example, if it is a text or a number
    image                       a reduced copy, not for diagnosis

Rows of an example follow each other, system by system. An image's bytes are stored once in a group
of rows, by parquet's dictionaries, however many rows show it.
"""

import io
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from medjax.errors import UserError
from medjax.evaluation.predictions import Prediction, by_id
from medjax.files import write_whole
from medjax.thumbnails import Thumbnail

SCORE, EXTRA = "score_", "extra_"
_TEXTS = ("id", "question", "generated", "truth", "task", "group")
# So many that few images are in two groups, so few that a group fits into memory.
_ROWS_PER_GROUP = 20_000
_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_HUGGING_FACE = {"info": {"features": {"image": {"_type": "Image"}}}}


def write_parquet(
    path: str | os.PathLike[str],
    systems: Mapping[str, Sequence[Prediction]],
    images: Mapping[str, Thumbnail] | None = None,
) -> None:
    """Writes the table, whole or not at all; equal arguments give equal bytes.

    Args:
      systems: predictions by system.
      images: by image key; without them there is no column of images.

    Raises:
      ValueError: a system has an id twice, or an image is missing.
    """
    table, keys = to_table(systems), [prediction.image_key for _, prediction in _rows(systems)]
    schema = table.schema
    if images is not None:
        missing = [key for key in keys if key not in images]
        if missing:
            raise ValueError(f"images are missing, such as {missing[0]!r}")
        schema = schema.append(pa.field("image", _IMAGE))
        schema = schema.with_metadata({"huggingface": json.dumps(_HUGGING_FACE)})
    # Images have names of their own: their keys may be paths of the machine that they are on.
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    data = io.BytesIO()
    options: dict[str, Any] = {"compression": "zstd", "dictionary_pagesize_limit": 1 << 30}
    with pq.ParquetWriter(data, schema, **options) as writer:
        for start in range(0, max(len(keys), 1), _ROWS_PER_GROUP):
            group = table.slice(start, _ROWS_PER_GROUP)
            if images is not None:
                values = [
                    {"bytes": images[k].data, "path": f"{numbers[k]:06d}.{images[k].format}"}
                    for k in keys[start : start + _ROWS_PER_GROUP]
                ]
                group = group.append_column("image", pa.array(values, _IMAGE))
            writer.write_table(group.cast(schema), _ROWS_PER_GROUP)
    write_whole(path, data.getvalue())


def to_table(systems: Mapping[str, Sequence[Prediction]]) -> pa.Table:
    """The table that `write_parquet` writes, without images."""
    rows = _rows(systems)
    answers = [prediction for _, prediction in rows]
    columns: dict[str, pa.Array] = {
        "system": _texts([name for name, _ in rows]),
        "id": _texts([p.id for p in answers]),
        "image_id": _texts([p.image_key for p in answers]),
        "patient": _texts([_text_or_none(p.extra.get("patient")) for p in answers]),
        **{
            name: _texts([getattr(p, name) for p in answers])
            for name in ("group", "task", "question", "generated", "truth")
        },
    }
    for metric in dict.fromkeys(metric for p in answers for metric in p.scores):
        columns[SCORE + metric] = pa.array([p.scores.get(metric) for p in answers], pa.float64())
    for name in ("confidence", "log_prob", "log_prob_per_token"):
        columns[name] = pa.array([getattr(p, name) for p in answers], pa.float64())
    columns["truncated"] = pa.array([p.truncated for p in answers], pa.bool_())
    for key in dict.fromkeys(key for p in answers for key in p.extra if key != "patient"):
        values = [_plain(p.extra.get(key)) for p in answers]
        if any(value is not None for value in values):
            columns[EXTRA + key] = _column(values)
    return pa.table(list(columns.values()), names=[_encodable(name) for name in columns])


def read_parquet(path: str | os.PathLike[str]) -> dict[str, list[Prediction]]:
    """Reads predictions by system; of `extra`, what `write_parquet` could keep. No image is read.

    Raises:
      UserError: the file is missing, or not such a table.
    """
    try:
        schema = pq.read_schema(path)
        table = pq.read_table(path, columns=[name for name in schema.names if name != "image"])
    except (OSError, pa.ArrowException) as error:
        raise UserError(
            f"{path}: cannot read these predictions ({error}). Run the evaluation again to write "
            "the file anew."
        ) from error
    systems: dict[str, list[Prediction]] = {}
    try:
        for row in table.to_pylist():
            systems.setdefault(row["system"], []).append(_prediction(row))
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{path}: not a table of predictions as medjax writes it ({error})."
        ) from error
    return systems


def _rows(systems: Mapping[str, Sequence[Prediction]]) -> list[tuple[str, Prediction]]:
    """The rows in their order: an example's, system by system, follow each other."""
    indices = {name: by_id(of_system) for name, of_system in systems.items()}
    ids = dict.fromkeys(id for index in indices.values() for id in index)
    return [(name, index[id]) for id in ids for name, index in indices.items() if id in index]


def _prediction(row: Mapping[str, Any]) -> Prediction:
    extra = {"patient": row["patient"], **_named(row, EXTRA)}
    return Prediction(
        image_key=row["image_id"],
        **{name: row[name] for name in (*_TEXTS, "log_prob", "log_prob_per_token", "truncated")},
        scores={key: value for key, value in _named(row, SCORE).items() if value is not None},
        extra={key: value for key, value in extra.items() if value is not None},
    )


def _named(row: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {k.removeprefix(prefix): value for k, value in row.items() if k.startswith(prefix)}


def _plain(value: Any) -> str | int | float | bool | None:
    """A text or a number, as plain Python; None for everything else."""
    if hasattr(value, "ndim") and value.ndim == 0:
        value = value.item()
    return value if isinstance(value, str | int | float) else None


def _column(values: Sequence[str | int | float | bool | None]) -> pa.Array:
    """Numbers where all are numbers, else texts."""
    kinds = {type(value) for value in values if value is not None}
    for allowed, kind in (
        ({bool}, pa.bool_()),
        ({int}, pa.int64()),
        ({int, float}, pa.float64()),
    ):
        if kinds <= allowed:
            try:
                return pa.array(values, kind)
            except (OverflowError, pa.ArrowException):  # an integer that a column cannot hold
                break
    return _texts([None if value is None else str(value) for value in values])


def _texts(values: Sequence[str | None]) -> pa.Array:
    return pa.array([v if v is None else _encodable(v) for v in values], pa.string())


def _text_or_none(value: Any) -> str | None:
    return None if value is None or value == "" else str(value)


def _encodable(text: str) -> str:
    """Half a surrogate pair has no UTF-8, and becomes "?"."""
    return text.encode("utf-8", "replace").decode("utf-8")
