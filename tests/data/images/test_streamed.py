import io
import logging
import multiprocessing
import os
import pickle
import random
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from nmtrain.data.images.files import ahead
from nmtrain.data.images.files.ahead import worker_fault
from nmtrain.data.images.files.streamed import StreamedImages
from nmtrain.data.shapes import DataShape
from nmtrain.errors import DataError, TrainingError

TRAIN, VAL, BATCH, SIDE = 26, 7, 4, 16


def content(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def rows(first: int, count: int, damaged: dict[int, bytes]) -> datasets.Dataset:
    """The label of each is its row, so that a batch says which images are in it."""
    cells = [{"bytes": damaged.get(i, content(first + i)), "path": f"{i}.png"} for i in range(count)]
    features = datasets.Features({"image": datasets.Image(decode=False), "label": datasets.Value("int64")})
    return datasets.Dataset.from_dict({"image": cells, "label": list(range(count))}, features)


def make_data(seed: int = 0, train_damaged: dict | None = None, val_damaged: dict | None = None, **changes):
    options = {"channels": 3, "image_size": SIDE, "interpolation": "bilinear", "crop_pct": 0.9, "crop_mode": "center"}
    options |= {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.25], "auto_augment": "rand-m15-n2-mstd0"}
    options |= {"crop_scale": [0.2, 1.0], "crop_ratio": [0.75, 1.33], "hflip": 0.5, "color_jitter": 0.3, "erase": 0.3}
    options |= {"repeats": 1, "max_damaged": 5, "workers": 0, "prefetch": 2}
    return StreamedImages(
        name="random",
        shape=DataShape(num_classes=TRAIN, channels=3, image_size=SIDE, train_size=TRAIN, val_size=VAL),
        class_names=[str(i) for i in range(TRAIN)],
        train=rows(0, TRAIN, train_damaged or {}),
        val=rows(TRAIN, VAL, val_damaged or {}),
        seed=seed,
        options=SimpleNamespace(**options | changes),
    )


@pytest.fixture
def make():
    """`make_data`, whose workers end with the test."""
    made = []

    def make(*arguments, **changes):
        made.append(make_data(*arguments, **changes))
        return made[-1]

    yield make
    for data in made:
        data.close()


def same(one, other) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def children() -> list[int | None]:
    return [process.pid for process in multiprocessing.active_children()]


def test_batches_have_the_promised_shapes_types_and_levels(make):
    inputs, targets = make().train_batch(0, BATCH)
    assert inputs.shape == (BATCH, 3, SIDE, SIDE)
    assert inputs.dtype == torch.float32
    assert targets.dtype == torch.int64
    assert -2.6 < inputs.min() < 0 < inputs.max() < 4.1


def test_a_batch_is_the_same_for_any_number_of_workers_and_from_any_update_on(make):
    alone = make(workers=0)
    wanted = {update: alone.train_batch(update, BATCH) for update in range(9)}  # over an epoch's end
    for workers in (1, 2):
        data = make(workers=workers)
        for update in (0, 1, 2, 3, 4, 5, 6, 7, 8, 3, 4, 8, 0):
            assert same(data.train_batch(update, BATCH), wanted[update]), (workers, update)
    assert same(make(workers=2).train_batch(5, BATCH), wanted[5])


def test_evaluation_between_updates_changes_neither(make):
    data, other = make(workers=2), make(workers=0)
    for update in range(3):
        assert same(data.train_batch(update, BATCH), other.train_batch(update, BATCH))
        for one, two in zip(data.val_batches(3), other.val_batches(3), strict=True):
            assert same(one, two)
    next(data.val_batches(3))  # left in the middle
    assert [len(labels) for _, labels in data.val_batches(3)] == [3, 3, 1]


@pytest.mark.parametrize("workers", [0, 1])
def test_the_global_random_states_are_untouched(make, workers):
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    data = make(workers=workers)
    data.train_batch(3, BATCH)
    list(data.val_batches(4))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.random.get_state()[1].tolist() == before[2]


def test_each_epoch_is_its_own_permutation_and_each_image_is_augmented_anew(make):
    data = make()
    assert data.updates_per_epoch(13) == 2
    epochs = [[data.train_batch(2 * epoch + i, 13) for i in range(2)] for epoch in range(2)]
    orders = [torch.cat([targets for _, targets in epoch]) for epoch in epochs]
    images = [
        torch.cat([inputs for inputs, _ in epoch])[order.argsort()] for epoch, order in zip(epochs, orders, strict=True)
    ]
    for order in orders:
        assert order.sort().values.tolist() == list(range(TRAIN))
    assert not torch.equal(*orders)
    assert ((images[0] - images[1]).abs().amax(dim=(1, 2, 3)) > 0.1).all()


