"""medjax.train that is killed at a step of a stage: killed.py STAGE STEP [arguments].

The checkpoint of step 4 is being written when step 5 begins, that of step 2 is whole by then.
"""

import os
import signal
import sys

from medjax import cli, train
from medjax.pipelines import fit


class Trainer(fit.Trainer):
    """Kills its process when the step comes."""

    def step(self, *args, **kwargs):
        if running == stage and self.state.step == last - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(*args, **kwargs)


def say(message: str) -> None:
    """Notes which stage is trained, from its first words."""
    global running
    running = message.split(":")[0]


running = ""
stage, last = sys.argv[1], int(sys.argv[2])
fit.Trainer, fit.say = Trainer, say
del sys.argv[1:3]
cli.run(train.main)
