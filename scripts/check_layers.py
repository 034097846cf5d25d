#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Checks which floor of the house includes what, and that nobody drops what a call of CUDA returns;
names every offending line.

    python3 scripts/check_layers.py [ROOT]

The table is that of CONTRIBUTING.md; a new library or floor is a line here and there.
tests/ may include anything and is not checked.
"""

import re
import sys
from pathlib import Path

# Floor -> the floors it may include, itself always. "public" is include/deepseek_run/.
BELOW_MODEL = {"base", "tensor", "io", "device", "ops", "kv"}
FLOORS = {
    "base": set(),
    "tensor": {"base"},
    "io": {"base", "tensor"},
    "device": {"base", "tensor"},
    "ops": {"base", "tensor", "device"},
    "kernels": {"base", "tensor", "device", "ops"},
    "kv": {"base", "tensor", "device"},
    "model": BELOW_MODEL,
    "text": {"base", "public"},
    "sampling": {"base", "public"},
    "engine": BELOW_MODEL | {"model", "text", "sampling", "public"},
    "app": BELOW_MODEL | {"model", "text", "sampling", "engine", "public"},
    "tools": {"public"},
    "public": set(),
}

# The part of the contract that belongs to no floor: errors and messages pass through all of them.
OPEN_TO_ALL = {"deepseek_run/error.h", "deepseek_run/log.h"}

# Library header -> the files that may include it (patterns on the path from the root).
LIBRARIES = [
    (r"nlohmann/", r"src/base/json\."),
    (r"CLI/", r"tools/"),
    (r"histedit\.h|editline/", r"tools/"),
    (r"pcre2|sentencepiece|utf8proc", r"src/text/"),
    (r"(cuda|cublas|curand|cupti|nccl|nvml)\w*\.(h|hpp)$|cuda/|cooperative_groups|mma\.h|nvtx3/",
     r"kernels/|src/device/(cuda|nccl)_"),
    (r"gtest/|gmock/|benchmark/", r"tests/"),
]
# Headers of C++ have no dot; of C and POSIX, those that an engine for Linux has a use for.
STANDARD = re.compile(
    r"[a-z_0-9]+$|(sys|linux|netinet|arpa)/\w+\.h$|(cpuid|dirent|dlfcn|errno|fcntl|fenv|langinfo|"
    r"limits|locale|math|poll|pthread|pwd|sched|signal|spawn|stdint|stdio|stdlib|string|termios|time|"
    r"malloc|ucontext|unistd|\w+intrin|arm_neon)\.h$")
# A definition is plain loops: ops/ref/ knows no SIMD, no threads, no device, no faster relative.
NOT_IN_REF = re.compile(r"(thread|mutex|shared_mutex|atomic|future|condition_variable|execution|"
                        r"barrier|latch|semaphore|stop_token|omp\.h|pthread\.h|\w+intrin\.h|"
                        r"arm_neon\.h|cpuid\.h|experimental/simd)$|ops/cpu/|"
                        r"device/(cuda|nccl|thread)_")

# A call of the CUDA runtime as a statement of its own: nobody looks at what it returns. What cleans
# up may: there is nobody left to tell. (cudaGetErrorString gives text.)
DROPPED = re.compile(r"\s*(?:\(void\)|static_cast<void>\()?(cuda[A-Z]\w*)\(")
CLEANS_UP = re.compile(r"cudaGetLastError|cudaGetErrorString|cuda\w*Destroy|cudaFree(Host|Async)?$|cudaStreamEndCapture")
LAUNCH = re.compile(r"<<<")

INCLUDE = re.compile(r'^\s*#\s*(?:include|include_next|import)\s*([<"])([^>"]+)[>"]')
SOURCES = {".h", ".hpp", ".cc", ".cpp", ".c", ".cu", ".cuh", ".inc"}


def without_block_comments(text):
    return re.sub(r"/\*.*?\*/", lambda m: "\n" * m.group().count("\n"), text, flags=re.S)


def floor_of_file(path):
    """The floor of a file, by its path from the root."""
    top = path.split("/")[0]
    if top == "src":
        return path.split("/")[1]
    return "public" if top == "include" else top


def floor_of_include(name, including_file, root):
    """(floor, path from the root's src/ or the like) of a quoted include; floor None if unknown."""
    top = name.split("/")[0]
    if "/" not in name or top in {".", ".."}:
        return None, name
    if top == "deepseek_run":
        return "public", name
    if top in {"kernels", "tools", "tests", "scripts"}:
        return top, name
    if including_file.startswith("kernels/") and (root / "kernels" / top).is_dir():
        return "kernels", name
    if (root / "src" / top).is_dir():
        return top, name
    return None, name


def quoted_problem(path, floor, name, root):
    target, _ = floor_of_include(name, path, root)
    if target is None:
        return "a quoted include is a path from src/ or include/ (or kernels/)"
    if target == floor:
        if floor == "ops" and path.startswith("src/ops/ref/") and NOT_IN_REF.match(name):
            return "src/ops/ref is plain loops: no SIMD, threads, cuda or ops/cpu"
        return None
    if path.startswith("src/ops/ref/") and NOT_IN_REF.match(name):
        return "src/ops/ref is plain loops: no SIMD, threads, cuda or ops/cpu"
    if name in OPEN_TO_ALL and floor != "public":
        return None
    if floor == "kernels" and target == "ops" and not re.fullmatch(r"ops/\w+\.h", name):
        return "kernels may include ops/*.h, not what lies below it"
    if target in FLOORS[floor]:
        return None
    allowed = ", ".join(sorted(FLOORS[floor])) or "the standard library only"
    return f"{floor} may not include {target} (it may include: {allowed})"


def library_problem(path, floor, name):
    for pattern, home in LIBRARIES:
        if re.match(pattern, name):
            return None if re.match(home, path) else f"<{name}> belongs to {home}".replace("\\", "")
    if path.startswith("src/ops/ref/") and NOT_IN_REF.match(name):
        return "src/ops/ref is plain loops: no SIMD, threads, cuda or ops/cpu"
    if name.startswith("deepseek_run/"):
        return "our own headers are included with quotes"
    if floor == "public" and not re.fullmatch(r"[a-z_0-9]+", name):
        return "public headers see the standard library only"
    if not STANDARD.match(name):
        return "an unknown library; scripts/check_layers.py lists who may use what"
    return None


def cuda_problem(path, line):
    if not re.match(r"kernels/|src/device/(cuda|nccl)_", path):
        return None
    code = line.split("//")[0]
    call = DROPPED.match(code)
    if call and not CLEANS_UP.match(call.group(1)):
        return f"what {call.group(1)} returns is dropped; CUDA_CHECK looks at it"
    if LAUNCH.search(code):
        return "kernels are launched by launch(), which checks and names them"
    return None


def check_file(root, path):
    """Yields 'path:line: text: rule' for every line that breaks a rule."""
    floor = floor_of_file(path)
    if floor not in FLOORS:
        yield f"{path}:1: src/{floor} is not a floor; scripts/check_layers.py lists them"
        return
    text = (root / path).read_text(encoding="utf-8", errors="replace")
    for number, line in enumerate(without_block_comments(text).splitlines(), 1):
        problem = cuda_problem(path, line)
        if problem:
            yield f"{path}:{number}: {line.strip()}: {problem}"
        match = INCLUDE.match(line)
        if not match:
            continue
        quoted, name = match.group(1) == '"', match.group(2)
        if quoted:
            problem = quoted_problem(path, floor, name, root)
        else:
            problem = library_problem(path, floor, name)
        if problem:
            yield f"{path}:{number}: {line.strip()}: {problem}"


def check(root):
    """(offences, number of files checked)."""
    offences, files = [], 0
    for top in ("include", "src", "kernels", "tools"):
        for file in sorted((root / top).rglob("*")):
            if file.suffix in SOURCES and file.is_file():
                files += 1
                offences += check_file(root, file.relative_to(root).as_posix())
    return offences, files


def main():
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent
    offences, files = check(root)
    for offence in offences:
        print(offence)
    print(f"check_layers: {files} files, {len(offences)} offences")
    return 1 if offences or files == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
