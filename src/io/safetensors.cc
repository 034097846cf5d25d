#include "io/safetensors.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <optional>
#include <string_view>
#include <tuple>

#include "base/error.h"
#include "base/json.h"
#include "base/math.h"

namespace dsr {
namespace {

constexpr int64_t kLengthBytes = 8;
constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the limit of the reference implementation
constexpr size_t kMaxStoredRank = 8;
// Room for 2^19 tensors of four keys and eight values each: more than five times what the largest
// published checkpoint of the family has in all its shards together.
constexpr JsonLimits kHeaderLimits{
    .max_depth = 8, .max_keys = 1 << 21, .max_values = 1 << 22, .max_key_bytes = 4096};

struct StoredType {
  std::string_view name;
  int64_t bits;                // of one element
  std::optional<DType> dtype;  // nullopt: no model of ours uses it
};

constexpr std::array<StoredType, 22> kTypes = {{
    {"BF16", 16, DType::kBF16},       {"F8_E4M3", 8, DType::kF8E4M3},
    {"F32", 32, DType::kF32},         {"F16", 16, DType::kF16},
    {"F8_E8M0", 8, DType::kF8E8M0},   {"I32", 32, DType::kI32},
    {"I64", 64, DType::kI64},         {"U8", 8, DType::kU8},
    {"BOOL", 8, std::nullopt},        {"F4", 4, std::nullopt},
    {"F6_E2M3", 6, std::nullopt},     {"F6_E3M2", 6, std::nullopt},
    {"I8", 8, std::nullopt},          {"F8_E5M2", 8, std::nullopt},
    {"F8_E4M3FNUZ", 8, std::nullopt}, {"F8_E5M2FNUZ", 8, std::nullopt},
    {"I16", 16, std::nullopt},        {"U16", 16, std::nullopt},
    {"U32", 32, std::nullopt},        {"F64", 64, std::nullopt},
    {"C64", 64, std::nullopt},        {"U64", 64, std::nullopt},
}};

std::string known_types() {
  std::string out;
  for (const StoredType& t : kTypes) out += (out.empty() ? "" : ", ") + std::string(t.name);
  return out;
}

std::string dims_text(const std::vector<int64_t>& dims) {
  std::string out = "[";
  for (size_t i = 0; i < dims.size(); ++i) out += (i > 0 ? ", " : "") + std::to_string(dims[i]);
  return out + "]";
}

std::string base_name(const std::string& path) {
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? path : path.substr(slash + 1);
}

// `what` is what was counted: "bytes of data".
[[noreturn]] void fail_short(const std::string& file, const char* what, int64_t found,
                             int64_t expected) {
  fail_model(escaped(file), " is ", with_commas(expected - found),
             " bytes short: incomplete download? (found ", with_commas(found), " ", what,
             ", expected ", with_commas(expected), ")");
}

// The header's text, after nothing but the length was read.
std::string_view header_of(const MappedFile& map, const std::string& file) {
  const std::string_view text = map.text();
  if (text.starts_with("version https://git-lfs"))
    fail_model(escaped(file), " is a Git LFS pointer, expected the weights it points to\n",
               "  try: git lfs pull");
  if (map.size_bytes() < kLengthBytes)
    fail_model(escaped(file), " is ", map.size_bytes(),
               " bytes, expected at least 8: incomplete download?");
  uint64_t length = 0;
  for (size_t i = 0; i < kLengthBytes; ++i)
    length |= uint64_t{static_cast<unsigned char>(text[i])} << (8 * i);
  if (length < 2 || length > kMaxHeaderBytes)
    fail_model(escaped(file), ": the header's length is ", length,
               " bytes, expected 2 to 100,000,000: not a safetensors file?");
  const int64_t need = kLengthBytes + static_cast<int64_t>(length);
  if (need > map.size_bytes())
    fail_short(file, "bytes for length and header", map.size_bytes(), need);
  return text.substr(kLengthBytes, length);
}

// Reads the description of one tensor. Places are written only when something is wrong.
class EntryReader {
 public:
  EntryReader(const std::string& file, const std::string& name) : file_(file), name_(name) {}

  StoredTensor read(const Json& json) {
    if (!json.is_object())
      fail("is of type ", json.type_name(), ", expected an object of dtype, shape, data_offsets");
    const Json *dtype = nullptr, *shape = nullptr, *offsets = nullptr;
    for (const auto& [key, value] : json.as_object().members) {
      if (key == "dtype") {
        dtype = &value;
      } else if (key == "shape") {
        shape = &value;
      } else if (key == "data_offsets") {
        offsets = &value;
      } else {
        fail("has ", quoted(key), ", expected dtype, shape and data_offsets alone");
      }
    }
    const StoredType& type = read_type(dtype);
    StoredTensor out;
    out.name = name_;
    out.tensor.dtype_name = type.name;
    out.tensor.dtype = type.dtype;
    out.tensor.shape = read_shape(shape);
    out.tensor.file = file_;
    read_offsets(offsets, type, &out);
    return out;
  }

 private:
  template <typename... Parts>
  [[noreturn]] void fail(const Parts&... parts) const {
    fail_model(escaped(file_), ": tensor ", quoted(name_), " ", parts...);
  }

  const StoredType& read_type(const Json* json) const {
    if (json == nullptr) fail("has no dtype");
    if (!json->is_string()) fail("has a dtype of type ", json->type_name(), ", expected a string");
    const std::string& found = json->as_string();
    for (const StoredType& t : kTypes)
      if (t.name == found) return t;
    fail("has dtype ", quoted(found), ", expected one of ", known_types());
  }

