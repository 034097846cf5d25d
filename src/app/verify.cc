#include "deepseek_run/verify.h"

#include <algorithm>
#include <filesystem>

#include "base/error.h"
#include "base/mapped_file.h"
#include "base/sha256.h"
#include "io/safetensors.h"
#include "io/shard_list.h"

namespace dsr {
namespace {

namespace fs = std::filesystem;

// The SHA-256 that the cache's name for the file says it has; empty if it is not in a cache.
std::string published_hash(const std::string& path) {
  std::error_code error;
  const fs::path blob = fs::canonical(path, error);
  const std::string name = error ? "" : blob.filename().string();
  const bool is_hash = name.size() == 64 && name.find_first_not_of("0123456789abcdef") == name.npos;
  return is_hash && blob.parent_path().filename() == "blobs" ? name : "";
}

std::string hash_of(const std::string& path) {
  const MappedFile file = MappedFile::open(path);
  Sha256 hash;
  hash.update(file.text());
  return hash.finish();
}

// Names the first tensor with NaN codes.
struct NanCodes {
  int64_t count = 0;
  std::string first;
};
NanCodes nan_codes(const SafetensorsFile& file) {
  NanCodes out;
  for (const StoredTensor& t : file.tensors()) {
    if (t.tensor.dtype != DType::kF8E4M3) continue;
    const int64_t n = count_e4m3_nan(t.tensor.data, t.size_bytes);
    if (n > 0 && out.count == 0) out.first = t.name;
    out.count += n;
  }
  return out;
}

// One file's line, after its name.
struct Verdict {
  std::string text;
  bool ok = true, known = false;
};
Verdict verdict_of(const std::string& path) {
  Verdict out;
  const std::string published = published_hash(path);
  out.known = !published.empty();
  if (out.known) {
    const std::string found = hash_of(path);
    if (found != published)
      return {str("differs: SHA-256 is ", found, ", expected ", published), false, true};
  }
  try {
    const NanCodes nan = nan_codes(SafetensorsFile::open(path));
    out.text = out.known ? "as published" : "no published checksum";
    if (nan.count > 0) {
      out.text += str(", but ", with_commas(nan.count), " FP8 values are NaN, the first in ",
                      escaped(nan.first));
      out.ok = false;
    }
  } catch (const Error& e) {
    return {str("damaged: ", e.what()), false, out.known};
  }
  return out;
}

}  // namespace

VerifyReport verify_checkpoint(const std::string& model_dir, const WarningSink& warn) {
  const ShardList shards = list_shards(model_dir, warn);
  VerifyReport out;
  int64_t wrong = 0, known = 0;
  for (const std::string& file : shards.files) {
    const Verdict v = verdict_of(model_dir + "/" + file);
    out.text += str(escaped(file), ": ", v.text, "\n");
    wrong += !v.ok;
    known += v.known;
  }
  const int64_t n = std::ssize(shards.files);
  out.ok = wrong == 0;
  if (out.ok)
    out.text += str(n, n == 1 ? " file" : " files", " without fault, ", known,
                    " compared with a published checksum\n");
  else
    out.text += str(wrong, " of ", n, n == 1 ? " file is" : " files are",
                    " not as published\n  try: delete what differs and hf download it again\n");
  return out;
}

}  // namespace dsr
