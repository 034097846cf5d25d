#include "app/card.h"

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

}  // namespace dsr
