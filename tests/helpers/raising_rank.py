"""A program whose rank 1 raises in its first start, while rank 0 waits for it. Ranks that end print their number."""

import os
import time

if __name__ == "__main__":
    if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        if os.environ["RANK"] == "1":
            raise ValueError("rank 1 raises")
        time.sleep(1000)
    print(os.environ["RANK"], flush=True)
