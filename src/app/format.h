// Numbers as reports show them, whatever the process's locale.
#pragma once

#include <locale>
#include <sstream>
#include <string>
#include <vector>

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

// Rows of cells in columns as wide as their widest cell.
struct Column {
  bool right = false;  // aligned to the right
};
std::string table(const std::vector<Column>& columns,
                  const std::vector<std::vector<std::string>>& rows);

// The first row is the heading. The first `left` columns are aligned to the left.
std::string markdown_table(const std::vector<std::vector<std::string>>& rows, size_t left);
// Cells hold neither commas nor quotes.
std::string csv_table(const std::vector<std::vector<std::string>>& rows);

}  // namespace dsr
