"""What `cluster=` says, as settings of a launcher; each thing that is missing is one message."""

import pytest

from nmtrain.config.compose import compose_values, prepare_overrides
from nmtrain.errors import ConfigError
from nmtrain.launch import cluster as clusters
from nmtrain.launch.cluster import at_once, launcher_overrides, take_share
from nmtrain.launch.job import checked


def chosen(tiny, *line):
    return checked(compose_values(prepare_overrides([*tiny, *line])))


def test_local_runs_two_at_once_or_several_on_each_gpu(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(clusters, "_gpus", list)
    config = chosen(tiny, "cluster=local")
    assert launcher_overrides(config.cluster, [], tmp_path) == ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    assert at_once(chosen(tiny, "cluster=local", "cluster.jobs=5").cluster) == 5
    monkeypatch.setattr(clusters, "_gpus", lambda: ["0", "1", "5"])
    assert at_once(chosen(tiny, "cluster=local", "cluster.per_gpu=4").cluster) == 12
    assert at_once(chosen(tiny).cluster) == 1


def test_processes_take_gpus_by_turns_and_share_the_cores(monkeypatch):
    threads = []
    monkeypatch.setattr(clusters, "_gpus", lambda: ["0", "5"])
    monkeypatch.setattr("torch.set_num_threads", threads.append)
    monkeypatch.setattr("nmtrain.data.images.files.ahead.cores", lambda: 16)
    for turn, device in enumerate(["0", "5", "0"]):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,5")
        take_share(4, turn)
        assert clusters.os.environ["CUDA_VISIBLE_DEVICES"] == device
    assert threads == [4, 4, 4]


def test_slurm_has_what_sbatch_is_to_be_told(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(clusters.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(clusters.importlib.util, "find_spec", lambda name: name)
    line = ["cluster=slurm", "cluster.partition=gpu", "cluster.gpus=1", "cluster.constraint='a100&nvlink'"]
    line += ["cluster.options={qos:high}", 'cluster.setup=["module load cuda", "echo \\"$HOME\\""]']
    given = launcher_overrides(chosen(tiny, *line).cluster, [], tmp_path)
    assert given[0] == "hydra/launcher=submitit_slurm"
    assert given[1] == f'++hydra.launcher.submitit_folder="{tmp_path}/.sweeps/submitit/%j"'
    assert set(given[3:]) == {
        '++hydra.launcher.partition="gpu"',
        "++hydra.launcher.timeout_min=1440",
        "++hydra.launcher.signal_delay_s=120",
        "++hydra.launcher.gpus_per_node=1",
        '++hydra.launcher.constraint="a100&nvlink"',
        "++hydra.launcher.array_parallelism=256",
        "++hydra.launcher.max_num_timeout=100",
        '++hydra.launcher.additional_parameters={qos:"high"}',
        '++hydra.launcher.setup=["module load cuda","echo \\"$HOME\\""]',
    }


def test_a_run_over_several_nodes_of_slurm_has_the_processes_of_all(tiny, tmp_path, monkeypatch, refused):
    monkeypatch.setattr(clusters.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(clusters.importlib.util, "find_spec", lambda name: name)
    line = ["cluster=slurm", "cluster.nodes=2", "launch.processes=4"]
    config = chosen(tiny, *line)
    assert (config.launch.nodes, config.launch.world) == (2, 8)
    assert "++hydra.launcher.nodes=2" in launcher_overrides(config.cluster, [], tmp_path)
    assert config.run_name == chosen(tiny).run_name
    told = refused("-m", *tiny, "seed=0,1", *line, "launch.nodes=3")
    assert told == "launch.nodes=3: a job has cluster.nodes=2; leave launch.nodes out"
    told = refused("-m", *tiny, "seed=0,1", *line[:2])
    assert told == "launch.nodes=2: say how many processes each has: launch.gpus or launch.processes"


def test_what_is_missing_is_said_before_anything_starts(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(clusters.importlib.util, "find_spec", lambda name: None)
    slurm = chosen(tiny, "cluster=slurm").cluster
    with pytest.raises(ConfigError, match=r"cluster=slurm: needs submitit; pip install 'nmtrain\[slurm\]'"):
        launcher_overrides(slurm, [], tmp_path)
    monkeypatch.setattr(clusters.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(clusters.shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match="cluster=slurm: there is no sbatch on this machine"):
        launcher_overrides(slurm, [], tmp_path)
    with pytest.raises(ConfigError, match="cluster=slurm: hydra/launcher=joblib names a launcher too"):
        launcher_overrides(slurm, ["hydra/launcher=joblib"], tmp_path)


def test_a_single_run_has_no_cluster_and_values_are_checked(refused, tiny):
    assert refused(*tiny, "cluster=local") == "cluster=local: is for sweeps; add -m"
    assert "cluster=slum: there is no such cluster" in refused(*tiny, "cluster=slum")
    assert refused(*tiny, "-m", "seed=0,1", "cluster.order=size").startswith("cluster.order=size: ")


def test_the_cluster_is_no_part_of_a_runs_name(tiny):
    assert chosen(tiny, "cluster=local", "retry=0").run_name == chosen(tiny).run_name
    assert chosen(tiny, "retry=0").retry is False
