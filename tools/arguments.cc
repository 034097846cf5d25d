#include "tools/arguments.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>

#include "tools/terminal.h"
#include "tools/values.h"

namespace dsr {
namespace {

// What users of llama.cpp, vLLM, Hugging Face and Ollama type.
struct Alias {
  std::string_view name, primary;
  std::string_view value = {};  // the alias means this value and takes none
};
constexpr std::array kAliases = {
    Alias{"--model-path", "--model"},
    Alias{"--prompt-file", "--file"},
    Alias{"-sys", "--system"},
    Alias{"--system-prompt", "--system"},
    Alias{"--n-predict", "--predict"},
    Alias{"--max-tokens", "--predict"},
    Alias{"--max-new-tokens", "--predict"},
    Alias{"--max-model-len", "--ctx-size"},
    Alias{"--temperature", "--temp"},
    Alias{"--repetition-penalty", "--repeat-penalty"},
    Alias{"--reverse-prompt", "--stop"},
    Alias{"--nothink", "--think", "off"},
    Alias{"--no-think", "--think", "off"},
    Alias{"--hidethinking", "--reasoning", "hide"},
    Alias{"--chat-template", "--chat-format"},
    Alias{"-no-cnv", "--raw"},
    Alias{"-cnv", "--interactive"},
    Alias{"--conversation", "--interactive"},
    Alias{"-dev", "--device"},
    Alias{"--no-mmap", "--load-mode", "read"},
    Alias{"-ctk", "--cache-type"},
    Alias{"--kv-cache-dtype", "--cache-type"},
    Alias{"-np", "--max-seqs"},
    Alias{"--parallel", "--max-seqs"},
    Alias{"--max-num-seqs", "--max-seqs"},
    Alias{"-b", "--chunk"},
    Alias{"--max-num-batched-tokens", "--chunk"},
    Alias{"--output-format", "--format"},
};

// Flags of other programs that mean nothing here, and why.
struct Foreign {
  std::string_view name, sentence;
};
constexpr std::string_view kNoLayers =
    "layers are not split between devices: the whole model runs on one backend";
constexpr std::string_view kNoCode = "no code or template from a model directory is ever run";
constexpr std::string_view kNoFlash = "attention has one form here; there is nothing to switch on";
constexpr std::string_view kNoParallel = "this version runs on one device";
constexpr std::string_view kNoNetwork =
    "the network is never used; download the model first and give its directory with -m";
constexpr std::string_view kNoConversion =
    "weights are used as the checkpoint stores them; --cache-type sets the type of the KV cache";
constexpr std::string_view kNoServer = "there is no server";
constexpr std::string_view kNoSuchSampler =
    "not among the samplers here: --help=Sampling lists them";
constexpr std::string_view kNoGrammar = "answers are not held to a grammar";
constexpr std::string_view kNoAdapters =
    "a checkpoint is run as it was published, without adapters";
constexpr std::string_view kPlanned = "memory is planned exactly; -c sets the context";
constexpr std::array kForeign = {
    Foreign{"-ngl", kNoLayers},
    Foreign{"--n-gpu-layers", kNoLayers},
    Foreign{"--gpu-layers", kNoLayers},
    Foreign{"--trust-remote-code", kNoCode},
    Foreign{"--jinja", kNoCode},
    Foreign{"-fa", kNoFlash},
    Foreign{"--flash-attn", kNoFlash},
    Foreign{"-tp", kNoParallel},
    Foreign{"--tp", kNoParallel},
    Foreign{"--tensor-parallel-size", kNoParallel},
    Foreign{"--pipeline-parallel-size", kNoParallel},
    Foreign{"--ep", kNoParallel},
    Foreign{"--enable-expert-parallel", kNoParallel},
    Foreign{"-hf", kNoNetwork},
    Foreign{"--hf-repo", kNoNetwork},
    Foreign{"--dtype", kNoConversion},
    Foreign{"--quantization", kNoConversion},
    Foreign{"-ctv", "MLA stores keys and values as one; --cache-type sets their type"},
    Foreign{"--cache-type-v", "MLA stores keys and values as one; --cache-type sets their type"},
    Foreign{"--gpu-memory-utilization", kPlanned},
    Foreign{"--swap-space", kPlanned},
    Foreign{"--cpu-offload-gb", kNoLayers},
    Foreign{"-sm", kNoLayers},
    Foreign{"--split-mode", kNoLayers},
    Foreign{"-ts", kNoLayers},
    Foreign{"--tensor-split", kNoLayers},
    Foreign{"-mg", "--device names the device"},
    Foreign{"--main-gpu", "--device names the device"},
    Foreign{"--enforce-eager", "nothing is compiled at run time"},
    Foreign{"-ub", "--chunk sets how many prompt tokens are computed in one step"},
    Foreign{"--ubatch-size", "--chunk sets how many prompt tokens are computed in one step"},
    Foreign{"--mirostat", kNoSuchSampler},
    Foreign{"--typical", kNoSuchSampler},
    Foreign{"--xtc-probability", kNoSuchSampler},
    Foreign{"--use-beam-search", kNoSuchSampler},
    Foreign{"--grammar", kNoGrammar},
    Foreign{"--grammar-file", kNoGrammar},
    Foreign{"-j", kNoGrammar},
    Foreign{"--json-schema", kNoGrammar},
    Foreign{"--guided-decoding-backend", kNoGrammar},
    Foreign{"--lora", kNoAdapters},
    Foreign{"--enable-lora", kNoAdapters},
    Foreign{"--revision", kNoNetwork},
    Foreign{"--download-dir", kNoNetwork},
    Foreign{"--tokenizer", "the tokenizer is the one in the model's directory"},
    Foreign{"--no-warmup", "one answer needs no warm-up; bench has --warmup"},
    Foreign{"--color", "reasoning is dimmed on a terminal; NO_COLOR=1 turns that off"},
    Foreign{"--keepalive", "the model is loaded for one run"},
    Foreign{"--mlock", "weights are read in place from the checkpoint's files"},
    Foreign{"--host", kNoServer},
    Foreign{"--port", kNoServer},
    Foreign{"--verbose-prompt", "--show-prompt prints the prompt and its ids"},
};

// Levenshtein distance.
size_t distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replaced = diagonal + (a[i - 1] != b[j - 1] ? 1 : 0);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, replaced});
    }
  }
  return row[b.size()];
}

