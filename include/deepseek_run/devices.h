// What there is to compute on.
#pragma once

#include <string>

namespace dsr {

// A line for each device of this machine: its name, as EngineOptions::device takes it, and what it
// is.
std::string devices_text();

}  // namespace dsr
