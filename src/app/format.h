// Numbers as reports show them, whatever the process's locale.
#pragma once

#include <locale>
#include <sstream>
#include <string>

namespace dsr {

// 1.25 with one digit -> "1.2": that many digits after the point.
inline std::string fixed(double value, int digits) {
  std::ostringstream out;
  out.imbue(std::locale::classic());
  out.setf(std::ios::fixed);
  out.precision(digits);
  out << value;
  return out.str();
}

}  // namespace dsr
