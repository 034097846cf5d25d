// Signals. The one piece of static state of the program lives in signals.cc.
#pragma once

namespace dsr {

// SIGINT, SIGTERM and SIGHUP ask to stop; a second one, or not coming to an end within 0.4 s, ends
// the process at once with 128 + n. Everything that was answered is written by then: output is
// never held back. SIGPIPE ends the process as the shell expects. SIGBUS (a mapped file became
// shorter or could not be read) says which file and where, and exits with 3.
void install_signal_handlers();

// The signal that asked to stop, or 0.
int stop_signal();
// The request is being heard: what is left to do (writing the last of the answer) has no time
// limit.
void acknowledge_stop();

// Thrown where waiting for a file was cut short by a request to stop. No failure: the process ends
// with 128 + stop_signal().
struct Interrupted {};

// While one lives, the time limit of a request to stop waits: what is being written gets whole. A
// second signal still ends the process at once.
class WholeRecord {
 public:
  WholeRecord();
  WholeRecord(const WholeRecord&) = delete;
  WholeRecord& operator=(const WholeRecord&) = delete;
  ~WholeRecord();
};

}  // namespace dsr
