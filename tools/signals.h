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

}  // namespace dsr
