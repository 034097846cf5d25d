// From flags, environment and files to options.
#include <algorithm>
#include <array>
#include <string_view>

#include "deepseek_run/error.h"
#include "tools/arguments.h"
#include "tools/option_table.h"
#include "tools/settings.h"
#include "tools/terminal.h"

namespace dsr {
namespace {

// Of two flags that exclude each other the one from the stronger source stands: a system prompt in
// a file does not forbid --raw.
struct Exclusive {
  std::string_view a, b;
};
constexpr std::array kExclusive = {
    Exclusive{"--model", "--card"},
    Exclusive{"--model", "--random-weights"},
    Exclusive{"--gpus", "--device"},
    Exclusive{"--raw", "--system"},
    Exclusive{"--raw", "--chat-format"},
    Exclusive{"--raw", "--think"},
    Exclusive{"--raw", "--tools"},
    Exclusive{"--bytes", "--system"},
    Exclusive{"--bytes", "--chat-format"},
    Exclusive{"--bytes", "--think"},
    Exclusive{"--bytes", "--tools"},
    Exclusive{"--prompt-ids", "--system"},
    Exclusive{"--prompt-ids", "--chat-format"},
    Exclusive{"--prompt-ids", "--think"},
    Exclusive{"--prompt-ids", "--tools"},
    Exclusive{"--prompt-ids", "--allow-special"},
};

// The settings of each source, the strongest first.
using Layers = std::vector<std::vector<Setting>>;

const CommandRow& command_of(const std::vector<std::string>& arguments) {
  const std::span<const CommandRow> rows = command_rows();
  for (const CommandRow& row : rows)
    if (!arguments.empty() && *row.name != '\0' && arguments[0] == row.name) return row;
  return rows[0];
}

std::vector<Setting> settings_of_flags(const std::vector<Argument>& arguments) {
  std::vector<Setting> out;
  for (const Argument& argument : arguments) out.push_back({argument.row, argument.value, "flag"});
  return out;
}

// Where the user's own configuration file may be; empty if that cannot be known.
std::string user_config(const std::vector<std::string>& environment) {
  const std::string tail = "/deepseek-run/config";
  if (const auto directory = variable(environment, "XDG_CONFIG_HOME"); directory)
    return *directory + tail;
  if (const auto home = variable(environment, "HOME"); home) return *home + "/.config" + tail;
  return "";
}

// The last value of --config in a layer.
std::optional<std::string> config_in(const std::vector<Setting>& layer) {
  std::optional<std::string> out;
  for (const Setting& setting : layer)
    if (long_name(*setting.row) == "--config") out = setting.value;
  return out;
}

void add_file(Layers& layers, const std::string& path, bool required, unsigned command,
              const Surroundings& around) {
  if (path.empty() || !around.read_file) return;
  const std::optional<std::string> text = around.read_file(path);
  if (text) return layers.push_back(settings_of_file(path, *text, command));
  if (required)
    throw Error(ErrorKind::kUsage, "--config: " + visible_line(path) + " does not exist");
}

Layers gather(std::vector<Setting> flags, unsigned command, const Surroundings& around,
              std::vector<std::string>& warnings) {
  Layers out;
  out.push_back(std::move(flags));
  out.push_back(settings_of_environment(around.environment, command, warnings));
  std::optional<std::string> config = config_in(out[0]);
  if (!config) config = config_in(out[1]);
  add_file(out, config.value_or(""), /*required=*/true, command, around);
  add_file(out, user_config(around.environment), /*required=*/false, command, around);
  return out;
}

// Whether a stronger layer sets a flag that excludes this one.
bool excluded(const Row& row, const Layers& layers, size_t layer) {
  const auto is = [](const Row& r, std::string_view name) { return long_name(r) == name; };
  for (size_t i = 0; i < layer; ++i)
    for (const Setting& other : layers[i])
      for (const auto& [a, b] : kExclusive)
        if ((is(row, a) && is(*other.row, b)) || (is(row, b) && is(*other.row, a)))
          if (other.row->value != nullptr || other.value == "on") return true;
  return false;
}

bool set_before(const Row& row, const Layers& layers, size_t layer) {
  for (size_t i = 0; i < layer; ++i)
    for (const Setting& other : layers[i])
      if (other.row == &row) return true;
  return false;
}

// An error in a value names the variable or line; a flag's names the flag already.
void apply(const Setting& setting, Options& out) {
  try {
    setting.row->apply(out, setting.row->value == nullptr ? "" : setting.value);
  } catch (const Error& e) {
    if (setting.source == "flag") throw;
    throw Error(e.kind(), setting.source + ": " + e.what());
  }
  const std::string_view name = long_name(*setting.row);
  if (name == "--model") out.model.source = setting.source == "flag" ? "-m" : setting.source;
}

// Of a flag that takes no value the last one counts.
bool is_on(const Setting& setting, const std::vector<Setting>& layer) {
  if (setting.row->value != nullptr) return true;
  const auto last = std::find_if(layer.rbegin(), layer.rend(),
                                 [&](const Setting& s) { return s.row == setting.row; });
  return last->value == "on";
}

void resolve(const Layers& layers, Options& out) {
  for (size_t layer = layers.size(); layer-- > 0;)
    for (const Setting& setting : layers[layer]) {
      if (set_before(*setting.row, layers, layer) || excluded(*setting.row, layers, layer))
        continue;
      if (is_on(setting, layers[layer])) apply(setting, out);
      if (const std::string_view name = long_name(*setting.row); !name.empty())
        out.given.push_back({std::string(name.substr(2)), setting.value, setting.source});
    }
}

}  // namespace

std::vector<std::string_view> names_of(const Row& row) {
  const std::string_view names = row.names;
  const size_t comma = names.find(',');
  if (comma == names.npos) return {names};
  return {names.substr(0, comma), names.substr(comma + 1)};
}

std::string_view long_name(const Row& row) {
  std::string_view last = row.names;
  if (const size_t comma = last.find(','); comma != last.npos) last.remove_prefix(comma + 1);
  return last.starts_with("--") ? last : "";
}

const Row* find_row(std::string_view name, unsigned commands) {
  for (const Row& row : option_rows()) {
    if ((row.commands & commands) == 0) continue;
    const std::string_view names = row.names;
    const size_t comma = std::min(names.find(','), names.size());
    if (name == names.substr(0, comma)) return &row;
    if (comma < names.size() && name == names.substr(comma + 1)) return &row;
  }
  return nullptr;
}

Options parse_options(const std::vector<std::string>& arguments, const Surroundings& around) {
  const CommandRow& command = command_of(arguments);
  const bool named = *command.name != '\0';
  const std::vector<std::string> rest(arguments.begin() + (named ? 1 : 0), arguments.end());
  std::vector<Setting> flags = settings_of_flags(parse_arguments(rest, command.bit));
  const bool informs = std::any_of(flags.begin(), flags.end(), [](const Setting& s) {
    return s.row->group == kInformation || s.row->group == kHidden;
  });
  Options out;
  out.command = command.command;
  // Help must not fail because of what is in a file.
  Layers layers = informs ? Layers{std::move(flags)}
                          : gather(std::move(flags), command.bit, around, out.warnings);
  resolve(layers, out);
  if (out.quiet) out.verbose = false;  // nothing but errors
  return out;
}

}  // namespace dsr
