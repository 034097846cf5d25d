// Flags that can change while a chat goes on.
#pragma once

#include <string>
#include <vector>

#include "deepseek_run/conversation.h"
#include "tools/options.h"

namespace dsr {

// Sets what the flags would that "temp=0.5" and the like name, with their checks. Flags that may be
// repeated are replaced by all of their name in the list; an empty value takes them back. Throws
// Error(kUsage); `options` is then what it was.
void change_settings(Options& options, const std::vector<std::string>& assignments,
                     int64_t vocab_size);

// What flags, files and /set have set of these, as change_settings takes it.
std::vector<std::string> changed_settings(const Options& options);

// All that holds for the next answer, a line each, for people.
std::string settings_text(const Options& options, const ChatSettings& settings);

}  // namespace dsr
