#include "io/shard_list.h"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <map>
#include <string_view>
#include <system_error>
#include <unordered_map>

#include "base/error.h"
#include "base/json.h"
#include "base/mapped_file.h"

namespace dsr {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMaxIndexBytes = 256'000'000;
constexpr size_t kMaxNameBytes = 255;
constexpr size_t kNamesShown = 10;
constexpr std::string_view kExtension = ".safetensors";

// Follows symbolic links: a link of the Hugging Face cache whose blob is gone does not exist.
bool exists(const std::string& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  return status.type() != fs::file_type::not_found;
}

// Names in a directory, sorted; none if it cannot be read.
std::vector<std::string> names_in(const fs::path& directory) {
  std::vector<std::string> out;
  std::error_code error;
  for (fs::directory_iterator it(directory, error), end; !error && it != end; it.increment(error))
    out.push_back(it->path().filename().string());
  std::sort(out.begin(), out.end());
  return out;
}

bool is_bare_weight_name(std::string_view name) {
  return name.size() > kExtension.size() && name.size() <= kMaxNameBytes &&
         name.ends_with(kExtension) && name.find('\0') == std::string_view::npos &&
         name.find_first_of("/\\~") == std::string_view::npos &&
         name.find("..") == std::string_view::npos;
}

// True for what can stand in a shell command as it is.
bool is_plain(std::string_view text) {
  return !text.empty() && text.front() != '-' &&
         text.find_first_not_of(
             "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
             "._/+-") == std::string_view::npos;
}

// "a, b and 3 more", each name escaped. `count` is how many there are, if `names` holds only some.
std::string name_list(const std::vector<std::string>& names, size_t count) {
  std::string out;
  const size_t shown = std::min(names.size(), kNamesShown);
  for (size_t i = 0; i < shown; ++i) out += (i > 0 ? ", " : "") + escaped(names[i]);
  if (count > shown) out += str(" and ", count - shown, " more");
  return out;
}
std::string name_list(const std::vector<std::string>& names) {
  return name_list(names, names.size());
}

// "\n  try: hf download ...", for text that a user may paste into a shell: a name that a shell
// would read as anything but a name is left out of it.
std::string download_hint(const std::string& directory, const std::vector<std::string>& missing) {
  std::string repository = "ORG/NAME";
  bool in_cache = false;
  for (const fs::path& part : fs::path(directory)) {  // the cache has models--ORG--NAME/snapshots
    const std::string p = part.string();
    const size_t split = p.starts_with("models--") ? p.find("--", 8) : std::string::npos;
    if (split == std::string::npos || !is_plain(p)) continue;
    repository = p.substr(8, split - 8) + "/" + p.substr(split + 2);
    in_cache = true;
  }
  std::string out = "\n  try: hf download " + repository;
  const bool exact = !missing.empty() && missing.size() <= kNamesShown &&
                     std::all_of(missing.begin(), missing.end(), is_plain);
  if (exact) {
    for (const std::string& name : missing) out += " --include " + name;
  } else {
    out += " --include '*.safetensors*'";
  }
  if (!in_cache) out += " --local-dir " + (is_plain(directory) ? directory : std::string("DIR"));
  return out;
}

// What an interrupted `hf download` left: beside the weights, in its own folder below them, or in
// the cache's blobs.
std::string incomplete_note(const std::string& directory) {
  std::vector<std::string> found;
  const fs::path base(directory);
  for (const fs::path& place : {base, base / ".cache/huggingface/download", base / "../../blobs"})
    for (std::string& name : names_in(place))
      if (name.ends_with(".incomplete")) found.push_back(std::move(name));
  return found.empty() ? "" : "; a download was interrupted: " + name_list(found);
}

// `place` ends with its punctuation. `missing` holds the names, or the first of them if there are
// more than can be shown.
[[noreturn]] void fail_missing(const std::string& place, const std::string& directory,
                               const std::vector<std::string>& missing, size_t n_missing,
                               size_t total) {
  fail_model(place, n_missing, " of ", total, total == 1 ? " file is" : " files are",
             " missing: ", name_list(missing, n_missing), incomplete_note(directory),
             download_hint(directory, missing));
}

// --- with an index ------------------------------------------------------------------------------

// Adds the entries of weight_map, each file once.
void read_weight_map(const Json& map, ShardList* out) {
  std::unordered_map<std::string_view, int64_t> file_index;
  out->tensors.reserve(map.as_object().members.size());
  for (const auto& [tensor, value] : map.as_object().members) {
    if (!value.is_string())
      fail_model(kIndexFileName, ": weight_map of ", quoted(tensor), " is of type ",
                 value.type_name(), ", expected the name of a file");
    const std::string& file = value.as_string();
    const auto [it, is_new] = file_index.try_emplace(file, static_cast<int64_t>(out->files.size()));
    if (is_new) {
      if (!is_bare_weight_name(file))
        fail_model(kIndexFileName, ": weight_map of ", quoted(tensor), " is ", quoted(file),
                   ", expected the bare name of a .safetensors file in the same directory");
      out->files.push_back(file);
    }
    out->tensors.emplace_back(tensor, it->second);
  }
}

ShardList from_index(const std::string& directory) {
  const std::string text = read_file(directory + "/" + kIndexFileName, kMaxIndexBytes);
  const Json index = parse_json(text, kIndexFileName, {.max_depth = 8});
  if (!index.is_object())
    fail_model(kIndexFileName, ": expected a JSON object, found ", index.type_name());
  const Json* map = index.find("weight_map");
  if (map == nullptr || !map->is_object() || map->as_object().members.empty())
    fail_model(kIndexFileName, ": weight_map is ", map == nullptr ? "missing" : map->type_name(),
               ", expected an object of tensor and file names");
  ShardList out;
  out.has_index = true;
  read_weight_map(*map, &out);
  if (const Json* metadata = index.find("metadata"); metadata != nullptr && metadata->is_object()) {
    const Json* size = metadata->find("total_size");
    if (size != nullptr && size->is_number()) out.total_size = size->as_double();
  }
  std::vector<std::string> missing;
  for (const std::string& file : out.files)
    if (!exists(directory + "/" + file)) missing.push_back(file);
  if (!missing.empty())
    fail_missing(str(kIndexFileName, ": "), directory, missing, missing.size(), out.files.size());
  return out;
}

// --- without one --------------------------------------------------------------------------------

// "model-00003-of-000163.safetensors": number 3 of 163. DeepSeek pads the two differently.
struct ShardName {
  std::string total_text;  // "000163"
  size_t digits = 0;       // of the number
  int64_t number = 0, total = 0;
};

bool read_number(std::string_view text, int64_t* out) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *out);
  return error == std::errc() && end == text.data() + text.size() && text.size() <= 9 && *out > 0;
}

