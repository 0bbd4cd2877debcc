"""What all commands share: exit codes, and prose on stderr so that stdout stays for results."""

import argparse
import logging
import signal
import sys
from collections.abc import Callable

from tqdm import tqdm

from medjax.errors import UserError


def say(message: str) -> None:
    """Tells the user something, on stderr, above a progress bar if there is one."""
    tqdm.write(message, file=sys.stderr)
    sys.stderr.flush()


def positive(text: str) -> int:
    """For argparse: an integer of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number


def run(main: Callable[[], int | None]) -> None:
    """Runs a command and exits: 0 done, 2 the user's input is wrong, 1 anything else."""
    logging.basicConfig(format="%(message)s")  # warnings read like everything else that is said
    logging.getLogger("medjax_kernels").setLevel(logging.INFO)  # which implementation is chosen
    try:
        code = main() or 0
    except UserError as error:
        say(f"error: {error}")
        code = 2
    except KeyboardInterrupt:
        say("interrupted")
        code = 128 + signal.SIGINT
    sys.exit(code)
