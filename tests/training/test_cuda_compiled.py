"""Whole runs on a GPU by torch.compile as users have it: few graphs, CUDA graphs that are used, and the same losses."""

import pytest
import torch
from torch._dynamo.utils import counters

from nmtrain.config.check import check_config
from nmtrain.config.compose import compose_values, prepare_overrides
from nmtrain.training.loop import Trainer
from nmtrain.training.run import run
from tests.training.test_cuda import BERT, SHORT, T5, VIT, trained

DEVICE = "cuda"
pytestmark = pytest.mark.cuda
MODELS = {"vit": VIT, "t5": T5, "bert": BERT}


@pytest.fixture
def make_config(tmp_path):
    def make(*overrides):
        line = [*SHORT, f"train.device={DEVICE}", f"results_dir={tmp_path}", *overrides]
        return check_config(compose_values(prepare_overrides(line)))

    return make


@pytest.fixture
def made(monkeypatch):
    """The graphs that each update made, as a run goes on."""
    torch._dynamo.reset()
    counters.clear()
    found, original = [], Trainer.update

    def watched(self, number):
        before = counters["stats"]["unique_graphs"]
        result = original(self, number)
        found.append(counters["stats"]["unique_graphs"] - before)
        return result

    monkeypatch.setattr(Trainer, "update", watched)
    yield found
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("model", "mode"),
    [("vit", "default"), ("vit", "reduce-overhead"), ("t5", "reduce-overhead"), ("bert", "default")],
)
def test_compiled_runs_make_a_graph_at_the_start_of_a_phase_and_learn_the_same(model, mode, made, make_config):
    line = [*MODELS[model], "recipe=sdgf_stepwise", "recipe.dense_fraction=0.3", "train.updates=14"]
    eager = trained(make_config(*line))
    made.clear()
    compiled = trained(make_config(*line, f"train.compile={mode}"))
    assert compiled == pytest.approx(eager, abs=1e-3)
    assert (made[0], made[4]) == (1, 1)  # at 4 weights become sparse
    assert sum(made) <= (2 if model == "vit" else 4)  # of text a second one each, at the first other length
    assert not counters["inductor"]["cudagraph_skips"]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_in_half_precision_too(precision, make_config, made):
    line = [*VIT, f"train.precision={precision}", "recipe=mdgf_exponential", "train.ema=0.9", "measure=default"]
    eager = trained(make_config(*line))
    made.clear()
    compiled = trained(make_config(*line, "train.compile=reduce-overhead", "measure.every=4"))
    assert compiled == pytest.approx(eager, abs=2e-2)
    assert made == [1, *[0] * 11]
    assert not counters["inductor"]["cudagraph_skips"]


def test_what_is_kept_beside_masks_stays_where_cuda_graphs_look_for_it(make_config, made):
    """Exchanged masks, factors and averages change their values and not their places."""
    for recipe in ("rigl", "feather", "top_kast", "step"):
        line = [*VIT, f"recipe={recipe}", "train.micro_batches=1"]
        eager = trained(make_config(*line))
        torch._dynamo.reset()
        assert trained(make_config(*line, "train.compile=reduce-overhead")) == pytest.approx(eager, abs=1e-3), recipe


def test_a_compiled_run_is_finished_by_one_that_is_not(make_config, stopped):
    config = make_config(*VIT, "train.compile=reduce-overhead", "train.checkpoint_every=1")
    stopped(config)
    assert run(config)["status"] == "finished"
