#include "tools/settings.h"

#include <algorithm>

#include "deepseek_run/error.h"
#include "tools/arguments.h"
#include "tools/terminal.h"
#include "tools/values.h"

namespace dsr {
namespace {

constexpr std::string_view kPrefix = "DEEPSEEK_RUN_";

// "TOP_K" <-> "--top-k"; empty for what is no name in capitals.
std::string flag_of_variable(std::string_view name) {
  std::string out = "--";
  for (const char c : name) {
    if (c == '-' || (c >= 'a' && c <= 'z')) return "";
    out += c == '_' ? '-' : c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  }
  return out;
}

std::string variable_of_flag(std::string_view name) {
  std::string out(kPrefix);
  for (const char c : name.substr(2))
    out += c == '-' ? '_' : c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c;
  return out;
}

// The flag that a name of the environment or of a file sets; null if there is none such.
const Row* settable(std::string_view flag, unsigned commands) {
  const std::optional<Meaning> meaning = meaning_of(flag, commands);
  return meaning && !meaning->value ? meaning->row : nullptr;
}

std::string value_for(const Row& row, const std::string& value, const std::string& source) {
  if (row.value != nullptr || value.empty()) return value;
  constexpr std::string_view kOn = "on", kOff = "off";
  return std::string(parse_choice(source, value, {kOn, kOff}) == 0 ? kOn : kOff);
}

std::vector<std::string> settable_names(From from) {
  std::vector<std::string> out;
  for (const Row& row : option_rows())
    if (const std::string_view name = long_name(row); is_setting(row, from))
      out.push_back(from == From::kEnvironment ? variable_of_flag(name)
                                               : std::string(name.substr(2)));
  return out;
}

// --- lines of a file
// ------------------------------------------------------------------------------

class LineParser {
 public:
  LineParser(std::string place, std::string_view line) : place_(std::move(place)), line_(line) {}

  [[noreturn]] void fail(const std::string& what) const {
    throw Error(ErrorKind::kUsage, place_ + ": " + what);
  }

  // Whether there is a setting on the line.
  bool parse(std::string& name, std::string& value) const {
    const std::string_view line = trimmed(line_);
    if (line.empty() || line[0] == '#') return false;
    const size_t equals = line.find('=');
    if (equals == line.npos || equals == 0)
      fail("found \"" + visible_line(line) + "\", expected: name = value");
    name = trimmed(line.substr(0, equals));
    const std::string_view rest = trimmed(line.substr(equals + 1));
    value = rest.starts_with('"') ? unquoted(rest.substr(1)) : bare(rest);
    return true;
  }

 private:
  static std::string bare(std::string_view text) {
    for (size_t i = 0; i < text.size(); ++i)
      if (text[i] == '#' && (i == 0 || kBlanks.find(text[i - 1]) != kBlanks.npos))
        return std::string(trimmed(text.substr(0, i)));
    return std::string(text);
  }

  std::string unquoted(std::string_view text) const {
    std::string out;
    while (!text.empty() && text[0] != '"') {
      if (text[0] == '\\') {
        out += escaped(text);
        continue;
      }
      out += text[0];
      text.remove_prefix(1);
    }
    if (text.empty()) fail("the value's closing \" is missing");
    const std::string_view rest = trimmed(text.substr(1));
    if (!rest.empty() && rest[0] != '#')
      fail("found \"" + visible_line(rest) + "\" after the value's closing \"");
    return out;
  }

  // Takes one escape from the front.
  char escaped(std::string_view& text) const {
    constexpr std::string_view kNames = "\"\\ntr", kMeanings = "\"\\\n\t\r";
    const char name = text.size() < 2 ? '\0' : text[1];
    if (const size_t at = kNames.find(name); at != kNames.npos) {
      text.remove_prefix(2);
      return kMeanings[at];
    }
    constexpr std::string_view kHex = "0123456789abcdef";
    const size_t high = text.size() < 4 ? kHex.npos : kHex.find(text[2]);
    const size_t low = text.size() < 4 ? kHex.npos : kHex.find(text[3]);
    if (name != 'x' || high == kHex.npos || low == kHex.npos)
      fail(R"(a \ in quotes begins one of \" \\ \n \t \r \x1b)");
    text.remove_prefix(4);
    return static_cast<char>(high * 16 + low);
  }

