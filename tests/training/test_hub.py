"""What has to come from a hub that cannot be reached ends at once, with one message that names the local way."""

import json
import subprocess
import sys

import pytest

from nmtrain.config.check import check_config
from nmtrain.config.compose import compose_values, prepare_overrides
from nmtrain.errors import DataError
from nmtrain.training.plan import make_plan
from nmtrain.training.run import run


@pytest.mark.parametrize(
    ("overrides", "what", "option"),
    [
        (["model=t5_base"], "model.pretrained=google-t5/t5-base", "model.pretrained=FOLDER"),
        (["model=t5", "model.name=google/mt5-small"], "model.name=google/mt5-small", "model.name=FOLDER"),
        (["model=t5", "model.tokenizer=google/x"], "model.tokenizer=google/x", "model.tokenizer=FOLDER"),
    ],
)
def test_a_model_that_is_not_here_is_refused_before_anything_is_made(overrides, what, option, tmp_path):
    config = check_config(compose_values(prepare_overrides([*overrides, f"results_dir={tmp_path}/runs"])))
    with pytest.raises(DataError) as refusal:
        make_plan(config)
    message = str(refusal.value)
    assert message.startswith(f"{what} is not on this machine")
    assert message.endswith(f"give {option}")
    assert not (tmp_path / "runs").exists()


def test_data_that_are_not_here_fail_the_run_with_the_message_as_its_reason(tmp_path):
    line = ["model=bert", "data=glue", "data.task=rte", f"results_dir={tmp_path}/runs", "sparsity=1:8"]
    config = check_config(compose_values(prepare_overrides(line)))
    with pytest.raises(DataError, match=r"^data=glue data\.task=rte is not on this machine.*give data\.path=FOLDER$"):
        run(config)
    status = json.loads((config.run_folder / "status.json").read_text())
    assert status["state"] == "failed"
    assert status["reason"].endswith("give data.path=FOLDER")


@pytest.mark.slow
def test_the_command_line_says_it_in_one_line(tmp_path):
    line = ["sparsity=1:8", f"results_dir={tmp_path}/runs", "model=t5", "data=wmt"]
    done = subprocess.run([sys.executable, "-m", "nmtrain.cli", *line], capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    (message,) = done.stderr.splitlines()
    assert message.endswith("give data.path=FOLDER")
