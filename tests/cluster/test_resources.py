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
        (
            {"workers": 3},
            r"must be at most 2 on Ray's cluster \(.*2 CPUs, and a worker takes 1\), got 3",
        ),
        ({"cpus": 4}, "must be at most 0 .*got 1"),
        ({"device": "gpu"}, "must be at most 0 on Ray's cluster .*0 GPUs"),
        ({"device": "abacus"}, "device must be cpu, gpu or tpu, got 'abacus'"),
        ({"workers": 0}, "must be at least 1, got 0"),
    ],
)
def test_more_than_the_cluster_has_is_an_error(asked, told):
    with pytest.raises(ValueError, match=told):
        choose_workers({"CPU": 2}, **asked)