std::optional<ShardName> parse_shard_name(std::string_view name) {
  constexpr std::string_view kPrefix = "model-", kOf = "-of-";
  const size_t of = name.find(kOf);
  if (!name.starts_with(kPrefix) || !name.ends_with(kExtension) || of == std::string_view::npos)
    return std::nullopt;
  const std::string_view number = name.substr(kPrefix.size(), of - kPrefix.size());
  const std::string_view rest = name.substr(of + kOf.size());
  ShardName out;
  out.total_text = rest.substr(0, rest.size() - kExtension.size());
  out.digits = number.size();
  if (!read_number(number, &out.number) || !read_number(out.total_text, &out.total) ||
      out.number > out.total)
    return std::nullopt;
  return out;
}

std::string shard_file_name(const ShardName& like, int64_t number) {
  std::string digits = std::to_string(number);
  if (digits.size() < like.digits) digits.insert(0, like.digits - digits.size(), '0');
  return str("model-", digits, "-of-", like.total_text, kExtension);
}

// The first names that a set lacks: one more than can be shown, so that "1 of 999999999" is cheap.
std::vector<std::string> first_missing(const ShardName& like,
                                       const std::vector<std::string>& present) {
  std::vector<std::string> out;
  for (int64_t i = 1; i <= like.total && out.size() <= kNamesShown; ++i) {
    std::string name = shard_file_name(like, i);
    if (!std::binary_search(present.begin(), present.end(), name)) out.push_back(std::move(name));
  }
  return out;
}

// The shards found are the only witnesses: a set is taken if all n of "i of n" are there.
ShardList from_shard_names(const std::string& directory, const std::vector<std::string>& names,
                           const WarningSink& warn) {
  struct Set {
    ShardName like;  // any of them
    std::vector<std::string> present;
  };
  std::map<std::string, Set> sets;  // by "-of-N"
  for (const std::string& name : names) {
    const std::optional<ShardName> shard = parse_shard_name(name);
    if (!shard) continue;
    Set& set = sets[shard->total_text];
    set.like = *shard;
    set.present.push_back(name);
  }
  if (sets.empty()) return {};
  const auto& [like, present] = sets.begin()->second;
  const std::string place = str(escaped(directory), ": no ", kIndexFileName);
  if (sets.size() > 1)
    fail_model(place, ", and shards of ", sets.size(), " different sets (",
               name_list({present.front(), std::next(sets.begin())->second.present.front()}),
               "), expected one set", download_hint(directory, {}));
  const int64_t n_missing = like.total - static_cast<int64_t>(present.size());
  if (n_missing > 0)
    fail_missing(place + ", and ", directory, first_missing(like, present),
                 static_cast<size_t>(n_missing), static_cast<size_t>(like.total));
  if (warn) warn(str(place, ": using the headers of the ", like.total, " shards"));
  ShardList out;
  out.files = present;
  return out;
}

[[noreturn]] void fail_no_weights(const std::string& directory,
                                  const std::vector<std::string>& names) {
  const std::string place = escaped(directory);
  std::vector<std::string> other;
  for (const std::string& name : names) {
    if (name.starts_with("pytorch_model") && name.ends_with(".bin"))
      fail_model(place, ": holds its weights as ", escaped(name),
                 " only, expected .safetensors: python3 scripts/bin_to_safetensors.py converts "
                 "them");
    if (name.ends_with(kExtension)) other.push_back(name);
  }
  if (!other.empty())
    fail_model(place, ": no model.safetensors and no ", kIndexFileName,
               " that says which of its files belong to the model: ", name_list(other));
  fail_model(place, ": has a config.json, but no weights (no *.safetensors)",
             incomplete_note(directory), download_hint(directory, {}));
}

}  // namespace

ShardList list_shards(const std::string& directory, const WarningSink& warn) {
  const std::string single = "model.safetensors";
  const bool has_index = exists(directory + "/" + kIndexFileName);
  if (exists(directory + "/" + single)) {
    if (has_index && warn)
      warn(str(escaped(directory), ": has ", single, " and ", kIndexFileName, ": using ", single));
    ShardList out;
    out.files.push_back(single);
    return out;
  }
  if (has_index) return from_index(directory);
  const std::vector<std::string> names = names_in(directory);
  ShardList out = from_shard_names(directory, names, warn);
  if (out.files.empty()) fail_no_weights(directory, names);
  return out;
}

}  // namespace dsr
