"""What medjax knows of each modality of 4M: the table, how values become arrays and back.

A new modality is an entry of the table (`table.MODALITIES`, or a recipe's `modalities`) and, if its
content is of a new sort, a transform.
"""

from medjax.modalities.table import MODALITIES, Modality, lookup

__all__ = ["MODALITIES", "Modality", "lookup"]
