// A build without libedit.
#include "tools/line_input.h"

namespace dsr {

std::unique_ptr<LineInput> make_line_editor(int) { return nullptr; }

}  // namespace dsr
