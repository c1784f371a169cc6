"""A compiled program's text is read as the compiler meant it."""

import pytest

from benchmarks.hlo import instructions

PROGRAM = """HloModule jit_f, is_scheduled=true

%fused_computation (p: f32[2,8]) -> f32[8,2] {
  %p = f32[2,8]{1,0:T(8,128)} parameter(0)
  ROOT %copy.9 = f32[8,2]{1,0:T(8,128)} copy(%p), backend_config={"estimated_cycles":"7"}
}

%cond (c: (s32[], f32[2,8])) -> pred[] {
  %c = (s32[]{:T(128)}, f32[2,8]{1,0}) parameter(0)
  %end = s32[]{:T(128)} constant(16)
  %i = s32[]{:T(128)} get-tuple-element(%c), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %end), direction=LT
}

%body (b: (s32[], f32[2,8])) -> (s32[], f32[2,8]) {
  %b = (s32[]{:T(128)}, f32[2,8]{1,0}) parameter(0)
  %fusion.1 = f32[8,2]{1,0} fusion(%b), kind=kLoop, calls=%fused_computation, metadata={op_name="jit(f)/mul" id=1}, backend_config={"window":{"estimated_cycles":"100"}}
  ROOT %tuple.1 = (s32[]{:T(128)}, f32[2,8]{1,0}) tuple(%b)
}

ENTRY %main.1 (x: f32[2,8]) -> f32[2,8] {
  %x = f32[2,8]{1,0} parameter(0)
  %pad.1 = (bf16[2,8]{1,0:T(8,128)(2,1)}, s8[4]{0}) pad(%x), backend_config={"estimated_cycles":"5"}
  ROOT %while.2 = (s32[]{:T(128)}, f32[2,8]{1,0}) while(%x), condition=%cond, body=%body
}
"""  # noqa: E501

LESS = """
%less (i: s32[], end: s32[]) -> pred[] {
  ROOT %lt.1 = pred[] compare(%i, %end), direction=LT
}
"""


def test_what_lies_in_a_loop_runs_as_often_as_the_loop():
    found = {i.name: i for i in instructions(PROGRAM)}
    fusion, pad = found["fusion.1"], found["pad.1"]
    assert (fusion.times, fusion.cycles, fusion.opcode) == (16, 100, "fusion")
    assert (pad.times, pad.cycles, pad.opcode) == (1, 5, "pad")
    assert fusion.op_name == "jit(f)/mul"


def test_the_steps_of_a_fusion_are_told_from_instructions_of_their_own():
    found = {i.name: i for i in instructions(PROGRAM)}
    assert found["copy.9"].fused
    assert not found["fusion.1"].fused


def test_bytes_are_those_of_every_result():
    pad = next(i for i in instructions(PROGRAM) if i.name == "pad.1")
    assert pad.bytes == 2 * 8 * 2 + 4


def test_a_loop_whose_condition_is_a_fusion_runs_as_often_as_the_compiler_says():
    told = 'body=%body, backend_config={"known_trip_count":{"n":"3"}}'
    program = PROGRAM.replace("direction=LT", "calls=%less").replace("body=%body", told)
    assert next(i for i in instructions(program + LESS) if i.name == "fusion.1").times == 3


def test_a_loop_of_unknown_length_is_an_error():
    with pytest.raises(ValueError, match="unknown length"):
        instructions(PROGRAM.replace("direction=LT", "direction=NE"))
