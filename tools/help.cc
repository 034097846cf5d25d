#include "tools/help.h"

#include <algorithm>

#include "deepseek_run/error.h"
#include "tools/arguments.h"
#include "tools/terminal.h"

namespace dsr {
namespace {

constexpr size_t kColumn = 30, kWidth = 100;

// "-m,--model" and "DIR" -> "-m, --model DIR"
std::string flag_text(const Row& row) {
  std::string out = row.names;
  if (const size_t comma = out.find(','); comma != out.npos) out.insert(comma + 1, " ");
  if (out[1] == '-') out.insert(0, "    ");  // long names in one column
  if (row.value == nullptr) return out;
  return out + (*row.value == '[' ? "" : " ") + row.value;
}

// The flag, and beside it the help in lines of at most kWidth characters.
std::string row_text(const Row& row) {
  std::string line = "  " + flag_text(row), out;
  if (line.size() >= kColumn) {
    out = line + "\n";
    line.clear();
  }
  line.resize(kColumn, ' ');
  std::string_view help = row.help;
  while (!help.empty()) {
    const std::string_view word = help.substr(0, help.find_first_of(" \n"));
    help.remove_prefix(word.size());
    help.remove_prefix(std::min(help.find_first_not_of(" \n"), help.size()));
    if (line.size() + 1 + word.size() > kWidth) {
      out += line + "\n";
      line.assign(kColumn, ' ');
    }
    if (line.size() > kColumn) line += ' ';
    line += word;
  }
  return out + line + "\n";
}

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return out;
}

std::string usage_name(const CommandRow& command) {
  return *command.name == '\0' ? "deepseek-run" : std::string("deepseek-run ") + command.name;
}

bool is_in_help(const Row& row, unsigned commands) {
  return (row.commands & commands) != 0 && row.group != kHidden;
}

}  // namespace

std::string help_text(const CommandRow& command) {
  std::string out = std::string(command.help) + "\n\nUsage: " + command.usage + "\n";
  if (*command.name == '\0') {
    out += "Other commands, each with --help:\n ";
    for (const CommandRow& other : command_rows())
      if (*other.name != '\0') out += std::string(" ") + other.name;
    out += "\n";
  }
  std::string group;
  for (const Row& row : option_rows()) {
    if (!is_in_help(row, command.bit)) continue;
    if (group != row.group) out += std::string("\n") + row.group + ":\n";
    group = row.group;
    out += row_text(row);
  }
  return out +
         "\nWhat is not given as a flag is looked for, in this order, in the variable "
         "DEEPSEEK_RUN_<FLAG>\n(DEEPSEEK_RUN_TOP_K), in --config FILE, in "
         "$XDG_CONFIG_HOME/deepseek-run/config (else\n~/.config/deepseek-run/config) and among "
         "the model's own defaults.\n";
}

std::string help_on(std::string_view word) {
  const std::string wanted = lower(word);
  std::vector<std::string> names, shown;
  std::string out;
  for (const CommandRow& command : command_rows()) {
    std::string lines;
    for (const Row& row : option_rows()) {
      if (!is_in_help(row, command.bit)) continue;
      if (const std::string_view name = long_name(row); !name.empty())
        names.emplace_back(name.substr(2));
      std::string text = row_text(row);
      if (lower(text).find(wanted) == text.npos && lower(row.group) != wanted) continue;
      // What one command showed is not shown again.
      if (std::find(shown.begin(), shown.end(), text) != shown.end()) continue;
      lines += text;
      shown.push_back(std::move(text));
    }
    if (lower(command.help).find(wanted) != std::string::npos)
      lines = "  " + std::string(command.usage) + "\n" + lines;
    if (!lines.empty()) out += (out.empty() ? "" : "\n") + usage_name(command) + ":\n" + lines;
  }
  if (!out.empty()) return out;
  const std::string near =
      nearest(word.substr(std::min(word.find_first_not_of('-'), word.size())), names);
  throw Error(ErrorKind::kUsage, "nothing in the help has \"" + visible_line(word) +
                                     "\"\n  try: " + (near.empty() ? "--help" : "--help=" + near));
}

}  // namespace dsr
