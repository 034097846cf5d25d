#include "base/json.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>

#include "base/error.h"

namespace dsr {
namespace {

using nlohmann::ordered_json;

bool key_less(const Json::Object& o, uint32_t a, uint32_t b) {
  return o.members[a].first < o.members[b].first;
}

// Builds a Json from nlohmann's events, checking limits as they arrive.
class Builder : public nlohmann::json_sax<nlohmann::json> {
 public:
  Builder(std::string_view place, const JsonLimits& limits) : place_(place), limits_(limits) {}

  bool null() override { return put(Json()); }
  bool boolean(bool v) override { return put(Json(v)); }
  bool number_integer(int64_t v) override { return put(Json(v)); }
  bool number_unsigned(uint64_t v) override {
    if (v > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))
      fail_model(place_, ": not JSON we can use: integer ", v, " is above 2^63 - 1");
    return put(Json(static_cast<int64_t>(v)));
  }
  bool number_float(double v, const std::string&) override { return put(Json(v)); }
  bool string(std::string& v) override { return put(Json(std::move(v))); }
  bool binary(nlohmann::json::binary_t&) override { return false; }
  bool start_object(size_t) override { return open(/*is_object=*/true); }
  bool start_array(size_t) override { return open(/*is_object=*/false); }

  bool key(std::string& k) override {
    if (static_cast<int64_t>(k.size()) > limits_.max_key_bytes)
      fail_model(place_, ": a key of ", k.size(), " bytes, at most ", limits_.max_key_bytes,
                 " are accepted: ", quoted(k));
    if (++keys_ > limits_.max_keys) fail_model(place_, ": more than ", limits_.max_keys, " keys");
    stack_.back().pending_key = std::move(k);
    return true;
  }

  bool end_object() override {
    Level level = std::move(stack_.back());
    stack_.pop_back();
    return put(Json::from_object(index(std::move(level.object))));
  }
  bool end_array() override {
    Level level = std::move(stack_.back());
    stack_.pop_back();
    return put(Json(std::move(level.array)));
  }

  bool parse_error(size_t position, const std::string&,
                   const nlohmann::json::exception& e) override {
    // nlohmann's text is "[json.exception...] parse error at line 1, column 2: what; last read:
    // 'input'". The input is left out: it may be a file that was never meant for us.
    std::string what = e.what();
    if (const size_t colon = what.find(": "); colon != std::string::npos) what.erase(0, colon + 2);
    if (const size_t read = what.find("; last read"); read != std::string::npos) what.erase(read);
    fail_model(place_, ": not JSON: at byte ", position, ": ", escaped(what));
  }

  Json take() { return std::move(result_); }

 private:
  struct Level {
    bool is_object;
    Json::Object object;
    Json::Array array;
    std::string pending_key;
  };

  bool open(bool is_object) {
    if (static_cast<int>(stack_.size()) >= limits_.max_depth)
      fail_model(place_, ": nested deeper than ", limits_.max_depth, " levels");
    stack_.push_back({is_object, {}, {}, {}});
    return true;
  }

  bool put(Json v) {
    if (++values_ > limits_.max_values)
      fail_model(place_, ": more than ", limits_.max_values, " values");
    if (stack_.empty()) {
      result_ = std::move(v);
    } else if (Level& top = stack_.back(); top.is_object) {
      top.object.members.emplace_back(std::move(top.pending_key), std::move(v));
    } else {
      top.array.push_back(std::move(v));
    }
    return true;
  }

  Json::Object index(Json::Object o) const {
    o.by_key.resize(o.members.size());
    std::iota(o.by_key.begin(), o.by_key.end(), 0u);
    std::sort(o.by_key.begin(), o.by_key.end(),
              [&o](uint32_t a, uint32_t b) { return key_less(o, a, b); });
    for (size_t i = 1; i < o.by_key.size(); ++i) {
      const std::string& k = o.members[o.by_key[i]].first;
      if (k == o.members[o.by_key[i - 1]].first)
        fail_model(place_, ": the key ", quoted(k), " appears twice");
    }
    return o;
  }

