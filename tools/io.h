// Reading all of a file, writing to a descriptor; nothing unchecked.
#pragma once

#include <string>
#include <string_view>

#include "deepseek_run/log.h"

namespace dsr {

// All of a file or, for "-", of standard input. Throws Error(kUsage) naming the file and the
// reason.
std::string read_all(const std::string& path);

// Whether both are names of one regular file, which writing the output would destroy. An input of
// "-" is standard input.
bool same_file(const std::string& input, const std::string& output);

// Standard input, line by line.
class LineReader {
 public:
  explicit LineReader(const std::string& path);
  LineReader(const LineReader&) = delete;
  LineReader& operator=(const LineReader&) = delete;
  ~LineReader();

  // The next line without its line break; false at the end. Throws Error(kUsage).
  bool next(std::string& line);
  // Whether next() would have to wait for input.
  bool must_wait() const { return buffer_.find('\n', at_) == std::string::npos; }

 private:
  std::string path_;
  int fd_;
  std::string buffer_;
  size_t at_ = 0;
  bool ended_ = false;
};

// Where results go: standard output, or a file that is created, or whose contents are replaced,
// with the first write. That it cannot be is said at once where it can be known. Nothing is held
// back. Throws Error(kOutput).
class Output {
 public:
  explicit Output(const std::string& path);  // empty or "-": standard output
  Output(const Output&) = delete;
  Output& operator=(const Output&) = delete;
  ~Output();

  int fd() const { return fd_; }  // -1: a file that does not exist yet
  void write(std::string_view bytes);
  // Ends a file: what was written is on the disk. Standard output stays open.
  void close();

 private:
  void start();
  [[noreturn]] void fail_io(const char* what) const;

  std::string path_, name_;
  int fd_;
  bool owned_;
  bool started_ = false;
};

// One line on standard error, made safe for a terminal; failures are ignored, there is nowhere to
// say so.
void print_line(const std::string& line);
void print(const std::string& text);  // no line break added
// On a terminal: in the place of the line that the cursor is in.
void print_over(const std::string& line);
// The same with "warning: " or "note: " in front, or nothing where quiet.
WarningSink warnings(bool quiet);
WarningSink notes(bool quiet);

}  // namespace dsr
