// What the shells need to complete a command line.
#pragma once

#include <string>
#include <string_view>

namespace dsr {

// A script for "bash", "zsh" or "fish".
std::string completion_script(std::string_view shell);

}  // namespace dsr