def test_the_runs_seed_decides_order_and_augmentation(make):
    one, other = make(seed=0).train_batch(0, TRAIN), make(seed=1).train_batch(0, TRAIN)
    assert not torch.equal(one[1], other[1])
    assert ((one[0][one[1].argsort()] - other[0][other[1].argsort()]).abs().amax(dim=(1, 2, 3)) > 0.1).all()


def test_repeats_follow_each_other_augmented_anew_and_an_epoch_stays_as_long(make):
    once, data = make(), make(repeats=3, workers=1)
    assert data.updates_per_epoch(BATCH) == once.updates_per_epoch(BATCH) == 6
    order = torch.cat([once.train_batch(update, BATCH)[1] for update in range(6)]).tolist()
    inputs, targets = map(torch.cat, zip(*[data.train_batch(update, BATCH) for update in range(6)], strict=True))
    assert targets.tolist() == [index for index in order[:8] for _ in range(3)]
    assert not torch.equal(inputs[0], inputs[1])


def test_validation_is_whole_in_order_and_as_timm_prepares_it(make):
    from timm.data import create_transform

    data = make(workers=2)
    inputs, targets = map(torch.cat, zip(*data.val_batches(4), strict=True))
    assert targets.tolist() == list(range(VAL))
    cfg = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.25), "crop_pct": 0.9, "interpolation": "bilinear"}
    transform = create_transform((3, SIDE, SIDE), **cfg)
    theirs = [transform(Image.open(io.BytesIO(content(TRAIN + i)))) for i in range(VAL)]
    assert torch.equal(inputs, torch.stack(theirs))


def test_a_damaged_training_image_is_named_once_and_the_next_readable_row_takes_its_place(make, caplog):
    damaged = {3: b"no image", 9: content(9)[:200], 10: b"", 25: content(25)[:-30]}
    with caplog.at_level(logging.WARNING, "nmtrain"):
        data, whole, ahead = make(train_damaged=damaged), make(), make(train_damaged=damaged, workers=2)
        for update in range(12):  # two epochs
            (inputs, targets), (undamaged, labels) = data.train_batch(update, BATCH), whole.train_batch(update, BATCH)
            assert same(ahead.train_batch(update, BATCH), (inputs, targets))
            instead = {3: 4, 9: 11, 10: 11, 25: 0}
            assert targets.tolist() == [instead.get(label, label) for label in labels.tolist()]
            fine = [place for place, label in enumerate(labels.tolist()) if label not in damaged]
            assert torch.equal(inputs[fine], undamaged[fine])
    assert set(data.damaged) <= {f"image {row} of train ({row}.png)" for row in damaged}
    assert len(data.damaged) == 4
    assert data.damaged == ahead.damaged
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 8  # of two data sets
    assert "image 3 of train (3.png) cannot be read and is left out: no image that PIL knows" in lines


def test_damaged_validation_images_are_left_out_and_told(make, caplog):
    data = make(val_damaged={0: b"text", 5: content(5)[:100]}, workers=1)
    with caplog.at_level(logging.WARNING, "nmtrain"):
        for _ in range(2):
            assert torch.cat([targets for _, targets in data.val_batches(1)]).tolist() == [1, 2, 3, 4, 6]
    assert list(data.damaged) == ["image 0 of val (0.png)", "image 5 of val (5.png)"]
    assert len(caplog.records) == 2


@pytest.mark.parametrize("workers", [0, 2])
def test_one_damaged_image_too_many_ends_the_run_naming_the_first(make, workers):
    data = make(train_damaged=dict.fromkeys(range(0, TRAIN, 3), b"no"), max_damaged=4, workers=workers)
    wanted = r"data.max_damaged=4: \d images cannot be read: image \d+ of train"
    with pytest.raises(TrainingError, match=wanted) as error:
        data.train_batch(0, TRAIN)
    assert " more. Mend or remove them" in str(error.value)


def test_where_nothing_can_be_read_the_run_ends_whatever_is_allowed(make):
    damaged = {"train_damaged": dict.fromkeys(range(TRAIN), b"no"), "val_damaged": dict.fromkeys(range(VAL), b"")}
    data = make(max_damaged=10**6, **damaged)
    with pytest.raises(TrainingError, match="none of the 26 training images can be read"):
        data.train_batch(0, BATCH)
    with pytest.raises(TrainingError, match="none of the 7 images to evaluate on can be read"):
        list(data.val_batches(4))


def test_files_that_are_gone_are_damaged(make, tmp_path):
    data = make()
    Image.new("RGB", (9, 9)).save(tmp_path / "there.png")
    cells = [{"bytes": None, "path": str(tmp_path / f"{name}.png")} for name in ("there", "gone")]
    features = datasets.Features({"image": datasets.Image(decode=False), "label": datasets.Value("int64")})
    data._val_ahead.samples.rows = datasets.Dataset.from_dict({"image": cells, "label": [0, 1]}, features)
    data._val = data._val_ahead.samples.rows
    assert [labels.tolist() for _, labels in data.val_batches(4)] == [[0]]
    assert "No such file" in data.damaged[f"image 1 of val ({tmp_path}/gone.png)"]


