"""Head widths that are no power of two, in pieces that are."""


def parts(width: int) -> tuple[tuple[int, int], ...]:
    """(first column, columns) of the pieces that a head's columns are cut into.

    Tensor cores multiply powers of two of 16 and up. 72 columns are 64 and 16 rather than 128,
    which saves a third of the work and of the shared memory; the last piece may stick out.
    """
    whole = 16
    while 2 * whole <= width:
        whole *= 2
    rest = width - whole
    if rest <= 0:
        return ((0, whole),)
    other = 16
    while other < rest:
        other *= 2
    return ((0, 2 * whole),) if other == whole else ((0, whole), (whole, other))


def padded(width: int) -> int:
    """Columns of all pieces together."""
    return sum(size for _, size in parts(width))
