// The one exception type of deepseek-run.
#pragma once

#include <stdexcept>
#include <string>

namespace dsr {

// What went wrong, as the process's exit code says it.
enum class ErrorKind {
  kInternal = 1,    // a bug of ours
  kUsage = 2,       // arguments or input a user can change
  kModel = 3,       // model missing, damaged or unsupported
  kDoesNotFit = 4,  // memory
  kDevice = 5,      // GPU, driver or communication
  kOutput = 6,      // writing results failed
  kNonFinite = 8,   // non-finite numbers, or a failed self-check
};

// Thrown for everything a user, a file or a machine can cause. The text is one line (a plan or a
// `try:` hint may follow on further lines) and holds no control characters.
class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  ErrorKind kind() const { return kind_; }
  int exit_code() const { return static_cast<int>(kind_); }

 private:
  ErrorKind kind_;
};

}  // namespace dsr
