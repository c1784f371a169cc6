"""What is refused before anything is measured."""

import pytest

from benchmarks.compare import compare


def test_an_unknown_contender_is_named_before_the_first_measurement(tmp_path):
    with pytest.raises(ValueError, match=r"must be of 'ours', .* got 'mxnet'"):
        compare(contenders=("ours", "mxnet"), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
