"""What goes between devices is found in a program's text."""

from benchmarks.data_parallel import Split, collectives

PROGRAM = """
  %all-gather.1 = f32[16,8]{1,0} all-gather(%x), dimensions={0}, metadata={op_name="jit(f)/dot"}
  %both = (f32[16]{0}, s32[4]{0}) all-gather(%x, %y), dimensions={0}
  ROOT %sum = f32[] all-reduce(%all-gather.1), to_apply=%add
  %fusion = f32[8]{0} fusion(%all-gather.1), kind=kLoop, calls=%f
"""


def test_gathers_are_found_those_of_several_arrays_too():
    assert collectives(PROGRAM) == [
        "all-gather f32[16,8]{1,0}",
        "all-gather (f32[16]{0}, s32[4]{0})",
        "all-reduce f32[]",
    ]


def test_a_step_that_gathers_or_takes_a_fifth_more_memory_does_not_hold():
    def holds(**given):
        usual = dict(platform="cpu", batch=8, gathers=(), sums=1, bytes=105, bytes_alone=100)
        return Split(**(usual | given)).holds

    assert holds()
    assert not holds(gathers=("all-gather f32[]",))
    assert not holds(bytes=120)
    assert not holds(sums=0)
