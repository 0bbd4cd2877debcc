"""Lets the tests of this folder import what they share, `reader_files`."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
