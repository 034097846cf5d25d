// Settings outside the command line: variables DEEPSEEK_RUN_<FLAG>, and configuration files.
//
// A file holds lines `name = value`; a name is a long flag's without its dashes, or an alias of
// one. A value is the rest of the line, less a comment (white space and #); or it stands between
// double quotes, where \" \\ \n \t \r and \x1b are escapes. A flag that takes no value is on or
// off. A flag that may be repeated may be repeated. An empty value sets nothing. # begins a
// comment.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tools/option_table.h"

namespace dsr {

struct Setting {
  const Row* row;
  std::string value;  // "on" or "off" where the row takes none; never empty
  std::string source;
};

// The value of a variable in "NAME=value" strings; nullopt if it is not there or empty.
std::optional<std::string> variable(const std::vector<std::string>& environment,
                                    std::string_view name);

// What the environment sets for a command. A variable that is none of ours is warned about.
std::vector<Setting> settings_of_environment(const std::vector<std::string>& environment,
                                             unsigned command, std::vector<std::string>& warnings);

// What a file sets for a command; names that only other commands have are passed over. Throws
// Error(kUsage) "FILE:LINE: ...".
std::vector<Setting> settings_of_file(const std::string& path, std::string_view text,
                                      unsigned command);

// Whether a file (kAnywhere) or the environment (kEnvironment) may set the row's flag.
bool is_setting(const Row& row, From from);

// A value as a file holds it: between quotes where it must be, control characters escaped.
std::string config_value(std::string_view value);

}  // namespace dsr
