// Facts about the machine, from the files in which Linux tells them.
#pragma once

#include <string>

namespace dsr {

// What follows "key" and a colon in the first such line of a file; empty if none does.
std::string field_of(const std::string& path, const std::string& key);

}  // namespace dsr
