"""What requests ask for, and how much they may cost, without a server."""

import pytest

from segformer_jax.server import requests
from segformer_jax.server.requests import Limits, Refused, Wanted


@pytest.mark.parametrize(
    ("query", "accept", "wish"),
    [
        ({}, "*/*", Wanted("mask", "image/png")),
        ({}, "text/html, application/json;q=0.9", Wanted("json", "application/json")),
        ({"output": "mask"}, "application/json", Wanted("mask", "image/png")),
        ({}, "image/jpeg", Wanted("overlay", "image/jpeg")),
        ({"output": "overlay", "alpha": "0"}, "", Wanted("overlay", "image/png", 0.0)),
        (
            {"output": "json", "mask": "base64"},
            "",
            Wanted("json", "application/json", with_mask=True),
        ),
    ],
)
def test_a_parameter_goes_before_the_header(query, accept, wish):
    assert requests.wanted(query, accept) == wish


def test_the_length_that_is_told_is_believed_only_when_it_is_too_long():
    limits = Limits(body_bytes=100)
    assert requests.check_length({"content-length": "7"}, limits) == 7
    for length in ("100", "-1", "many", ""):  # of a body whose length is not told, the longest
        assert requests.check_length({"content-length": length}, limits) == 100
    for length in ("101", "9" * 5000):
        with pytest.raises(Refused, match="longer than the limit of 100 bytes") as refused:
            requests.check_length({"content-length": length}, limits)
        assert refused.value.status == 413


def test_limits_below_one_are_refused():
    with pytest.raises(ValueError, match="the limit queue must be at least 1, got 0"):
        Limits(queue=0)
    with pytest.raises(ValueError, match=r"queue_bytes must be at least body_bytes, 100, .*got 99"):
        Limits(body_bytes=100, queue_bytes=99)
