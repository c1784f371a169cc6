"""A Ray that is not known is not started with a port open to all."""

import sys
from types import SimpleNamespace

import pytest

from segformer_jax.cluster import connection

REPLICA = "ray.serve._private.replica"


@pytest.fixture(autouse=True)
def _on_loopback(monkeypatch):
    for name, value in connection.LOOPBACK.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("replica", [None, SimpleNamespace()])
def test_a_ray_that_opens_its_port_elsewhere_is_refused(replica, monkeypatch):
    monkeypatch.setitem(sys.modules, REPLICA, replica)
    with pytest.raises(RuntimeError, match=r"pip install 'segformer-jax\[ray\]'"):
        connection.keep_replica_on_loopback()


def test_a_replicas_port_is_on_loopback(monkeypatch):
    listening = SimpleNamespace(add_port_to_grpc_server=lambda server, address: address)
    monkeypatch.setitem(sys.modules, "ray.serve._private.replica", listening)
    connection.keep_replica_on_loopback()
    assert listening.add_port_to_grpc_server(None, "[::]:0") == "127.0.0.1:0"
