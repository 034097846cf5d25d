#include "io/checkpoint.h"

#include <filesystem>
#include <system_error>
#include <utility>

#include "base/error.h"
#include "base/mapped_file.h"

namespace dsr {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMaxConfigBytes = 16'000'000;

Json read_json_object(const std::string& directory, const char* file) {
  Json out = parse_json(read_file(directory + "/" + file, kMaxConfigBytes), file);
  if (!out.is_object()) fail_model(file, ": expected a JSON object, found ", out.type_name());
  return out;
}

void check_is_directory(const std::string& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (status.type() == fs::file_type::not_found)
    fail_model(escaped(path), ": no such directory, expected a model directory");
  if (error) fail_model(escaped(path), ": cannot be read: ", error.message());
  if (status.type() != fs::file_type::directory)
    fail_model(escaped(path), ": is a file, expected a model directory with config.json in it");
}

bool is_there(const std::string& path) {
  std::error_code error;
  return fs::status(path, error).type() != fs::file_type::not_found;
}

}  // namespace

Checkpoint Checkpoint::open(const std::string& directory, const WarningSink& warn) {
  check_is_directory(directory);
  if (!is_there(directory + "/config.json"))
    fail_model(escaped(directory), ": has no config.json, expected a model directory");
  Checkpoint out;
  out.directory_ = directory;
  out.config_ = read_json_object(directory, "config.json");
  if (is_there(directory + "/generation_config.json"))
    out.generation_config_ = read_json_object(directory, "generation_config.json");
  const ShardList shards = list_shards(directory, warn);
  for (const std::string& file : shards.files)
    out.files_.push_back(SafetensorsFile::open(directory + "/" + file));
  out.index_names();
  out.put_in_order(shards, warn);
  return out;
}

void Checkpoint::index_names() {
  size_t n_tensors = 0;
  for (const SafetensorsFile& file : files_) n_tensors += file.tensors().size();
  by_name_.reserve(n_tensors);
  for (size_t i = 0; i < files_.size(); ++i) {
    for (const StoredTensor& t : files_[i].tensors()) {
      const Place place{&t, static_cast<int64_t>(i), false};
      const auto [it, is_new] = by_name_.try_emplace(t.name, place);
      if (!is_new)
        fail_model("tensor ", quoted(t.name), " is in ", escaped(it->second.tensor->tensor.file),
                   " and in ", escaped(t.tensor.file), ", expected in one file");
    }
    total_bytes_ += files_[i].data_bytes();
  }
}

void Checkpoint::put_in_order(const ShardList& shards, const WarningSink& warn) {
  order_.reserve(by_name_.size());
  for (const auto& [name, file] : shards.tensors) {
    const auto it = by_name_.find(name);
    if (it == by_name_.end() || it->second.file != file) {
      const std::string& expected = shards.files[static_cast<size_t>(file)];
      fail_model(kIndexFileName, ": tensor ", quoted(name), " is not in ", escaped(expected),
                 it == by_name_.end()
                     ? ", nor in any other shard"
                     : ", as the index says, but in " + escaped(it->second.tensor->tensor.file));
    }
    it->second.listed = true;
    order_.push_back(it->second.tensor);
  }
  const size_t n_listed = order_.size();
  for (const SafetensorsFile& file : files_)
    for (const StoredTensor& t : file.tensors())
      if (!by_name_.find(t.name)->second.listed) order_.push_back(&t);
  if (!shards.has_index || !warn) return;
  if (order_.size() > n_listed)
    warn(str(kIndexFileName, ": ", order_.size() - n_listed,
             " tensors are in the shards but not in the index, the first is ",
             quoted(order_[n_listed]->name)));
  // Writers count the tensors' bytes, or those of the files.
  int64_t file_bytes = 0;
  for (const SafetensorsFile& file : files_) file_bytes += file.file_bytes();
  if (shards.total_size && (*shards.total_size < static_cast<double>(total_bytes_) ||
                            *shards.total_size > static_cast<double>(file_bytes)))
    warn(str(kIndexFileName, ": metadata.total_size is ", *shards.total_size, ", expected ",
             total_bytes_, ", the bytes of all tensors"));
}

const SourceTensor* Checkpoint::find(const std::string& name) const {
  const auto it = by_name_.find(name);
  return it == by_name_.end() ? nullptr : &it->second.tensor->tensor;
}

std::vector<std::string> Checkpoint::names() const {
  std::vector<std::string> out;
  out.reserve(order_.size());
  for (const StoredTensor* t : order_) out.push_back(t->name);
  return out;
}

void Checkpoint::check_unchanged() const {
  for (const SafetensorsFile& file : files_) file.check_unchanged();
}

}  // namespace dsr
