"""One tiny checkpoint of every family of language models that README names, from the plan to the export."""

import pytest
import torch
import transformers
from transformers import AutoTokenizer

from nmtrain.compose import compose_values, prepare_overrides
from nmtrain.config import check_config
from nmtrain.models.roles import weights_by_role
from nmtrain.training.export import evaluate_run, export_run, load_run
from nmtrain.training.plan import make_plan
from nmtrain.training.run import run

SHORT = ["data=listops", "data.train_size=64", "data.val_size=20", "data.test_size=1", "data.max_length=24"]
SHORT += ["train=text", "train.updates=2", "train.batch_size=8", "train.eval_every=1", "measure=off"]
FAMILIES = [
    "t5",
    "t5_v1_1",
    "mt5",
    "umt5",
    "byt5",
    "longt5_local",
    "longt5_global",
    "bart",
    "mbart",
    "pegasus",
    "marian",
    "blenderbot",
    "blenderbot_small",
    "m2m_100",
    "plbart",
    "led",
    "bert",
    "roberta",
    "electra",
    "deberta",
    "deberta_relative",
    "deberta_v2",
    "distilbert",
]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_plans_trains_evaluates_and_exports(family, checkpoint, tmp_path):
    kind = checkpoint.families[family][0]
    model = "t5" if kind == "text_to_text" else "bert"
    line = [
        f"model={model}",
        f"model.pretrained={checkpoint(family)}",
        *SHORT,
        "recipe=ste",
        "sparsity=1:4",
        "mask.roles=[ff,q,k,v,o]",
        f"results_dir={tmp_path}/runs",
    ]
    config = check_config(compose_values(prepare_overrides(line)))
    plan = make_plan(config)
    print(plan.cost.total, len(plan.tensors), plan.by_length.count)
    summary = run(config)
    metrics = evaluate_run(config.run_folder)
    assert {f"val/{k}": v for k, v in metrics.items()} == summary["metrics"]
    expression = export_run(config.run_folder, tmp_path / "out")
    loaded = eval(expression, {"transformers": transformers})
