// JSON that came from outside, and JSON that we write. nlohmann/json does the lexing and is seen by
// base/json.cc alone; limits and duplicate keys are checked while parsing.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace dsr {

// A parsed or built value. Objects keep the order of their members.
class Json {
 public:
  using Array = std::vector<Json>;
  struct Object {
    std::vector<std::pair<std::string, Json>> members;  // file order
    std::vector<uint32_t> by_key;                       // indices into members, sorted by key
  };

  Json() = default;
  Json(std::nullptr_t) {}                               // NOLINT: a literal reads as JSON
  Json(bool v) : value_(v) {}                           // NOLINT
  Json(int v) : value_(int64_t{v}) {}                   // NOLINT
  Json(int64_t v) : value_(v) {}                        // NOLINT
  Json(double v) : value_(v) {}                         // NOLINT
  Json(const char* v) : value_(std::string(v)) {}       // NOLINT
  Json(std::string v) : value_(std::move(v)) {}         // NOLINT
  Json(std::string_view v) : value_(std::string(v)) {}  // NOLINT
  Json(Array v) : value_(std::move(v)) {}               // NOLINT
  static Json object() { return from_object({}); }
  static Json from_object(Object v);
  static Json array() { return Json(Array{}); }

  bool is_null() const { return std::holds_alternative<std::monostate>(value_); }
  bool is_bool() const { return std::holds_alternative<bool>(value_); }
  bool is_int() const { return std::holds_alternative<int64_t>(value_); }
  bool is_double() const { return std::holds_alternative<double>(value_); }
  bool is_number() const { return is_int() || is_double(); }
  bool is_string() const { return std::holds_alternative<std::string>(value_); }
  bool is_array() const { return std::holds_alternative<Array>(value_); }
  bool is_object() const { return std::holds_alternative<Object>(value_); }

  // Each requires the type; numbers of either kind convert to double.
  bool as_bool() const;
  int64_t as_int() const;
  double as_double() const;
  const std::string& as_string() const;
  const Array& as_array() const;
  const Object& as_object() const;

  // The member `key` of an object, or nullptr; its index in as_object().members, or -1. O(log n).
  const Json* find(std::string_view key) const;
  int64_t find_index(std::string_view key) const;

  // For building: appends to an array; sets a member of an object (the key must be new).
  void push_back(Json v);
  Json& set(std::string key, Json v);

  // "null", "bool", "integer", "number", "string", "array" or "object".
  const char* type_name() const;
  // Compact JSON text on one line, valid UTF-8 (invalid bytes in strings become U+FFFD);
  // non-finite numbers become null.
  std::string dump() const;
  // The same with two-space indentation.
  std::string pretty() const;

 private:
  std::variant<std::monostate, bool, int64_t, double, std::string, Array, Object> value_;
};

// What a file may contain before it is refused.
struct JsonLimits {
  int max_depth = 64;                     // nested arrays and objects
  int64_t max_keys = int64_t{1} << 22;    // over all objects together
  int64_t max_values = int64_t{1} << 24;  // of every kind, over the whole text
  int64_t max_key_bytes = 4096;
};

// Parses one JSON text. Whitespace may surround it; anything else, a duplicate key, bad UTF-8, a
// number out of int64/double range or a broken limit throws Error(kModel) "PLACE: not JSON: ...".
Json parse_json(std::string_view text, std::string_view place, const JsonLimits& limits = {});

// Reads the members of one object and remembers which were read, so that a key nobody understood
// is reported instead of ignored. All errors are Error(kModel) that name place and key.
class JsonReader {
 public:
  // `object` must outlive the reader. `place` names it in messages ("config.json").
  JsonReader(const Json& object, std::string place);

  const std::string& place() const { return place_; }
  bool has(std::string_view key) { return optional(key) != nullptr; }
  // The member, or nullptr if absent or null; counts as read.
  const Json* optional(std::string_view key);
  const Json& require(std::string_view key);

  // Typed reads. An int is an int: true, 1e3 and 1.0 are refused.
  int64_t require_int(std::string_view key, int64_t min, int64_t max);
  int64_t get_int(std::string_view key, int64_t min, int64_t max, int64_t fallback);
  double require_double(std::string_view key, double min, double max);
  double get_double(std::string_view key, double min, double max, double fallback);
  bool get_bool(std::string_view key, bool fallback);
  std::string require_string(std::string_view key);
  std::string get_string(std::string_view key, std::string_view fallback);

  void ignore(std::initializer_list<std::string_view> keys);
  std::vector<std::string> unread_keys() const;  // in file order

 private:
  int64_t to_int(std::string_view key, const Json& v, int64_t min, int64_t max) const;
  double to_double(std::string_view key, const Json& v, double min, double max) const;

  const Json& object_;
  std::string place_;
  std::vector<bool> read_;  // by member index
};

}  // namespace dsr
