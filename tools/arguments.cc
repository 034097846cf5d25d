#include "tools/arguments.h"

#include <algorithm>
#include <array>

#include "deepseek_run/error.h"
#include "tools/terminal.h"

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
    Alias{"--chat-template", "--chat-format"},
    Alias{"-no-cnv", "--raw"},
    Alias{"-dev", "--device"},
    Alias{"-ctk", "--cache-type"},
    Alias{"--kv-cache-dtype", "--cache-type"},
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
constexpr std::string_view kNoChat =
    "this version has no chat on the terminal; give a prompt with -p";
constexpr std::string_view kNoServer = "there is no server";
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
    Foreign{"--enable-expert-parallel", kNoParallel},
    Foreign{"-hf", kNoNetwork},
    Foreign{"--hf-repo", kNoNetwork},
    Foreign{"--dtype", kNoConversion},
    Foreign{"--quantization", kNoConversion},
    Foreign{"-ctv", "MLA stores keys and values as one; --cache-type sets their type"},
    Foreign{"--cache-type-v", "MLA stores keys and values as one; --cache-type sets their type"},
    Foreign{"--gpu-memory-utilization", "memory is planned exactly; -c sets the context"},
    Foreign{"--mlock", "weights are read in place from the checkpoint's files"},
    Foreign{"--no-mmap", "weights are read in place from the checkpoint's files"},
    Foreign{"-i", kNoChat},
    Foreign{"--interactive", kNoChat},
    Foreign{"-cnv", kNoChat},
    Foreign{"--conversation", kNoChat},
    Foreign{"--host", kNoServer},
    Foreign{"--port", kNoServer},
    Foreign{"--verbose-prompt", "--show-prompt prints the prompt and its ids"},
};

[[noreturn]] void fail_usage(const std::string& message) {
  throw Error(ErrorKind::kUsage, message);
}

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

[[noreturn]] void fail_unknown(const std::string& name, const KnownFlags& flags) {
  constexpr size_t kMaxCompared = 64;  // no flag is as long
  std::string nearest;
  size_t best = 3;  // further away it is another word
  for (const std::string& known : flags.names) {
    if (known.size() <= 2 || name.size() > kMaxCompared) continue;
    if (const size_t d = distance(name, known); d < best) {
      best = d;
      nearest = known;
    }
  }
  fail_usage("unknown flag " + visible_line(name) +
             (nearest.empty() ? "\n  try: --help" : "\n  try: " + nearest));
}

// Walks the arguments once.
class Normaliser {
 public:
  Normaliser(const std::vector<std::string>& in, const KnownFlags& flags)
      : in_(in), flags_(flags) {}

  std::vector<std::string> run() {
    while (at_ < in_.size()) {
      const std::string& argument = in_[at_++];
      const bool is_flag = argument.size() >= 2 && argument[0] == '-' && argument != "--";
      if (!is_flag && !flags_.bare.empty() && !bare_) {
        bare_ = true;
        out_.insert(out_.end(), {flags_.bare, argument});
        continue;
      }
      if (!is_flag)
        fail_usage("unexpected argument \"" + visible_line(argument) +
                   "\"; a prompt is given with -p, and a command (tokenize, logits, inspect) comes "
                   "first");
      flag(argument);
    }
    return std::move(out_);
  }

 private:
  void flag(const std::string& argument) {
    const size_t equals = argument.find('=');
    const std::string name = argument.substr(0, equals);
    std::optional<std::string> value;
    if (equals != argument.npos) value = argument.substr(equals + 1);

    if (const Alias* alias = find(kAliases, name); alias && flags_.takes_value(primary(*alias))) {
      if (alias->value.empty()) return put(name, primary(*alias), value);
      if (value) fail_usage(name + " takes no value");
      return put(name, primary(*alias), std::string(alias->value));
    }
    if (flags_.takes_value(name)) return put(name, name, value);
    if (const Foreign* foreign = find(kForeign, name))
      fail_usage(name + " is not a flag of deepseek-run: " + std::string(foreign->sentence));
    if (name[1] == '-') fail_unknown(name, flags_);
    if (flags_.takes_value("-" + name)) return put(name, "-" + name, value);  // -temp 1
    short_flags(argument);
  }

  // "-n64" or "-qv"
  void short_flags(const std::string& argument) {
    for (size_t i = 1; i < argument.size(); ++i) {
      const std::string name = {'-', argument[i]};
      const std::optional<bool> takes_value = flags_.takes_value(name);
      if (!takes_value) fail_unknown(argument, flags_);
      if (*takes_value && i + 1 < argument.size()) return put(name, name, argument.substr(i + 1));
      put(name, name, {});
    }
  }

  // `typed` is what the user wrote, for messages.
  void put(const std::string& typed, const std::string& name, std::optional<std::string> value) {
    const bool takes_value = *flags_.takes_value(name);
    if (!takes_value && value) fail_usage(typed + " takes no value");
    if (takes_value && !value) {
      if (at_ == in_.size()) fail_usage(typed + " needs a value");
      value = in_[at_++];
    }
    out_.push_back(name);
    if (value) out_.push_back(*value);
  }

  template <typename Table>
  static auto find(const Table& table, std::string_view name) -> decltype(table.data()) {
    const auto at =
        std::find_if(table.begin(), table.end(), [&](const auto& row) { return row.name == name; });
    return at == table.end() ? nullptr : &*at;
  }
  static std::string primary(const Alias& alias) { return std::string(alias.primary); }

  const std::vector<std::string>& in_;
  const KnownFlags& flags_;
  size_t at_ = 0;
  bool bare_ = false;  // there was one
  std::vector<std::string> out_;
};

}  // namespace

std::vector<std::string> normalised(const std::vector<std::string>& arguments,
                                    const KnownFlags& flags) {
  return Normaliser(arguments, flags).run();
}

}  // namespace dsr
