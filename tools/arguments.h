// Names: other programs' names for our flags, the nearest name to an unknown one, what to say about
// flags that we do not have. And the command line as flags and values.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tools/option_table.h"

namespace dsr {

// A flag and its value; "on" or "off" where the row takes none.
struct Argument {
  const Row* row;
  std::string value;
};

// What a name stands for: an alias, a row's own name, or --no-NAME for a flag without value.
struct Meaning {
  const Row* row;
  std::optional<std::string> value;  // the name means this value and takes none
};
std::optional<Meaning> meaning_of(std::string_view name, unsigned commands);

// The name in the list that is least unlike `name`; empty if they are all other words.
std::string nearest(std::string_view name, const std::vector<std::string>& names);
// Why other programs' flag of this name means nothing here; empty if it is not known.
std::string_view foreign_sentence(std::string_view name);

// Throws Error(kUsage) for an unknown flag, with the nearest name or what the same thing is called
// here; for a missing or needless value; for an argument that is no flag.
std::vector<Argument> parse_arguments(const std::vector<std::string>& arguments, unsigned command);

}  // namespace dsr
