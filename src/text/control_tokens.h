// The control tokens that DeepSeek's checkpoints share. Their bars are fullwidth (U+FF5C) and the
// blocks between words are U+2581: not the ASCII characters that they look like.
#pragma once

#include <string_view>

namespace dsr {

constexpr std::string_view kBosText = "<\uFF5Cbegin\u2581of\u2581sentence\uFF5C>";
constexpr std::string_view kEosText = "<\uFF5Cend\u2581of\u2581sentence\uFF5C>";
constexpr std::string_view kUserText = "<\uFF5CUser\uFF5C>";
constexpr std::string_view kAssistantText = "<\uFF5CAssistant\uFF5C>";
constexpr std::string_view kToolCallsBegin = "<\uFF5Ctool\u2581calls\u2581begin\uFF5C>";
constexpr std::string_view kToolCallsEnd = "<\uFF5Ctool\u2581calls\u2581end\uFF5C>";
constexpr std::string_view kToolCallBegin = "<\uFF5Ctool\u2581call\u2581begin\uFF5C>";
constexpr std::string_view kToolCallEnd = "<\uFF5Ctool\u2581call\u2581end\uFF5C>";
constexpr std::string_view kToolSeparator = "<\uFF5Ctool\u2581sep\uFF5C>";
constexpr std::string_view kThinkOpen = "<think>";
constexpr std::string_view kThinkClose = "</think>";

}  // namespace dsr
