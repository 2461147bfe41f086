"""moco-evaluate that saves its state after each epoch and kills itself after some epochs.

python -m tests.killed_evaluation EPOCHS FLAGS...
"""

import itertools
import os
import signal
import sys

from moco_tf.cli import evaluate
from moco_tf.evaluation import training_state


def main(epochs: int, arguments: list[str]) -> int:
    """Run the command, and kill this process after the state of `epochs` epochs is saved."""
    training_state.SAVE_SECONDS = 0
    save, saves = training_state.TrainingState.save_if_due, itertools.count(1)

    def save_and_kill(*arguments):
        save(*arguments)
        if next(saves) == epochs:
            os.kill(os.getpid(), signal.SIGKILL)

    training_state.TrainingState.save_if_due = save_and_kill
    return evaluate.main(arguments)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
