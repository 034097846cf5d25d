// The command line before it is parsed: other programs' names for our flags, and what to say about
// flags that we do not have.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace dsr {

// The flags of one command.
struct KnownFlags {
  std::vector<std::string> names;  // "--prompt", "-p", ...
  // Whether the flag of this name takes a value; nullopt if there is none of that name.
  std::function<std::optional<bool>(const std::string& name)> takes_value;
  std::string bare = {};  // the flag that an argument without a name belongs to; empty: none does
};

// The arguments in one form: names from the table of aliases replaced, a flag and its value apart,
// short flags apart. Throws Error(kUsage) for an unknown flag, with the nearest name or what the
// same thing is called here; for a missing or needless value; for an argument that is no flag.
std::vector<std::string> normalised(const std::vector<std::string>& arguments,
                                    const KnownFlags& flags);

}  // namespace dsr
