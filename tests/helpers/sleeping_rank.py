"""`senna` whose rank 1 sleeps for ever in step 6 of the first start."""

import os
import sys
import time

from senna.cli import main
from senna.train.trainer import SennaTrainer

compute_loss = SennaTrainer.compute_loss


def sleep(self, *arguments, **options):
    """Compute the loss, or sleep."""
    start, step = os.environ["TORCHELASTIC_RESTART_COUNT"], self.state.global_step + 1
    if self.args.process_index == 1 and (start, step) == ("0", 6):
        time.sleep(1000)
    return compute_loss(self, *arguments, **options)


if __name__ == "__main__":
    SennaTrainer.compute_loss = sleep
    raise SystemExit(main(sys.argv[1:]))