  std::string place_;
  const JsonLimits& limits_;
  std::vector<Level> stack_;
  int64_t keys_ = 0, values_ = 0;
  Json result_;
};

ordered_json to_nlohmann(const Json& v) {
  if (v.is_bool()) return v.as_bool();
  if (v.is_int()) return v.as_int();
  if (v.is_double()) {
    if (!std::isfinite(v.as_double())) return nullptr;
    return v.as_double();
  }
  if (v.is_string()) return v.as_string();
  if (v.is_array()) {
    ordered_json out = ordered_json::array();
    for (const Json& e : v.as_array()) out.push_back(to_nlohmann(e));
    return out;
  }
  if (v.is_object()) {
    // nlohmann's ordered object looks keys up linearly on insert; ours are known to be distinct.
    ordered_json out = ordered_json::object();
    auto& object = out.get_ref<ordered_json::object_t&>();
    for (const auto& [k, e] : v.as_object().members)
      static_cast<ordered_json::object_t::Container&>(object).emplace_back(k, to_nlohmann(e));
    return out;
  }
  return nullptr;
}

// A value as an error message shows it: scalars as text, containers by their kind.
std::string shown(const Json& v) {
  if (v.is_array() || v.is_object()) return str("an ", v.type_name());
  return escaped(v.dump());
}

std::string text_of(const Json& v, int indent) {
  return to_nlohmann(v).dump(indent, ' ', /*ensure_ascii=*/false,
                             ordered_json::error_handler_t::replace);
}

}  // namespace

Json Json::from_object(Object v) {
  Json out;
  out.value_ = std::move(v);
  return out;
}

bool Json::as_bool() const {
  DSR_CHECK(is_bool(), type_name());
  return std::get<bool>(value_);
}
int64_t Json::as_int() const {
  DSR_CHECK(is_int(), type_name());
  return std::get<int64_t>(value_);
}
double Json::as_double() const {
  DSR_CHECK(is_number(), type_name());
  return is_int() ? static_cast<double>(std::get<int64_t>(value_)) : std::get<double>(value_);
}
const std::string& Json::as_string() const {
  DSR_CHECK(is_string(), type_name());
  return std::get<std::string>(value_);
}
const Json::Array& Json::as_array() const {
  DSR_CHECK(is_array(), type_name());
  return std::get<Array>(value_);
}
const Json::Object& Json::as_object() const {
  DSR_CHECK(is_object(), type_name());
  return std::get<Object>(value_);
}

int64_t Json::find_index(std::string_view key) const {
  const Object& o = as_object();
  const auto it =
      std::lower_bound(o.by_key.begin(), o.by_key.end(), key,
                       [&o](uint32_t i, std::string_view k) { return o.members[i].first < k; });
  return it == o.by_key.end() || o.members[*it].first != key ? -1 : int64_t{*it};
}

const Json* Json::find(std::string_view key) const {
  const int64_t i = find_index(key);
  return i < 0 ? nullptr : &as_object().members[static_cast<size_t>(i)].second;
}

void Json::push_back(Json v) {
  DSR_CHECK(is_array(), type_name());
  std::get<Array>(value_).push_back(std::move(v));
}

Json& Json::set(std::string key, Json v) {
  DSR_CHECK(is_object(), type_name());
  DSR_CHECK(find(key) == nullptr, key);
  Object& o = std::get<Object>(value_);
  o.members.emplace_back(std::move(key), std::move(v));
  const auto index = static_cast<uint32_t>(o.members.size() - 1);
  const auto at = std::upper_bound(o.by_key.begin(), o.by_key.end(), index,
                                   [&o](uint32_t a, uint32_t b) { return key_less(o, a, b); });
  o.by_key.insert(at, index);
  return *this;
}

const char* Json::type_name() const {
  if (is_null()) return "null";
  if (is_bool()) return "bool";
  if (is_int()) return "integer";
  if (is_double()) return "number";
  if (is_string()) return "string";
  return is_array() ? "array" : "object";
}