  std::vector<int64_t> read_shape(const Json* json) const {
    if (json == nullptr) fail("has no shape");
    if (!json->is_array()) fail("has a shape of type ", json->type_name(), ", expected an array");
    const Json::Array& dims = json->as_array();
    if (dims.size() > kMaxStoredRank)
      fail("has ", dims.size(), " dimensions, expected at most ", kMaxStoredRank);
    std::vector<int64_t> out;
    out.reserve(dims.size());
    for (const Json& d : dims) {
      if (!d.is_int() || d.as_int() < 0)
        fail("has ", escaped(d.dump()), " in its shape, expected integers from 0");
      out.push_back(d.as_int());
    }
    return out;
  }

  // -1 if the number of bits does not fit.
  static int64_t bits_of(const StoredType& type, const std::vector<int64_t>& shape) {
    int64_t bits = type.bits;
    for (const int64_t d : shape) {
      bits = checked_mul(bits, d);
      if (bits < 0) return -1;
    }
    return bits;
  }

  void read_offsets(const Json* json, const StoredType& type, StoredTensor* out) const {
    if (json == nullptr) fail("has no data_offsets");
    const bool pair = json->is_array() && json->as_array().size() == 2 &&
                      json->as_array()[0].is_int() && json->as_array()[1].is_int();
    if (!pair)
      fail("has data_offsets ", escaped(json->dump()), ", expected two integers [begin, end]");
    const int64_t begin = json->as_array()[0].as_int(), end = json->as_array()[1].as_int();
    if (begin < 0 || end < begin)
      fail("has data_offsets [", begin, ", ", end, "], expected 0 <= begin <= end");
    const std::vector<int64_t>& shape = out->tensor.shape;
    const int64_t bits = bits_of(type, shape);
    if (bits < 0) fail("has shape ", dims_text(shape), ", which is more than 2^63 bits");
    if (bits % 8 != 0)
      fail("is ", type.name, " ", dims_text(shape), ", which is ", bits,
           " bits, expected whole bytes");
    if (end - begin != bits / 8)
      fail("is ", type.name, " ", dims_text(shape), ", which is ", with_commas(bits / 8),
           " bytes, but its data_offsets [", begin, ", ", end, "] hold ", with_commas(end - begin));
    out->offset_bytes = begin;
    out->size_bytes = bits / 8;
  }

  const std::string& file_;
  const std::string& name_;
};

}  // namespace

SafetensorsFile SafetensorsFile::open(const std::string& path) {
  SafetensorsFile out;
  out.file_ = MappedFile::open(path);
  out.file_name_ = base_name(path);
  const std::string_view header = header_of(out.file_, out.file_name_);
  out.data_ = out.file_.data() + kLengthBytes + header.size();
  out.data_bytes_ = out.file_.size_bytes() - kLengthBytes - static_cast<int64_t>(header.size());
  out.read_header(header);
  out.check_layout();
  for (StoredTensor& t : out.tensors_) t.tensor.data = out.data_ + t.offset_bytes;
  return out;
}

void SafetensorsFile::read_header(std::string_view header) {
  const std::string place = escaped(file_name_) + ": the header";
  // A file of another kind is refused before a parser could quote from it.
  const size_t first = header.find_first_not_of(" \t\r\n");
  if (first == std::string_view::npos || header[first] != '{')
    fail_model(place, " is not a JSON object: not a safetensors file?");
  const Json json = parse_json(header, place, kHeaderLimits);
  tensors_.reserve(json.as_object().members.size());
  for (const auto& [key, value] : json.as_object().members) {
    if (key != "__metadata__") {
      tensors_.push_back(EntryReader(file_name_, key).read(value));
      continue;
    }
    if (!value.is_object())
      fail_model(place, "'s __metadata__ is of type ", value.type_name(), ", expected an object");
    for (const auto& [name, text] : value.as_object().members) {
      if (!text.is_string())
        fail_model(place, "'s __metadata__ has ", quoted(name), " of type ", text.type_name(),
                   ", expected a string");
      metadata_.emplace_back(name, text.as_string());
    }
  }
}

void SafetensorsFile::check_layout() const {
  const std::string file = escaped(file_name_);
  std::vector<const StoredTensor*> order(tensors_.size());
  std::transform(tensors_.begin(), tensors_.end(), order.begin(),
                 [](const StoredTensor& t) { return &t; });
  std::sort(order.begin(), order.end(), [](const StoredTensor* a, const StoredTensor* b) {
    return std::tie(a->offset_bytes, a->size_bytes) < std::tie(b->offset_bytes, b->size_bytes);
  });
  int64_t end = 0;
  const StoredTensor* last = nullptr;
  for (const StoredTensor* t : order) {
    if (t->offset_bytes < end)
      fail_model(file, ": tensors ", quoted(last->name), " and ", quoted(t->name),
                 " overlap: the first ends at byte ", end, ", the second begins at ",
                 t->offset_bytes);
    if (t->offset_bytes > end && last == nullptr)
      fail_model(file, ": tensor ", quoted(t->name), " is the first and begins at byte ",
                 t->offset_bytes, ", expected 0");
    if (t->offset_bytes > end)
      fail_model(file, ": between tensors ", quoted(last->name), " and ", quoted(t->name), " are ",
                 with_commas(t->offset_bytes - end), " bytes that belong to neither");
    end = t->offset_bytes + t->size_bytes;
    last = t;
  }
  if (end > data_bytes_) fail_short(file_name_, "bytes of data", data_bytes_, end);
  if (end < data_bytes_ && last == nullptr)
    fail_model(file, ": has ", with_commas(data_bytes_), " bytes of data, but names no tensor");
  if (end < data_bytes_)
    fail_model(file, ": ", with_commas(data_bytes_ - end), " bytes follow the last tensor ",
               quoted(last->name), ", expected none");
}

}  // namespace dsr