template <typename Table>
auto find(const Table& table, std::string_view name) -> decltype(table.data()) {
  const auto at =
      std::find_if(table.begin(), table.end(), [&](const auto& row) { return row.name == name; });
  return at == table.end() ? nullptr : &*at;
}

// "--no-raw" <-> "--raw"
std::string negation(std::string_view name) {
  constexpr std::string_view kNo = "--no-";
  return name.starts_with(kNo) ? "--" + std::string(name.substr(kNo.size()))
                               : std::string(kNo) + std::string(name.substr(2));
}

// "deepseek-run, deepseek-run batch": the commands that have a flag of that name.
std::string commands_with(const std::string& name) {
  std::string out;
  for (const CommandRow& c : command_rows())
    if (meaning_of(name, c.bit))
      out += (out.empty() ? "deepseek-run" : ", deepseek-run") +
             (*c.name == '\0' ? "" : std::string(" ") + c.name);
  return out;
}

[[noreturn]] void fail_unknown(const std::string& name, unsigned command) {
  if (const std::string others = commands_with(name); !others.empty())
    fail_usage(name + " is not a flag here, but of " + others);
  std::vector<std::string> names;
  for (const Row& row : option_rows())
    if ((row.commands & command) != 0 && row.group != kHidden)
      for (const std::string_view known : names_of(row)) names.emplace_back(known);
  const std::string near = nearest(name, names);
  fail_usage("unknown flag " + visible_line(name) + "\n  try: " + (near.empty() ? "--help" : near));
}

// Rewrites the arguments in our own names, as CLI11 reads them: a name and a value in turn. It
// knows no -ngl, no aliases and no nearest names.
class Normaliser {
 public:
  Normaliser(const std::vector<std::string>& in, unsigned command) : in_(in), command_(command) {}

  std::vector<std::string> run() {
    while (at_ < in_.size()) {
      const std::string& argument = in_[at_++];
      const bool is_flag = argument.size() >= 2 && argument[0] == '-' && argument != "--";
      // A command that works on a file takes it without its name.
      if (const Row* input = find_row("--input", command_); !is_flag && input && !input_) {
        input_ = argument;
        out_.insert(out_.end(), {"--input", argument});
        continue;
      }
      if (!is_flag && input_)
        fail_usage("unexpected argument \"" + visible_line(argument) + "\": the input is \"" +
                   visible_line(*input_) + "\" already");
      if (!is_flag) fail_unexpected(argument);
      flag(argument);
    }
    return std::move(out_);
  }

