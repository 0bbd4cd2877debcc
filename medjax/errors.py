"""The error that is the user's to mend."""


class UserError(Exception):
    """Something given to medjax is wrong: a config key, a file, a row, a checkpoint.

    The message says what is wrong, where (file and line, key, or step), and what to do. The
    commands print it without a traceback and exit with code 2.
    """
