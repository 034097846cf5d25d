// The version of deepseek-run, as `deepseek-run --version` prints it.
#pragma once

namespace dsr {
inline constexpr char kVersion[] = "0.1.0";
}  // namespace dsr