  std::string place_;
  std::string_view line_;
};

const Row* row_of_line(const LineParser& line, const std::string& name, unsigned command) {
  const std::string flag = "--" + name;
  const Row* row = settable(flag, command);
  if (row == nullptr) row = settable(flag, kAnyCommand);
  if (row != nullptr && is_setting(*row, From::kAnywhere)) return row;
  if (row != nullptr) line.fail(flag + " is not set in a file");
  if (const std::string_view sentence = foreign_sentence(flag); !sentence.empty())
    line.fail(flag + " is not a flag of deepseek-run: " + std::string(sentence));
  const std::string near = nearest(name, settable_names(From::kAnywhere));
  line.fail("unknown setting \"" + visible_line(name) + "\"" +
            (near.empty() ? "\n  try: --help" : "\n  try: " + near));
}

}  // namespace

std::optional<std::string> variable(const std::vector<std::string>& environment,
                                    std::string_view name) {
  for (const std::string& entry : environment)
    if (entry.size() > name.size() + 1 && entry.starts_with(name) && entry[name.size()] == '=')
      return entry.substr(name.size() + 1);
  return std::nullopt;
}

std::vector<Setting> settings_of_environment(const std::vector<std::string>& environment,
                                             unsigned command, std::vector<std::string>& warnings) {
  std::vector<Setting> out;
  for (const std::string& entry : environment) {
    const size_t equals = entry.find('=');
    if (!entry.starts_with(kPrefix) || equals == entry.npos || equals + 1 == entry.size()) continue;
    const std::string name = entry.substr(0, equals);
    const std::string flag = flag_of_variable(std::string_view(name).substr(kPrefix.size()));
    const Row* row = settable(flag, kAnyCommand);
    if (row == nullptr || !is_setting(*row, From::kEnvironment)) {
      const std::string near = nearest(name, settable_names(From::kEnvironment));
      warnings.push_back(visible_line(name) + " has no meaning" +
                         (row != nullptr ? ": " + flag + " is given on the command line"
                          : near.empty() ? ""
                                         : "; did you mean " + near + "?"));
      continue;
    }
    row = settable(flag, command);
    if (row == nullptr) continue;  // another command's
    out.push_back({row, value_for(*row, entry.substr(equals + 1), name), name});
  }
  return out;
}

std::vector<Setting> settings_of_file(const std::string& path, std::string_view text,
                                      unsigned command) {
  std::vector<Setting> out;
  if (text.starts_with("\xEF\xBB\xBF")) text.remove_prefix(3);
  for (int64_t number = 1; !text.empty(); ++number) {
    std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(line.size() + 1, text.size()));
    if (line.ends_with('\r')) line.remove_suffix(1);
    const std::string place = visible_line(path) + ":" + std::to_string(number);
    const LineParser parser(place, line);
    std::string name, value;
    if (!parser.parse(name, value)) continue;
    const Row* row = row_of_line(parser, name, command);
    if ((row->commands & command) == 0) continue;
    value = value_for(*row, value, place + ": " + name);
    if (!value.empty()) out.push_back({row, std::move(value), place});
  }
  return out;
}

bool is_setting(const Row& row, From from) {
  return row.from <= from && row.group != kInformation && row.group != kHidden &&
         !long_name(row).empty();
}

std::string config_value(std::string_view value) {
  constexpr std::string_view kHex = "0123456789abcdef";
  bool plain = value == trimmed(value) && !value.starts_with('"') && value.find('#') == value.npos;
  std::string bare(value), out = "\"";
  while (!value.empty()) {
    const size_t size = utf8_length(value);
    const std::string_view character = value.substr(0, std::max<size_t>(size, 1));
    value.remove_prefix(character.size());
    const bool escape = size == 0 || is_control(character);
    plain = plain && !escape;
    for (const char c : character) {
      const auto byte = static_cast<unsigned char>(c);
      if (escape)
        out += {'\\', 'x', kHex[byte >> 4], kHex[byte & 15]};
      else if (c == '"' || c == '\\')
        out += {'\\', c};
      else
        out += c;
    }
  }
  return plain ? bare : out + "\"";
}

}  // namespace dsr
