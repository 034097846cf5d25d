// The manual page.
#pragma once

#include <string>

namespace dsr {

// deepseek-run(1) in man(7) form, from the tables of commands and flags.
std::string man_page();

}  // namespace dsr
