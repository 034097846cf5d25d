#include "tools/chat_options.h"

#include <algorithm>
#include <array>
#include <charconv>

#include "deepseek_run/error.h"
#include "tools/arguments.h"
#include "tools/settings.h"
#include "tools/terminal.h"

namespace dsr {
namespace {

unsigned answer_command() {
  for (const CommandRow& row : command_rows())
    if (row.command == Command::kAnswer) return row.bit;
  return 0;
}

bool can_change(const Row& row) {
  constexpr std::array<std::string_view, 2> kOthers = {"--think", "--reasoning"};
  const std::string_view name = long_name(row);
  return (row.commands & answer_command()) != 0 &&
         ((std::string_view(row.group) == "Sampling" && name != "--n-samples") ||
          std::find(kOthers.begin(), kOthers.end(), name) != kOthers.end());
}

std::vector<std::string> names_that_can_change() {
  std::vector<std::string> out;
  for (const Row& row : option_rows())
    if (can_change(row)) out.emplace_back(long_name(row).substr(2));
  return out;
}

const Row& row_named(std::string_view name) {
  const auto meaning = meaning_of("--" + std::string(name), answer_command());
  if (meaning && !meaning->value && can_change(*meaning->row)) return *meaning->row;
  if (meaning)
    throw Error(ErrorKind::kUsage, "--" + std::string(name) + " cannot change during a chat");
  const std::string near = nearest(name, names_that_can_change());
  throw Error(ErrorKind::kUsage, "unknown setting \"" + visible_line(name) + "\"" +
                                     (near.empty() ? "\n  try: /set" : "\n  try: " + near));
}

// Empties what a flag that may be repeated has filled; false for other flags.
bool forget(Options& options, std::string_view flag) {
  if (flag == "--stop") options.stop.clear();
  if (flag == "--logit-bias") options.sampling.logit_bias.clear();
  return flag == "--stop" || flag == "--logit-bias";
}

struct Assignment {
  const Row& row;
  std::string value;
};

Assignment parsed(std::string_view text) {
  const size_t equals = text.find('=');
  if (equals == text.npos || equals == 0)
    throw Error(ErrorKind::kUsage,
                "found \"" + visible_line(text) + "\", expected NAME=VALUE, for example temp=0.5");
  return {row_named(text.substr(0, equals)), std::string(text.substr(equals + 1))};
}

std::string text_of(double value) {
  std::array<char, 32> out{};
  return {out.data(), std::to_chars(out.data(), out.data() + out.size(), value).ptr};
}
std::string text_of(int64_t value) { return std::to_string(value); }

}  // namespace

void change_settings(Options& options, const std::vector<std::string>& assignments,
                     int64_t vocab_size) {
  Options changed = options;
  std::vector<const Row*> seen;
  for (const std::string& text : assignments) {
    const auto [row, value] = parsed(text);
    const std::string_view flag = long_name(row);
    const std::string name(flag.substr(2));
    bool repeats = std::find(seen.begin(), seen.end(), &row) != seen.end();
    if (!repeats) {
      std::erase_if(changed.given, [&](const Given& g) { return g.name == name; });
      repeats = forget(changed, flag);
      seen.push_back(&row);
    }
    if (repeats && value.empty()) continue;
    row.apply(changed, value);
    changed.given.push_back({name, value, "/set"});
  }
  SamplingParams params;
  changed.sampling.apply_to(params);
  check_sampling_params(params, vocab_size);
  options = std::move(changed);
}

std::vector<std::string> changed_settings(const Options& options) {
  const std::vector<std::string> names = names_that_can_change();
  std::vector<std::string> out;
  for (const Given& g : options.given)
    if (std::find(names.begin(), names.end(), g.name) != names.end())
      out.push_back(g.name + "=" + g.value);
  return out;
}

std::string settings_text(const Options& options, const ChatSettings& s) {
  constexpr std::array<const char*, 3> kThink = {"auto", "on", "off"};
  constexpr std::array<const char*, 3> kReasoning = {"show", "hide", "separate"};
  const SamplingParams& p = s.sampling;
  const auto reasoning = static_cast<size_t>(options.reasoning.value_or(ReasoningMode::kShow));
  std::string out =
      "temp=" + text_of(p.temperature) + " top-k=" + text_of(p.top_k) +
      " top-p=" + text_of(p.top_p) + " min-p=" + text_of(p.min_p) + "\n" +
      "repeat-penalty=" + text_of(p.repetition_penalty) +
      " repeat-last-n=" + text_of(p.penalty_window) +
      " presence-penalty=" + text_of(p.presence_penalty) +
      " frequency-penalty=" + text_of(p.frequency_penalty) +
      "\ndry-multiplier=" + text_of(p.dry_multiplier) + " dry-base=" + text_of(p.dry_base) +
      " dry-allowed-length=" + text_of(p.dry_allowed_length) +
      " loop-guard=" + (p.loop_guard ? "on" : "off") + "\n" +
      "seed=" + (options.sampling.seed ? std::to_string(*options.sampling.seed) : "-1") +
      " predict=" + text_of(s.max_new_tokens) +
      " think=" + kThink[static_cast<size_t>(s.thinking)] + " reasoning=" + kReasoning[reasoning] +
      "\n";
  for (const std::string& stop : s.stop) out += "stop=" + config_value(stop) + "\n";
  for (const auto& [id, bias] : p.logit_bias)
    out += "logit-bias=" + std::to_string(id) + (bias < 0 ? "" : "+") + text_of(bias) + "\n";
  return out;
}

}  // namespace dsr
