# SPDX-License-Identifier: MIT
"""check_layers.py is known to fail: every arrow that must never exist is planted once."""

import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "check_layers.py"
sys.path.insert(0, str(SCRIPT.parent))
sys.dont_write_bytecode = True
import check_layers  # noqa: E402

FLOORS = ["app", "base", "device", "engine", "io", "kv", "model", "ops", "sampling", "tensor",
          "text"]

# (file, its include, part of the message)
FORBIDDEN = [
    ("src/ops/x.cc", '"model/config.h"', "ops may not include model"),
    ("src/ops/x.cc", '"kv/kv_cache.h"', "ops may not include kv"),
    ("src/ops/x.cc", '"engine/engine.h"', "ops may not include engine"),
    ("src/ops/x.cc", '"kernels/gemm/x.h"', "ops may not include kernels"),
    ("kernels/gemm/x.cu", '"model/config.h"', "kernels may not include model"),
    ("kernels/gemm/x.cu", '"kv/kv_cache.h"', "kernels may not include kv"),
    ("kernels/gemm/x.cu", '"ops/ref/rows.h"', "kernels may include ops/*.h"),
    ("src/model/x.cc", '"engine/engine.h"', "model may not include engine"),
    ("src/model/x.cc", '"sampling/x.h"', "model may not include sampling"),
    ("src/model/x.cc", '"text/x.h"', "model may not include text"),
    ("src/model/x.cc", '"deepseek_run/engine.h"', "model may not include public"),
    ("src/ops/x.cc", "<cuda_runtime.h>", "<cuda_runtime.h> belongs to kernels/|src/device/"),
    ("src/device/exec.cc", "<cuda_runtime.h>", "<cuda_runtime.h> belongs to"),
    ("src/engine/x.cc", "<nccl.h>", "<nccl.h> belongs to"),
    ("src/model/x.cc", "<cublasLt.h>", "<cublasLt.h> belongs to"),
    ("src/model/x.cc", '"cuda_runtime.h"', "a quoted include is a path from src/"),
    ("src/ops/ref/x.cc", "<immintrin.h>", "src/ops/ref is plain loops"),
    ("src/ops/ref/x.cc", "<thread>", "src/ops/ref is plain loops"),
    ("src/ops/ref/x.cc", '"ops/cpu/x.h"', "src/ops/ref is plain loops"),
    ("src/ops/ref/x.cc", '"device/thread_pool.h"', "src/ops/ref is plain loops"),
    ("src/text/x.cc", '"tensor/tensor.h"', "text may not include tensor"),
    ("src/sampling/x.cc", '"tensor/tensor.h"', "sampling may not include tensor"),
    ("src/io/x.cc", '"device/exec.h"', "io may not include device"),
    ("src/base/x.cc", '"tensor/dtype.h"', "base may not include tensor"),
    ("src/base/error.cc", "<nlohmann/json.hpp>", "<nlohmann/json.hpp> belongs to src/base/json."),
    ("src/app/x.cc", "<nlohmann/json.hpp>", "<nlohmann/json.hpp> belongs to src/base/json."),
    ("src/engine/x.cc", "<pcre2.h>", "<pcre2.h> belongs to src/text/"),
    ("src/engine/x.cc", '"app/batch.h"', "engine may not include app"),
    ("src/engine/x.cc", "<boost/any.hpp>", "an unknown library"),
    ("include/deepseek_run/x.h", '"base/error.h"', "public may not include base"),
    ("include/deepseek_run/x.h", "<unistd.h>", "public headers see the standard library only"),
    ("tools/main.cc", '"engine/engine.h"', "tools may not include engine"),
    ("tools/main.cc", '"base/error.h"', "tools may not include base"),
    ("src/engine/x.cc", '"tests/support/x.h"', "engine may not include tests"),
    ("src/engine/x.cc", '"tools/options.h"', "engine may not include tools"),
    ("src/engine/x.cc", '"../base/error.h"', "a quoted include is a path from src/"),
    ("src/cellar/x.cc", "<vector>", "src/cellar is not a floor"),
]

