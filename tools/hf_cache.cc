#include "tools/hf_cache.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "deepseek_run/error.h"
#include "tools/terminal.h"

namespace dsr {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPrefix = "models--", kSeparator = "--";

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  std::string out = value != nullptr ? value : "";
  if (out.starts_with("~/") && std::string_view(name) != "HOME")
    out = variable("HOME") + out.substr(1);
  return out;
}

fs::path cache_directory() {
  if (const std::string hub = variable("HF_HUB_CACHE"); !hub.empty()) return hub;
  if (const std::string home = variable("HF_HOME"); !home.empty()) return fs::path(home) / "hub";
  std::string cache = variable("XDG_CACHE_HOME");
  if (cache.empty()) cache = variable("HOME") + "/.cache";
  return fs::path(cache) / "huggingface" / "hub";
}

bool is_name(std::string_view word) {
  const auto allowed = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
           c == '_' || c == '-';
  };
  return !word.empty() && word.size() <= 96 && word[0] != '.' && word[0] != '-' &&
         std::all_of(word.begin(), word.end(), allowed) && word.find("--") == word.npos &&
         word.find("..") == word.npos;
}

// The hash in refs/main; empty if there is none.
std::string main_hash(const fs::path& repository) {
  std::ifstream in(repository / "refs" / "main");
  std::string hash;
  in >> hash;
  const bool hex = hash.find_first_not_of("0123456789abcdef") == hash.npos;
  return hex && hash.size() <= 64 ? hash : "";
}

[[noreturn]] void fail_lookup(const std::string& repository, const std::string& what) {
  throw Error(ErrorKind::kModel,
              "model \"" + repository + "\" " + what + "\n  try: hf download " + repository);
}

}  // namespace

bool is_repository_name(std::string_view text) {
  const size_t slash = text.find('/');
  return slash != text.npos && is_name(text.substr(0, slash)) && is_name(text.substr(slash + 1));
}

std::string find_in_hf_cache(const std::string& repository) {
  std::string folder = std::string(kPrefix) + repository;
  folder.replace(folder.find('/'), 1, kSeparator);
  const fs::path cache = cache_directory(), place = cache / folder;
  std::error_code ignored;
  if (!fs::is_directory(place, ignored))
    fail_lookup(repository, "is neither a directory nor in the Hugging Face cache " +
                                visible_line(cache.string()));
  const std::string hash = main_hash(place);
  if (hash.empty())
    fail_lookup(repository, "has no readable refs/main in " + visible_line(place.string()));
  const fs::path snapshot = place / "snapshots" / hash;
  if (!fs::is_regular_file(snapshot / "config.json", ignored))
    fail_lookup(repository, "has no config.json in " + visible_line(snapshot.string()) +
                                ": incomplete download?");
  return snapshot.string();
}

std::string repository_of_snapshot(const std::string& directory) {
  const fs::path path(directory);
  const std::string folder = path.parent_path().parent_path().filename().string();
  if (path.parent_path().filename() != "snapshots" || !folder.starts_with(kPrefix)) return "";
  std::string name = folder.substr(kPrefix.size());
  if (const size_t at = name.find(kSeparator); at != name.npos)
    name.replace(at, kSeparator.size(), "/");
  return is_repository_name(name) ? name : "";
}

}  // namespace dsr
