#include "engine/generation_config.h"

#include <algorithm>
#include <array>
#include <limits>
#include <string_view>

#include "base/error.h"

namespace dsr {

namespace {

constexpr double kMaxReal = std::numeric_limits<double>::max();
constexpr int64_t kMaxInt = std::numeric_limits<int64_t>::max();

// What transformers would do with these and we do not, unless they are null, false, empty or the
// number that changes nothing.
struct Unsupported {
  const char* key;
  double neutral = 0;
};
constexpr std::array kUnsupported = {
    Unsupported{"num_beams", 1},
    Unsupported{"num_beam_groups", 1},
    Unsupported{"diversity_penalty"},
    Unsupported{"penalty_alpha"},
    Unsupported{"typical_p", 1},
    Unsupported{"epsilon_cutoff"},
    Unsupported{"eta_cutoff"},
    Unsupported{"top_h"},
    Unsupported{"guidance_scale", 1},
    Unsupported{"encoder_repetition_penalty", 1},
    Unsupported{"no_repeat_ngram_size"},
    Unsupported{"encoder_no_repeat_ngram_size"},
    Unsupported{"min_length"},
    Unsupported{"min_new_tokens"},
    Unsupported{"bad_words_ids"},
    Unsupported{"force_words_ids"},
    Unsupported{"suppress_tokens"},
    Unsupported{"begin_suppress_tokens"},
    Unsupported{"forced_bos_token_id", -1},
    Unsupported{"forced_eos_token_id", -1},
    Unsupported{"sequence_bias"},
    Unsupported{"exponential_decay_length_penalty"},
    Unsupported{"stop_strings"},
    Unsupported{"watermarking_config"},
};

bool changes_nothing(const Json& value, double neutral) {
  if (value.is_number()) return value.as_double() == neutral;
  if (value.is_bool()) return !value.as_bool();
  if (value.is_array()) return value.as_array().empty();
  if (value.is_object()) return value.as_object().members.empty();
  return value.is_null() || value.as_string().empty();
}

SamplingParams read_params(const Json& json) {
  SamplingParams p;
  // What the numbers may be is check_sampling_params' to say.
  JsonReader r(json, "generation_config.json");
  p.temperature = r.get_double("temperature", -kMaxReal, kMaxReal, p.temperature);
  p.top_p = r.get_double("top_p", -kMaxReal, kMaxReal, p.top_p);
  p.top_k = r.get_int("top_k", -kMaxInt, kMaxInt, p.top_k);
  p.min_p = r.get_double("min_p", -kMaxReal, kMaxReal, p.min_p);
  p.repetition_penalty =
      r.get_double("repetition_penalty", -kMaxReal, kMaxReal, p.repetition_penalty);
  // Where a checkpoint states a penalty it means the whole text, as transformers applies it.
  if (p.repetition_penalty != 1) p.penalty_window = -1;
  if (!r.get_bool("do_sample", true)) p.temperature = 0;
  return p;
}

}  // namespace

SamplingParams sampling_defaults(const Json* json, int64_t vocab_size, const WarningSink& warn) {
  if (json == nullptr) return {};
  const auto warning = [&](const std::string& text) {
    constexpr std::string_view kFile = "generation_config.json: ";
    if (warn) warn(text.starts_with(kFile) ? text : str(kFile, text));
  };
  SamplingParams p;
  try {
    p = read_params(*json);
    check_sampling_params(p, vocab_size);
  } catch (const Error& e) {
    warning(str(e.what(), "; using the built-in sampling defaults"));
    return {};
  }
  for (const Unsupported& u : kUnsupported)
    if (const Json* value = json->find(u.key);
        value != nullptr && !changes_nothing(*value, u.neutral))
      warning(str(u.key, " is not supported and ignored"));
  return p;
}

std::vector<TokenId> eos_ids(const std::vector<int64_t>& from_config, const Json* json,
                             int64_t vocab_size) {
  std::vector<TokenId> ids;
  const auto add = [&](int64_t id) {
    if (id >= 0 && id < vocab_size && std::find(ids.begin(), ids.end(), id) == ids.end())
      ids.push_back(static_cast<TokenId>(id));
  };
  for (const int64_t id : from_config) add(id);
  const Json* more = json != nullptr && json->is_object() ? json->find("eos_token_id") : nullptr;
  if (more != nullptr && more->is_int()) add(more->as_int());
  if (more != nullptr && more->is_array())
    for (const Json& id : more->as_array())
      if (id.is_int()) add(id.as_int());
  return ids;
}

}  // namespace dsr
