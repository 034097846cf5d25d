// What --help prints.
#pragma once

#include <string>
#include <string_view>

#include "tools/option_table.h"

namespace dsr {

// All of a command's flags. No line is longer than 100 characters.
std::string help_text(const CommandRow& command);
// The flags, of all commands, whose lines or heading hold the word, whatever its case. Throws
// Error(kUsage) with the nearest name if there are none.
std::string help_on(std::string_view word);

}  // namespace dsr