ALLOWED = [
    ("src/base/json.cc", "<nlohmann/json.hpp>"),
    ("src/base/mapped_file.cc", "<sys/mman.h>"),
    ("src/io/x.cc", '"deepseek_run/log.h"'),
    ("src/device/cuda_context.cc", "<cuda_runtime.h>"),
    ("src/device/nccl_communicator.cc", "<nccl.h>"),
    ("src/ops/cpu/x_avx2.cc", "<immintrin.h>"),
    ("src/ops/ref/x.cc", '"ops/ref/rows.h"'),
    ("kernels/gemm/x.cu", '"ops/linear.h"'),
    ("kernels/gemm/x.cu", '"kernels/common/x.cuh"'),
    ("kernels/gemm/x.cu", "<mma.h>"),
    ("src/engine/x.cc", '"model/transformer.h"'),
    ("src/engine/x.cc", '"deepseek_run/engine.h"'),
    ("src/app/x.cc", '"base/json.h"'),
    ("src/text/x.cc", '"deepseek_run/tokenizer.h"'),
    ("tools/main.cc", '"tools/options.h"'),
    ("tools/main.cc", '"deepseek_run/engine.h"'),
    ("include/deepseek_run/x.h", "<string_view>"),
]


def run_on(path, include, before=""):
    """The offences of a house whose only file is this one."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for floor in FLOORS:
            (root / "src" / floor).mkdir(parents=True)
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(f"{before}#pragma once\n  #  include {include}  // why\n")
        offences, files = check_layers.check(root)
        assert files == 1
        return offences


class CheckLayers(unittest.TestCase):
    def test_forbidden_arrows_are_named(self):
        for path, include, message in FORBIDDEN:
            with self.subTest(path=path, include=include):
                line = 1 if "not a floor" in message else 2
                (offence,) = run_on(path, include)
                self.assertTrue(offence.startswith(f"{path}:{line}: "), offence)
                self.assertIn(message, offence)

    def test_allowed_arrows_pass(self):
        for path, include in ALLOWED:
            with self.subTest(path=path, include=include):
                self.assertEqual(run_on(path, include), [])

    def test_comments_are_not_includes(self):
        before = '/*\n#include "model/config.h"\n*/\n// #include "model/config.h"\n'
        (offence,) = run_on("src/ops/x.cc", '"engine/engine.h"', before)
        self.assertTrue(offence.startswith("src/ops/x.cc:6: "), offence)

    def test_a_call_of_cuda_is_looked_at(self):
        def offences(path, line):
            return run_on(path, "<vector>", before=f"{line}\n")

        for path in ["kernels/gemm/x.cu", "src/device/cuda_x.cc"]:
            for line in ["  cudaStreamSynchronize(stream);", "(void)cudaSetDevice(0);"]:
                (offence,) = offences(path, line)
                self.assertTrue(offence.startswith(f"{path}:1: "), offence)
                self.assertIn("is dropped; CUDA_CHECK looks at it", offence)
            (offence,) = offences(path, "kernel<<<1, 32, 0, stream>>>(x);")
            self.assertIn("kernels are launched by launch()", offence)
            for line in ["CUDA_CHECK(cudaSetDevice(0));", "cudaGetLastError();",
                         "const cudaError_t e = cudaMalloc(&p, n);", "  cudaGraphDestroy(graph);",
                         "if (data != nullptr) cudaFreeHost(data);", "// kernel<<<1, 1>>>()"]:
                self.assertEqual(offences(path, line), [])
        self.assertEqual(offences("src/ops/x.cc", "cudaSetDevice(0);"), [])

    def test_the_exit_status_tells(self):
        def status(root):
            return subprocess.run([sys.executable, SCRIPT, root], capture_output=True).returncode

        with tempfile.TemporaryDirectory() as name:
            self.assertEqual(status(name), 1)  # nothing was checked
            (Path(name) / "tools").mkdir()
            source = Path(name) / "tools" / "main.cc"
            source.write_text("#include <vector>\n")
            self.assertEqual(status(name), 0)
            source.write_text('#include "base/error.h"\n')
            self.assertEqual(status(name), 1)


if __name__ == "__main__":
    unittest.main()
