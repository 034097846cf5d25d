#include "tools/print_config.h"

#include <algorithm>
#include <array>
#include <charconv>

#include "deepseek_run/error.h"
#include "deepseek_run/inspect.h"
#include "tools/io.h"
#include "tools/model_dir.h"
#include "tools/option_table.h"
#include "tools/settings.h"

namespace dsr {
namespace {

constexpr std::string_view kBuiltIn = "built-in";

struct Line {
  std::string value, source;
};

// The sampling flags that generation_config.json may set, and the keys that do.
struct ModelDefault {
  std::string_view name;
  std::array<std::string_view, 2> keys;
  double (*value)(const SamplingParams& p);
};
constexpr std::array kModelDefaults = {
    ModelDefault{"temp", {"temperature", "do_sample"}, [](auto& p) { return p.temperature; }},
    ModelDefault{"top-k", {"top_k"}, [](auto& p) { return static_cast<double>(p.top_k); }},
    ModelDefault{"top-p", {"top_p"}, [](auto& p) { return p.top_p; }},
    ModelDefault{
        "repeat-penalty", {"repetition_penalty"}, [](auto& p) { return p.repetition_penalty; }},
    ModelDefault{"repeat-last-n",
                 {"repetition_penalty"},
                 [](auto& p) { return static_cast<double>(p.penalty_window); }},
};

std::string number(double value) {
  std::array<char, 32> text;
  const auto [end, error] = std::to_chars(text.data(), text.data() + text.size(), value);
  return {text.data(), end};
}

// What stands in "(default: ...)"; empty if there is none.
std::string_view default_in(std::string_view help) {
  constexpr std::string_view kOpen = "(default: ";
  const size_t at = help.find(kOpen);
  if (at == help.npos) return "";
  const std::string_view rest = help.substr(at + kOpen.size());
  return rest.substr(0, rest.rfind(')'));
}

// A default in words: "auto, the cpu" is auto; what is no single word is no value.
Line built_in(const Row& row) {
  if (row.value == nullptr) return {"off", std::string(kBuiltIn)};
  const std::string_view text = default_in(row.help);
  const std::string_view first = text.substr(0, text.find(','));
  if (text.empty() || text == "none") return {"", std::string(kBuiltIn) + ": none"};
  if (first.find_first_of(" ;$") == first.npos) return {std::string(first), std::string(kBuiltIn)};
  std::string words;  // a line break in the table is a space
  for (const char c : text)
    if (c == '\n' || (c == ' ' && words.ends_with(' ')))
      words += words.ends_with(' ') ? "" : " ";
    else
      words += c;
  return {"", std::string(kBuiltIn) + ": " + words};
}

class ConfigPrinter {
 public:
  explicit ConfigPrinter(const Options& options) : options_(options) {
    try {
      model_ = find_model_dir(options.model, {});
      sampling_ = checkpoint_sampling(model_, warnings(options.quiet));
    } catch (const Error& e) {
      warnings(options.quiet)(e.what());
    }
  }

  std::string print() const {
    std::string out;
    for (const CommandRow& command : command_rows())
      if (command.command == options_.command)
        for (const Row& row : option_rows())
          if ((row.commands & command.bit) != 0 && is_setting(row, From::kAnywhere))
            for (const Line& line : lines_of(row)) out += text_of(row, line);
    return out;
  }

 private:
  std::vector<Line> lines_of(const Row& row) const {
    const std::string_view name = long_name(row).substr(2);
    std::vector<Line> out;
    for (const Given& given : options_.given)
      if (given.name == name) out.push_back({given.value, given.source});
    // Of a flag that may be repeated each value counts; of the others the last one.
    if (!out.empty()) {
      const bool repeats = std::string_view(row.help).find("repeatable") != std::string_view::npos;
      return repeats ? out : std::vector{out.back()};
    }
    if (name == "model") return {{model_, std::string(kBuiltIn)}};
    for (const ModelDefault& known : kModelDefaults)
      if (known.name == name && is_sampling(row)) return {model_default(known)};
    return {built_in(row)};
  }

  static bool is_sampling(const Row& row) { return std::string_view(row.group) == "Sampling"; }

  Line model_default(const ModelDefault& known) const {
    const auto set = [&](std::string_view key) {
      return !key.empty() &&
             std::find(sampling_.keys.begin(), sampling_.keys.end(), key) != sampling_.keys.end();
    };
    const bool from_model = std::any_of(known.keys.begin(), known.keys.end(), set);
    return {number(known.value(sampling_.params)),
            std::string(from_model ? "generation_config.json" : kBuiltIn)};
  }

  static std::string text_of(const Row& row, const Line& line) {
    constexpr size_t kColumn = 40;
    std::string out = std::string(long_name(row).substr(2)) + " = " + config_value(line.value);
    out.resize(std::max(kColumn, out.size() + 2), ' ');
    return out + "# " + line.source + "\n";
  }

  const Options& options_;
  std::string model_;
  SamplingDefaults sampling_;
};

}  // namespace

std::string config_text(const Options& options) { return ConfigPrinter(options).print(); }

}  // namespace dsr
