// Changed copies of a JSON object, for tests of what a file may say.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/json.h"

namespace dsr::test {

// `object` with the member `key` replaced or added, or without it.
inline Json with_member(const Json& object, const std::string& key,
                        const std::optional<Json>& value) {
  Json out = Json::object();
  bool placed = false;
  for (const auto& [k, v] : object.as_object().members) {
    if (k != key) {
      out.set(k, v);
    } else if (value) {
      out.set(k, *value);
    }
    placed = placed || k == key;
  }
  if (!placed && value) out.set(key, *value);
  return out;
}

// The same for "a.b", a member of a member. `text` is JSON; empty: no such member.
inline Json edited(const Json& object, const std::string& path, std::string_view text) {
  std::optional<Json> value;
  if (!text.empty()) value = parse_json(text, "test");
  const size_t dot = path.find('.');
  if (dot == std::string::npos) return with_member(object, path, value);
  const std::string outer = path.substr(0, dot);
  return with_member(object, outer, with_member(*object.find(outer), path.substr(dot + 1), value));
}

}  // namespace dsr::test
