# SPDX-License-Identifier: MIT
"""check_arrivals.py finds an arrival that overtakes loads, and knows what orders it behind them."""

import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
sys.dont_write_bytecode = True
import check_arrivals  # noqa: E402

NO_BOARD = 7
ARRIVAL = ("SYNCS.ARRIVE.TRANS64.A1T0 RZ, [R32+URZ], RZ ;", NO_BOARD, 0)


def listing(*instructions):
    """As cuobjdump prints (text, the scoreboard it sets, the scoreboards it waits for)."""
    lines = ["\t\tFunction : kernel", "\t.headerflags\t@\"EF_CUDA_SM90\""]
    for i, (text, sets, waits) in enumerate(instructions):
        control = 1 | sets << 5 | NO_BOARD << 8 | waits << 11
        lines.append(f"        /*{16 * i:04x}*/                   {text}     /* 0x0123456789abcdef */")
        lines.append(f"                                             /* 0x{control << 41 | 0xabc:016x} */")
    return "\n".join(lines)


def found(*instructions):
    [(kernel, code)] = check_arrivals.instructions(listing(*instructions))
    assert kernel == "kernel"
    return list(check_arrivals.overtaken(code))


class CheckArrivals(unittest.TestCase):
    LOAD = ("LDS.128 R24, [R32] ;", 2, 0)

    def test_an_arrival_right_behind_a_load(self):
        self.assertEqual(found(self.LOAD, ARRIVAL), [("0010", ["0000 LDS.128 R24, [R32] ;"])])

    def test_matrices_count_as_loads(self):
        self.assertEqual(len(found(("LDSM.16.M88.4 R40, [R71] ;", 1, 0), ARRIVAL)), 1)

    def test_an_instruction_that_waits_for_another_load(self):
        self.assertEqual(len(found(self.LOAD, ("FADD R1, R2, R3 ;", NO_BOARD, 1 << 3), ARRIVAL)), 1)

    def test_the_second_load_is_under_way_when_the_first_is_waited_for(self):
        wrong = found(("LDS R5, [R6] ;", 4, 0), self.LOAD, ("FADD R1, R5, R3 ;", NO_BOARD, 1 << 4),
                      ARRIVAL)
        self.assertEqual(wrong, [("0030", ["0010 LDS.128 R24, [R32] ;"])])

    def test_loads_end_in_order(self):
        without = ("LDS R7, [R8] ;", NO_BOARD, 0)
        use = ("FADD R1, R5, R3 ;", NO_BOARD, 1 << 4)
        self.assertEqual(found(self.LOAD, without, ("LDS R5, [R6] ;", 4, 0), use, ARRIVAL), [])

    def test_a_load_that_sets_no_scoreboard(self):
        self.assertEqual(len(found(("LDS R7, [R8] ;", NO_BOARD, 0), ARRIVAL)), 1)

    def test_an_arrival_for_several_threads(self):
        several = ("SYNCS.ARRIVE.TRANS64.ART0 RZ, [R32+URZ], R3 ;", NO_BOARD, 0)
        self.assertEqual(len(found(self.LOAD, several)), 1)

    def test_an_instruction_that_needs_the_load_orders_it(self):
        self.assertEqual(found(self.LOAD, ("HMMA R1, R24, R3, RZ ;", NO_BOARD, 1 << 2), ARRIVAL), [])

    def test_the_arrival_may_wait_itself(self):
        self.assertEqual(found(self.LOAD, (ARRIVAL[0], NO_BOARD, 1 << 2)), [])

    def test_a_fence_orders_it(self):
        self.assertEqual(found(self.LOAD, ("MEMBAR.ALL.CTA ;", NO_BOARD, 0), ARRIVAL), [])

    def test_loads_behind_an_arrival_are_no_matter(self):
        self.assertEqual(found(ARRIVAL, self.LOAD), [])


if __name__ == "__main__":
    unittest.main()
