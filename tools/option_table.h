// The flags and the commands, as rows of two tables (options.cc). From them come the parser, the
// settings in files and in the environment, --help, the manual page and the shells' completions.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tools/options.h"

namespace dsr {

// Where a flag may be given besides the command line.
enum class From {
  kAnywhere,     // in the environment and in configuration files, if it has a long name
  kEnvironment,  // but not in files
  kCommandLine   // nowhere else
};

struct Row {
  unsigned commands;  // bits: which commands have the flag
  const char* group;  // the heading in the help
  const char* names;  // "-m,--model": the short name first
  // What stands for the value in the help: "FILE", or the choices, "on|off". "[=WORD]": it may be
  // left out. nullptr: the flag takes none.
  const char* value;
  const char* help;  // "(default: ...)" at the end is what --print-config shows
  void (*apply)(Options& o, const std::string& value);
  From from = From::kAnywhere;
};

struct CommandRow {
  const char* name;  // "" for the command without a name
  Command command;
  unsigned bit;
  const char* help;
  const char* usage;
};

// Rows of this group print something and leave: neither settings nor a model are looked at.
inline constexpr std::string_view kInformation = "Information";
// Rows of this group are not in the help.
inline constexpr std::string_view kHidden = "Hidden";
inline constexpr unsigned kAnyCommand = ~0U;

std::span<const Row> option_rows();
std::span<const CommandRow> command_rows();

// "-m,--model" -> "-m", "--model"
std::vector<std::string_view> names_of(const Row& row);
// "--model"; empty if the row has none.
std::string_view long_name(const Row& row);
// The row that one of the commands has under this very name, or null.
const Row* find_row(std::string_view name, unsigned commands);

}  // namespace dsr
