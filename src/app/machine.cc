#include "app/machine.h"

#include <fstream>

namespace dsr {

std::string field_of(const std::string& path, const std::string& key) {
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);)
    if (line.starts_with(key))
      if (const size_t at = line.find_first_not_of(" \t", line.find(':') + 1); at != line.npos)
        return line.substr(at);
  return "";
}

}  // namespace dsr
