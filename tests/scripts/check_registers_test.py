# SPDX-License-Identifier: MIT
"""check_registers.py finds a kernel whose warps would wait for registers that nobody has."""

import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
sys.dont_write_bytecode = True
import check_registers  # noqa: E402

SASS = """
		Function : plain
        /*0000*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;     /* 0x0123456789abcdef */
		Function : handing_on
        /*0670*/                   USETMAXREG.TRY_ALLOC.CTAPOOL UP0, 0x60 ;     /* 0x0123456789abcdef */
        /*4b00*/                   USETMAXREG.DEALLOC.CTAPOOL 0x30 ;     /* 0x0123456789abcdef */
"""
USAGE = """
 Function plain:
  REG:32 STACK:0 SHARED:0 LOCAL:0 CONSTANT[0]:528 TEXTURE:0 SURFACE:0 SAMPLER:0
 Function handing_on:
  REG:80 STACK:0 SHARED:0 LOCAL:0 CONSTANT[0]:1028 TEXTURE:0 SURFACE:0 SAMPLER:0
"""


class CheckRegisters(unittest.TestCase):
    def test_what_is_handed_on(self):
        self.assertEqual(check_registers.handovers(SASS), {"handing_on": (48, 96)})
        self.assertEqual(check_registers.usages(USAGE), {"plain": 32, "handing_on": 80})

    def test_enough_and_too_few(self):
        self.assertFalse(check_registers.hangs(80, 48, 96))
        self.assertTrue(check_registers.hangs(72, 48, 96))
        self.assertTrue(check_registers.hangs(80, 56, 96))


if __name__ == "__main__":
    unittest.main()
