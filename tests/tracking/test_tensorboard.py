"""TensorBoard shows each number of metrics.jsonl, and the means of noise.jsonl, once."""

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nmtrain.training.run import run


def shown(folder):
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    points = [(tag, event.step, event.value) for tag in events.Tags()["scalars"] for event in events.Scalars(tag)]
    rows = {}
    for tag, step, value in points:
        rows.setdefault(step, {})[tag] = value
    assert len(points) == sum(len(row) for row in rows.values())  # none twice
    return rows


def test_resumed_run_shows_every_record_once(make_config, die_in_update, truth):
    config = make_config("measure.every=4", "train.checkpoint_every=8", "train.log_every=2", "tracking=tensorboard")
    die_in_update(config, 11)
    run(config)
    expected = truth(config.run_folder)
    assert sorted(expected) == [2, 4, 6, 8, 10, 12]
    assert {"train/loss", "final/accuracy", "noise/flip_rate"} <= expected[12].keys()
    got = shown(config.run_folder)
    assert {update: row.keys() for update, row in got.items()} == {u: row.keys() for u, row in expected.items()}
    for update, row in expected.items():
        assert got[update] == pytest.approx(row, rel=1e-6)  # float32 there
