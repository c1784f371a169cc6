"""What programs are made for is described, and what differs elsewhere is named."""

import dataclasses

import pytest

from segformer_jax import SegformerConfig
from segformer_jax.inference.made_for import MadeFor, cpu_features, digest

X86 = """processor\t: 0
model name\t: a CPU
flags\t\t: fpu hypervisor sse2 ssse3 avx avx2 avx512_vnni amx_int8 arat vaes tsc_adjust

processor\t: 1
flags\t\t: fpu sse2
"""
MADE = MadeFor(
    versions={"jax": "1.2.3", "flax": "0.1"},
    platform="cpu",
    kind="cpu",
    devices=1,
    architecture="x86_64",
    features=["avx", "avx2"],
    config="abc",
    dtype="float32",
)


@pytest.mark.parametrize(
    ("text", "features"),
    [
        (X86, ["amx_int8", "avx", "avx2", "avx512_vnni", "sse2", "ssse3", "vaes"]),
        ("processor : 0\nFeatures\t: fp asimd sve\n", ["asimd", "fp", "sve"]),
        ("processor : 0\n", []),
    ],
)
def test_sets_of_instructions_are_read_and_other_flags_left_out(text, features, tmp_path):
    (tmp_path / "cpuinfo").write_text(text)
    assert cpu_features(tmp_path / "cpuinfo") == features


def test_a_system_without_cpuinfo_has_no_known_features(tmp_path):
    assert cpu_features(tmp_path / "cpuinfo") == []


def test_nothing_differs_from_itself_or_on_a_cpu_with_more_features():
    assert MADE.difference(MADE) is None
    more = dataclasses.replace(MADE, features=["avx", "avx2", "avx512f"])
    assert MADE.difference(more) is None
    assert "a CPU without avx512f, and JAX" in MADE.surplus(more)
    assert "XLA_FLAGS" in MADE.surplus(MADE)


def test_programs_for_a_cpu_of_unknown_features_are_left_to_jax():
    assert MADE.difference(dataclasses.replace(MADE, features=[])) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(versions={"jax": "1.2.4", "flax": "0.1"}), "with jax 1.2.3, this is jax 1.2.4"),
        (dict(platform="gpu"), "for cpu, the model runs on gpu here"),
        (dict(kind="H200"), "for cpu, the model runs on H200 here"),
        (dict(devices=2), "for 1 device(s), JAX has 2 here"),
        (dict(architecture="aarch64"), "on x86_64, this machine is aarch64"),
        (dict(features=["avx"]), "for a CPU with avx2, which this CPU lacks"),
        (dict(config="def"), "for another model"),
        (dict(dtype="bfloat16"), "for float32, the model computes in bfloat16"),
    ],
)
def test_what_differs_is_named(change, message):
    assert message in MADE.difference(dataclasses.replace(MADE, **change))


def test_of_many_lacking_features_some_are_named():
    made = dataclasses.replace(MADE, features=[f"avx{i}" for i in range(9)])
    assert "avx0, avx1, avx2, avx3 and 5 more" in made.difference(
        dataclasses.replace(MADE, features=["avx"])
    )


@pytest.mark.parametrize("damage", [None, {}, {"devices": "1"}, {"features": "avx"}])
def test_a_damaged_description_is_refused(damage):
    values = damage if not damage else dataclasses.asdict(MADE) | damage
    with pytest.raises(ValueError, match="must"):
        MadeFor.from_dict(values)
    assert MadeFor.from_dict(dataclasses.asdict(MADE)) == MADE


def test_names_of_classes_do_not_matter_and_sizes_do():
    config = SegformerConfig.b0(id2label={0: "a", 1: "b"})
    assert digest(config) == digest(SegformerConfig.b0(id2label={0: "c", 1: "d"}))
    assert digest(config) != digest(SegformerConfig.b1(id2label={0: "a", 1: "b"}))
    assert digest(config) != digest(SegformerConfig.b0(num_labels=3))
