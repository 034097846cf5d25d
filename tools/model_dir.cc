#include "tools/model_dir.h"

#include <filesystem>
#include <vector>

#include "deepseek_run/error.h"
#include "tools/hf_cache.h"
#include "tools/terminal.h"

namespace dsr {
namespace {

namespace fs = std::filesystem;

std::string required_directory(const std::string& path, const std::string& from) {
  std::error_code ignored;
  if (fs::is_directory(path, ignored)) return path;
  const bool exists = fs::exists(path, ignored);
  if (!exists && is_repository_name(path)) return find_in_hf_cache(path);
  throw Error(ErrorKind::kModel, "model directory \"" + visible_line(path) + "\" (" + from + ") " +
                                     (exists ? "is not a directory" : "does not exist"));
}

// Where models/tiny may be: beside a build directory, in an install, in the sources.
std::vector<fs::path> shipped_places() {
  std::error_code error;
  const fs::path program = fs::read_symlink("/proc/self/exe", error);
  std::vector<fs::path> out;
  if (!error) {
    const fs::path directory = program.parent_path();
    out.push_back(directory / "../../models/tiny");
    out.push_back(directory / "../share/deepseek-run/models/tiny");
  }
  out.push_back(fs::path(DSR_SOURCE_MODELS_DIR) / "tiny");
  return out;
}

}  // namespace

std::string find_model_dir(const ModelChoice& choice, const WarningSink& note) {
  if (!choice.empty()) return required_directory(choice.path, "from " + choice.source);
  for (const fs::path& place : shipped_places()) {
    std::error_code error;
    if (!fs::is_regular_file(place / "config.json", error)) continue;
    const fs::path path = fs::canonical(place, error);
    const std::string found = error ? place.string() : path.string();
    if (note) note("no -m given: using the small model in " + visible_line(found));
    return found;
  }
  throw Error(ErrorKind::kModel,
              "no model given, and the small model that ships with deepseek-run was not found\n"
              "  try: -m DIR, or DEEPSEEK_RUN_MODEL=DIR");
}

std::string model_name(const std::string& directory) {
  std::error_code error;
  const fs::path path = fs::canonical(directory, error);
  if (const std::string name = repository_of_snapshot(path.string()); !error && !name.empty())
    return name;
  return (error ? fs::path(directory) : path).filename().string();
}

}  // namespace dsr
