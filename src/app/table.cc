#include <algorithm>

#include "app/format.h"

namespace dsr {
namespace {

std::string joined(const std::vector<std::string>& row, const char* separator) {
  std::string out;
  for (size_t i = 0; i < row.size(); ++i) out += (i > 0 ? separator : "") + row[i];
  return out;
}

}  // namespace

std::string table(const std::vector<Column>& columns,
                  const std::vector<std::vector<std::string>>& rows) {
  std::vector<size_t> widths(columns.size(), 0);
  for (const auto& row : rows)
    for (size_t c = 0; c < row.size(); ++c) widths[c] = std::max(widths[c], row[c].size());
  std::string out;
  for (const auto& row : rows) {
    std::string line;
    for (size_t c = 0; c < row.size(); ++c) {
      const std::string pad(widths[c] - row[c].size(), ' ');
      line += (c > 0 ? "  " : "") + (columns[c].right ? pad + row[c] : row[c] + pad);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + "\n";
  }
  return out;
}

std::string markdown_table(const std::vector<std::vector<std::string>>& rows, size_t left) {
  std::string out;
  for (size_t i = 0; i < rows.size(); ++i) {
    out += "| " + joined(rows[i], " | ") + " |\n";
    if (i > 0) continue;
    out += "|";
    for (size_t c = 0; c < rows[0].size(); ++c) out += c < left ? "---|" : "---:|";
    out += "\n";
  }
  return out;
}

std::string csv_table(const std::vector<std::vector<std::string>>& rows) {
  std::string out;
  for (const auto& row : rows) out += joined(row, ",") + "\n";
  return out;
}

}  // namespace dsr
