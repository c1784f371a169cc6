"""How a cluster is divided."""

import pytest

from segformer_jax.cluster.resources import Workers, choose_workers


@pytest.mark.parametrize(
    ("cluster", "asked", "chosen"),
    [
        ({"CPU": 8}, {}, Workers(4, "cpu", cpus=2)),
        ({"CPU": 1}, {}, Workers(1, "cpu", cpus=1)),
        ({"CPU": 2}, {"workers": 2}, Workers(2, "cpu", cpus=1)),
        ({"CPU": 16}, {"workers": 2, "cpus": 8}, Workers(2, "cpu", cpus=8)),
        ({"CPU": 16, "GPU": 4}, {}, Workers(4, "gpu", cpus=0, gpus=1)),
        ({"CPU": 16, "GPU": 4}, {"workers": 1, "device": "cpu"}, Workers(1, "cpu", cpus=2)),
        ({"CPU": 200, "TPU": 8}, {}, Workers(8, "tpu", cpus=0, resources={"TPU": 1})),
    ],
)
def test_a_worker_has_an_accelerator_or_a_few_cpus(cluster, asked, chosen):
    assert choose_workers(cluster, **asked) == chosen


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"workers": 3}, "2 CPUs, and a worker takes 1: room for 2 workers, not for 3"),
        ({"cpus": 4}, "room for 0 workers, not for 1"),
        ({"device": "gpu"}, "has 0 GPUs: room for 0"),
        ({"device": "abacus"}, "'abacus'; it is cpu, gpu or tpu"),
        ({"workers": 0}, "is 0; it is at least 1"),
    ],
)
def test_more_than_the_cluster_has_is_an_error(asked, told):
    with pytest.raises(ValueError, match=told):
        choose_workers({"CPU": 2}, **asked)
