// Where warnings go. The library never writes to a stream of its own accord.
#pragma once

#include <functional>
#include <string>

namespace dsr {
// Receives one line without its line break. May be empty: then nothing is reported.
using WarningSink = std::function<void(const std::string& line)>;
}  // namespace dsr
