// The Hugging Face cache, read and never written: models that `hf download org/name` has fetched.
#pragma once

#include <string>
#include <string_view>

namespace dsr {

// Whether the text is the name of a repository, as "deepseek-ai/DeepSeek-V3" is.
bool is_repository_name(std::string_view text);

// The directory of the snapshot that `main` is at: $HF_HUB_CACHE, else $HF_HOME/hub, else
// $XDG_CACHE_HOME/huggingface/hub, else ~/.cache/huggingface/hub, then
// models--org--name/snapshots/HASH. Throws Error(kModel) that says what is missing and how to get
// it.
std::string find_in_hf_cache(const std::string& repository);

// "org/name" of a directory that is a snapshot in such a cache; empty for any other.
std::string repository_of_snapshot(const std::string& directory);

}  // namespace dsr
