"""Training steps of both libraries, where one of them fails."""

from benchmarks import train_step


def test_a_step_that_fails_is_named_and_the_others_are_measured():
    def broken():
        raise RuntimeError("CUDA error\nat once")

    steps, failures = train_step._warmed_up({"ours": lambda: float, "torch": broken})
    assert list(steps) == ["ours"]
    assert failures == ["torch: RuntimeError: CUDA error"]


def test_rows_of_peers_have_no_ratio_without_ours():
    assert train_step._compared([1.0, 2.0], "torch", [2.0, 4.0])["ratio"] == 0.5
    assert train_step._compared(None, "torch", [2.0, 4.0]) == {
        "ours_ms": None, "peer": "torch", "peer_ms": 3.0, "ratio": None, "spread": None
    }  # fmt: skip
