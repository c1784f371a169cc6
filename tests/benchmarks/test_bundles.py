"""A schedule's bundles are counted as often as its loops run them."""

from benchmarks.bundles import of_program

SCHEDULE = """LB: loop body
     0   :  { %s1 = smov 0  }
   0x1 LB: > { %s2 = sphi %s1, %s3  ;;  %p4 = scmp.lt.s32.totalorder %s2, 5 } /* Start region 7 */
   0x2   : > { %s3 = sadd.s32 1, %s2 /* copy for cssa */ }
   0x3 LB: >> { %s5 = sphi %s1, %s6 } /* Start region 8 */
   0x4   : >> { %s6 = sadd.s32 2, %s5 /* cssa */  ;;  %9 = sbr.rel (!%p7) target = $region8 }
   0x5   : >> { %p7 = scmp.ge.s32.totalorder %s6, 8 /* loop exit test */ }
   0x6   : >> {}
   0x7   : >> { %p9 = scmp.lt.s32.totalorder %s6, 73 }
   0x8   : >> {}
   0x9   : > { %p8 = scmp.ge.s32.totalorder %s3, 6 /* loop exit test */ }
   0xa   :  { %10 = sbr.rel (!%p8) target = $region7 }
   0xb   :  {}
"""


def test_loops_within_loops_and_the_rounds_that_only_move_data(tmp_path):
    """The outer loop has 6 - 2 rounds of blocks, the inner one counts to 8 by 2."""
    (tmp_path / "12-mix_ffn.1-71-final_bundles.txt").write_text(SCHEDULE)
    (tmp_path / "12-mix_ffn.1-70-schedule-analysis_final_bundles.txt").write_text("")
    assert of_program(tmp_path) == {"mix_ffn.1": 1 + 4 * (2 + 4 * 6 + 3)}
