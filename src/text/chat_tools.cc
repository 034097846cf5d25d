// parse_chat_tools: see deepseek_run/chat.h.
#include "base/error.h"
#include "base/json.h"
#include "deepseek_run/chat.h"

namespace dsr {
namespace {

// JSON as Python writes it, ", " and ": " between things, which is what the models have seen.
std::string spaced(const Json& json) {
  std::string out;
  if (json.is_array()) {
    for (const Json& e : json.as_array()) out += str(out.empty() ? "" : ", ", spaced(e));
    return "[" + out + "]";
  }
  if (json.is_object()) {
    for (const auto& [key, value] : json.as_object().members)
      out += str(out.empty() ? "" : ", ", Json(key).dump(), ": ", spaced(value));
    return "{" + out + "}";
  }
  return json.dump();
}

const Json& function_of(const Json& tool, const std::string& place) {
  const Json* function = tool.is_object() ? tool.find("function") : nullptr;
  const Json& inner = function != nullptr ? *function : tool;
  if (!inner.is_object()) fail_usage(place, ": expected an object");
  return inner;
}

std::string string_of(const Json& function, const char* key, const std::string& place) {
  const Json* value = function.find(key);
  if (value == nullptr || value->is_null()) return "";
  if (!value->is_string()) fail_usage(place, ".", key, " is ", value->type_name());
  return value->as_string();
}

}  // namespace

std::vector<ChatTool> parse_chat_tools(std::string_view json, std::string_view place) {
  Json list;
  try {
    list = parse_json(json, place);
  } catch (const Error& e) {
    fail_usage(e.what());
  }
  if (!list.is_array()) fail_usage(place, ": expected an array of tools");
  std::vector<ChatTool> tools;
  for (size_t i = 0; i < list.as_array().size(); ++i) {
    const std::string here = str(place, "[", i, "]");
    const Json& function = function_of(list.as_array()[i], here);
    ChatTool tool{string_of(function, "name", here), string_of(function, "description", here),
                  "{}"};
    if (tool.name.empty()) fail_usage(here, ".name is missing");
    if (const Json* parameters = function.find("parameters")) tool.parameters = spaced(*parameters);
    tools.push_back(std::move(tool));
  }
  return tools;
}

}  // namespace dsr
