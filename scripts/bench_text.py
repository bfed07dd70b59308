"""Peak memory of text that is read from files: of a process that tokenises, digests and draws 1,000 batches.

    python scripts/bench_text.py             # 30 and 300 MB of text, 0.1 and 1 million pairs; needs 4 GB of disk

Each case is a process of its own, with byte tokens and an empty cache. Anonymous memory is what only ending the process
gives back; the rest, pages of files and libraries, the system can take back when it needs them. Reads /proc: Linux.
"""

from __future__ import annotations

import argparse
import platform
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from threading import Event, Thread

BATCHES, BATCH_SIZE = 1000, 64
SIZES = (1, 10)  # times 30 MB of text, times 100,000 pairs


def write_text(folder: Path, size: int) -> None:
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 9))) for _ in range(20_000)]
    with open(folder / "text.txt", "w") as file:
        for _ in range(size * 46):
            file.writelines(" ".join(draw.choices(words, k=16)) + "\n" for _ in range(6_250))


def write_pairs(folder: Path, size: int) -> None:
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 9))) for _ in range(20_000)]
    for split, count in (("train", size * 100_000), ("validation", 1_000)):
        with open(folder / f"{split}.csv", "w") as file:
            file.write("en,de\n")
            for _ in range(count):
                file.write(",".join(" ".join(draw.choices(words, k=draw.randint(4, 30))) for _ in "ed") + "\n")


CASES = {"text": write_text, "wmt": write_pairs}


def measure(name: str, folder: str) -> None:
    """Print the peaks of this process, anonymous and all of it, in MiB."""
    from nmtrain.data import load_data
    from nmtrain.data.text.tokens import ByteTokenizer

    ended, peaks = Event(), [0, 0]

    def watch() -> None:
        while not ended.wait(0.02):
            status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
            found = (int(status[key].split()[0]) // 1024 for key in ("RssAnon", "VmHWM"))
            peaks[:] = map(max, peaks, found)

    watcher = Thread(target=watch)
    watcher.start()
    data = load_data(name, path=f"{folder}/data", cache_dir=f"{folder}/cache", seed=0, tokenizer=ByteTokenizer())
    data.digest()
    for update in range(BATCHES):
        data.train_batch(update, BATCH_SIZE)
    ended.set()
    watcher.join()
    print(*peaks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)  # a process of one case: source, folder
    arguments = parser.parse_args()
    if arguments.measure:
        measure(*arguments.measure)
        return
    print(f"Python {platform.python_version()}, {platform.machine()}; peaks in MiB: anonymous, all")
    for name, write in CASES.items():
        for size in SIZES:
            with tempfile.TemporaryDirectory() as folder:
                (Path(folder) / "data").mkdir()
                write(Path(folder) / "data", size)
                bytes_ = sum(file.stat().st_size for file in (Path(folder) / "data").iterdir())
                command = [sys.executable, __file__, "--measure", name, folder]
                anonymous, whole = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
            print(f"  {name:5} {bytes_ / 1e6:6.0f} MB of files   {anonymous:>6} {whole:>6}", flush=True)


if __name__ == "__main__":
    main()