def test_a_row_without_an_image_is_damaged(make):
    data = make()
    features = datasets.Features({"image": datasets.Image(decode=False), "label": datasets.Value("int64")})
    cells = {"image": [{"bytes": content(0), "path": None}, None], "label": [0, 1]}
    data._val = data._val_ahead.samples.rows = datasets.Dataset.from_dict(cells, features)
    assert [labels.tolist() for _, labels in data.val_batches(4)] == [[0]]
    assert data.damaged == {"image 1 of val": "there is none"}


def test_more_workers_than_cores_are_no_warning_of_torch(make):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make(workers=ahead.cores() + 1).train_batch(0, BATCH)


def test_workers_end_when_data_are_closed_and_other_ones_start_again(make):
    before = set(children())
    data = make(workers=2)
    first = data.train_batch(0, BATCH)
    next(data.val_batches(2))
    assert len(set(children()) - before) == 4
    data.close()
    assert set(children()) == before
    data.close()
    assert same(data.train_batch(0, BATCH), first)


def test_workers_leave_signals_to_training_and_run_one_thread(make):
    data = make(workers=2)
    wanted = [make().train_batch(update, BATCH) for update in range(20)]
    assert same(data.train_batch(0, BATCH), wanted[0])
    for worker in data._train_ahead._iterator._workers:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
            os.kill(worker.pid, number)
    for update in range(1, 20):
        assert same(data.train_batch(update, BATCH), wanted[update])


@pytest.mark.parametrize(
    "told",
    [
        "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers are out of"
        " shared memory. Please try to raise your shared memory limit.",
        "Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
        "RuntimeError: unable to write to file </torch_9_1>: No space left on device (28)",
    ],
)
def test_too_little_shared_memory_is_told_in_plain_words(told):
    message = worker_fault(RuntimeError(told))
    assert "/dev/shm" in message
    assert "data.workers=0" in message
    assert "\n" not in message
    assert worker_fault(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None


def test_shared_memory_that_cannot_hold_the_batches_is_refused_at_once(make, monkeypatch):
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_bavail=2, f_frsize=1024))
    wanted = r"data.workers=2: .* need 0 MB of shared memory, and /dev/shm has 0 MB free.*data.workers=0"
    with pytest.raises(DataError, match=wanted):
        make(workers=2).train_batch(0, BATCH)
    make(workers=0).train_batch(0, BATCH)


def test_null_workers_are_one_for_each_core_up_to_eight(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(3), raising=False)
    assert ahead.workers_for(None) == 3
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(64), raising=False)
    assert ahead.workers_for(None) == 8
    assert ahead.workers_for(0) == 0


def test_what_workers_are_given_can_be_sent_to_a_new_interpreter(make):
    data = make()
    for part in (data._train_ahead, data._val_ahead):
        assert len(pickle.loads(pickle.dumps(part.samples)).rows) == len(part.samples.rows)


def test_the_digest_is_of_the_labels(make):
    data, other = make(), make(seed=4)
    assert data.digest() == other.digest()
    other._train = other._train.select(range(1, TRAIN))
    assert data.digest() != other.digest()


_KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from test_streamed import TrainingError, make_data, worker_fault
data = make_data(workers=1)
data.train_batch(0, 4)
try:
    os.kill(data._train_ahead._iterator._workers[0].pid, signal.SIGKILL)
    for update in range(1, 50):
        data.train_batch(update, 4)
except Exception as error:
    told = str(error) if isinstance(error, TrainingError) else worker_fault(error)
try:
    data.close()
finally:
    print(told)
"""


@pytest.mark.slow
def test_a_worker_that_is_killed_ends_the_run_in_plain_words():
    """In a process of its own, since torch raises what it has to say wherever python is at that moment."""
    code = _KILLED.format(tests=str(Path(__file__).parent))
    end = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert end.stdout.startswith("a process that reads images ended ("), end.stderr
    assert "lower data.workers; 0 does without" in end.stdout


_PARENT = """
import sys, time
sys.path.insert(0, {tests!r})
from test_streamed import make_data
data = make_data(workers=2)
data.train_batch(0, 4)
print(*[worker.pid for worker in data._train_ahead._iterator._workers], flush=True)
if sys.argv[1] == "wait":
    time.sleep(60)
"""


def alive(process: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("how", ["wait", "end"])
def test_workers_end_with_their_parent(how):
    """Killed, or at its end without having closed anything."""
    code = _PARENT.format(tests=str(Path(__file__).parent))
    parent = subprocess.Popen([sys.executable, "-c", code, how], stdout=subprocess.PIPE, text=True)
    workers = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(workers) == 2
    if how == "wait":
        assert all(map(alive, workers))
        parent.kill()
    assert parent.wait(30) == (-signal.SIGKILL if how == "wait" else 0)
    deadline = time.monotonic() + 20
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not any(map(alive, workers))