std::string Json::dump() const { return text_of(*this, -1); }
std::string Json::pretty() const { return text_of(*this, 2); }

Json parse_json(std::string_view text, std::string_view place, const JsonLimits& limits) {
  // To nlohmann's lexer a NUL is the end of the text, and what follows would go unread.
  if (const size_t nul = text.find('\0'); nul != std::string_view::npos)
    fail_model(place, ": not JSON: a NUL byte at byte ", nul);
  Builder builder(place, limits);
  nlohmann::json::sax_parse(text.begin(), text.end(), &builder);
  return builder.take();
}

// --- JsonReader ---------------------------------------------------------------------------------

JsonReader::JsonReader(const Json& object, std::string place)
    : object_(object), place_(std::move(place)) {
  if (!object.is_object())
    fail_model(place_, ": expected a JSON object, found ", object.type_name());
  read_.resize(object.as_object().members.size(), false);
}

const Json* JsonReader::optional(std::string_view key) {
  const int64_t i = object_.find_index(key);
  if (i < 0) return nullptr;
  read_[static_cast<size_t>(i)] = true;
  const Json& v = object_.as_object().members[static_cast<size_t>(i)].second;
  return v.is_null() ? nullptr : &v;
}

const Json& JsonReader::require(std::string_view key) {
  const Json* v = optional(key);
  if (v == nullptr) fail_model(place_, ": ", key, " is missing");
  return *v;
}

int64_t JsonReader::to_int(std::string_view key, const Json& v, int64_t min, int64_t max) const {
  if (!v.is_int())
    fail_model(place_, ": ", key, " is ", shown(v), ", expected an integer from ", min, " to ",
               max);
  if (v.as_int() < min || v.as_int() > max)
    fail_model(place_, ": ", key, " is ", v.as_int(), ", expected ", min, " to ", max);
  return v.as_int();
}

double JsonReader::to_double(std::string_view key, const Json& v, double min, double max) const {
  if (!v.is_number())
    fail_model(place_, ": ", key, " is ", shown(v), ", expected a number from ", min, " to ", max);
  const double d = v.as_double();
  if (!(d >= min && d <= max))
    fail_model(place_, ": ", key, " is ", d, ", expected ", min, " to ", max);
  return d;
}

int64_t JsonReader::require_int(std::string_view key, int64_t min, int64_t max) {
  return to_int(key, require(key), min, max);
}
int64_t JsonReader::get_int(std::string_view key, int64_t min, int64_t max, int64_t fallback) {
  const Json* v = optional(key);
  return v == nullptr ? fallback : to_int(key, *v, min, max);
}
double JsonReader::require_double(std::string_view key, double min, double max) {
  return to_double(key, require(key), min, max);
}
double JsonReader::get_double(std::string_view key, double min, double max, double fallback) {
  const Json* v = optional(key);
  return v == nullptr ? fallback : to_double(key, *v, min, max);
}

bool JsonReader::get_bool(std::string_view key, bool fallback) {
  const Json* v = optional(key);
  if (v == nullptr) return fallback;
  if (!v->is_bool()) fail_model(place_, ": ", key, " is ", shown(*v), ", expected true or false");
  return v->as_bool();
}

std::string JsonReader::require_string(std::string_view key) {
  const Json& v = require(key);
  if (!v.is_string()) fail_model(place_, ": ", key, " is ", shown(v), ", expected a string");
  return v.as_string();
}
std::string JsonReader::get_string(std::string_view key, std::string_view fallback) {
  return optional(key) == nullptr ? std::string(fallback) : require_string(key);
}

void JsonReader::ignore(std::initializer_list<std::string_view> keys) {
  for (const std::string_view key : keys) optional(key);
}

std::vector<std::string> JsonReader::unread_keys() const {
  std::vector<std::string> out;
  const Json::Object& o = object_.as_object();
  for (size_t i = 0; i < o.members.size(); ++i)
    if (!read_[i]) out.push_back(o.members[i].first);
  return out;
}

}  // namespace dsr