 private:
  [[noreturn]] static void fail_unexpected(const std::string& argument) {
    std::vector<std::string> names;
    std::string list;
    for (const CommandRow& row : command_rows())
      if (*row.name != '\0') {
        names.emplace_back(row.name);
        list += (list.empty() ? "" : ", ") + names.back();
      }
    const std::string near = nearest(argument, names);
    fail_usage("unexpected argument \"" + visible_line(argument) +
               "\"; a prompt is given with -p, and a command (" + list + ") comes first" +
               "\n  try: " + (near.empty() ? "--help" : "deepseek-run " + near));
  }

  void flag(const std::string& argument) {
    const size_t equals = argument.find('=');
    const std::string name = argument.substr(0, equals);
    std::optional<std::string> value;
    if (equals != argument.npos) value = argument.substr(equals + 1);

    if (const auto meaning = meaning_of(name, command_)) return put(name, *meaning, value);
    if (const std::string_view sentence = foreign_sentence(name); !sentence.empty())
      fail_usage(name + " is not a flag of deepseek-run: " + std::string(sentence));
    if (name[1] == '-') fail_unknown(name, command_);
    if (const auto meaning = meaning_of("-" + name, command_))  // -temp 1
      return put(name, *meaning, value);
    short_flags(argument);
  }

  // "-n64" or "-qv"
  void short_flags(const std::string& argument) {
    for (size_t i = 1; i < argument.size(); ++i) {
      const std::string name = {'-', argument[i]};
      const auto meaning = meaning_of(name, command_);
      if (!meaning) fail_unknown(argument, command_);
      if (takes_value(*meaning) && i + 1 < argument.size())
        return put(name, *meaning, argument.substr(i + 1));
      put(name, *meaning, {});
    }
  }

  static bool takes_value(const Meaning& meaning) {
    return !meaning.value && meaning.row->value != nullptr && *meaning.row->value != '[';
  }

  // `typed` is what the user wrote, for messages.
  void put(const std::string& typed, const Meaning& meaning, std::optional<std::string> value) {
    const bool none = meaning.value || meaning.row->value == nullptr;
    if (none && value) fail_usage(typed + " takes no value");
    if (takes_value(meaning) && !value) {
      if (at_ == in_.size()) fail_usage(typed + " needs a value");
      value = in_[at_++];
    }
    const std::string implied = meaning.value.value_or(none ? "on" : "");
    out_.emplace_back(names_of(*meaning.row).back());
    out_.push_back(value.value_or(implied));
  }

  const std::vector<std::string>& in_;
  unsigned command_;
  size_t at_ = 0;
  std::optional<std::string> input_;  // that was given without its name
  std::vector<std::string> out_;
};

}  // namespace

std::optional<Meaning> meaning_of(std::string_view name, unsigned commands) {
  if (const Alias* alias = find(kAliases, name))
    if (const Row* row = find_row(alias->primary, commands))
      return Meaning{
          row, alias->value.empty() ? std::nullopt : std::optional<std::string>(alias->value)};
  if (const Row* row = find_row(name, commands)) return Meaning{row, {}};
  if (!name.starts_with("--")) return std::nullopt;
  const Row* row = find_row(negation(name), commands);
  if (row == nullptr || row->value != nullptr || row->from == From::kCommandLine)
    return std::nullopt;
  return Meaning{row, "off"};
}

std::string nearest(std::string_view name, const std::vector<std::string>& names) {
  constexpr size_t kMaxCompared = 64;  // no flag is as long
  std::string out;
  size_t best = 3;  // further away it is another word
  if (name.size() > kMaxCompared) return out;
  for (const std::string& known : names) {
    if (known.size() <= 2) continue;
    if (const size_t d = distance(name, known); d < best) {
      best = d;
      out = known;
    }
  }
  return out;
}

std::string_view foreign_sentence(std::string_view name) {
  const Foreign* foreign = find(kForeign, name);
  return foreign == nullptr ? "" : foreign->sentence;
}

std::vector<Argument> parse_arguments(const std::vector<std::string>& arguments, unsigned command) {
  std::vector<Argument> out;
  CLI::App app;
  app.set_help_flag();  // ours is a row like the others
  for (const Row& row : option_rows())
    if ((row.commands & command) != 0)
      app.add_option_function<std::string>(row.names,
                                           [&out, &row](const std::string& value) {
                                             out.push_back({&row, value});
                                           })
          ->trigger_on_parse()
          ->take_last();
  std::vector<std::string> reversed = Normaliser(arguments, command).run();
  std::reverse(reversed.begin(), reversed.end());  // as CLI11 wants them
  try {
    app.parse(reversed);
  } catch (const CLI::ParseError& e) {
    fail_usage(e.what());
  }
  return out;
}

}  // namespace dsr
