"""What goes between devices is found in a program's text, and judged."""

from benchmarks.data_parallel import Split, collectives

PROGRAM = """
%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %total = f32[] add(%a, %b)
}

%branch (b: f32[2,8]) -> f32[16,8] {
  ROOT %rare = f32[16,8]{1,0} all-gather(%b), dimensions={0}
}

ENTRY %main (x: f32[2,8], y: s32[4]) -> f32[] {
  %both = (f32[16,8]{1,0}, s32[32]{0}) all-gather(%x, %y), dimensions={0}
  %c = f32[16,8]{1,0} conditional(%i, %x, %x), branch_computations={%branch, %branch}
  %s = f32[8]{0} all-reduce-start(%x), to_apply=%add, metadata={op_name="jit(f)/sum"}
  ROOT %sum = f32[8]{0} all-reduce-done(%s)
}
"""


def test_gathers_are_found_of_several_arrays_and_in_branches():
    found = [(i.opcode, i.bytes, i.op_name) for i in collectives(PROGRAM)]
    assert sorted(found) == [
        ("all-gather", 512, ""),
        ("all-gather", 640, ""),
        ("all-reduce-start", 32, "jit(f)/sum"),
    ]


def test_a_step_that_gathers_or_takes_or_does_a_fifth_more_does_not_hold():
    def holds(**given):
        usual = dict(gathers=(), summed=1, memory=105, memory_alone=100, flops=100, flops_alone=100)
        return Split(**(usual | given)).holds

    assert holds()
    assert not holds(gathers=("all-gather f32[]",))
    assert not holds(memory=120)
    assert not holds(flops=120)
    assert not holds(summed=0)
