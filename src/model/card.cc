#include "model/card.h"

#include "base/error.h"
#include "base/mapped_file.h"

namespace dsr {

Json read_card(const std::string& path) {
  constexpr int64_t kMaxBytes = int64_t{1} << 20;
  Json json = parse_json(read_file(path, kMaxBytes), escaped(path));
  if (!json.is_object())
    fail_model(escaped(path), ": is a JSON ", json.type_name(), ", expected an object");
  return json;
}

WeightFormat weight_format(const std::string& text) {
  if (text == "bf16") return WeightFormat::kBF16;
  if (text == "fp8") return WeightFormat::kFP8;
  if (text == "4bit" || text == "4-bit" || text == "int4")
    fail_usage("4-bit weights are not supported yet (supported: bf16, fp8)");
  fail_usage("weights as ", quoted(text), ", expected bf16 or fp8");
}

ModelConfig card_model(const std::string& path, const std::string& weights, int64_t layers,
                       const WarningSink& warn) {
  ModelConfig c = parse_config(read_card(path), warn);
  c = with_format(c, weights.empty() ? released_format(c) : weight_format(weights));
  if (layers < 0 || layers > c.num_hidden_layers)
    fail_usage("layers are ", layers, ", the model has ", c.num_hidden_layers);
  if (layers > 0) c.num_hidden_layers = layers;
  c.num_nextn_predict_layers = 0;
  return c;
}

}  // namespace dsr
