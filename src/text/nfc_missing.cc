// Normalisation in a build without utf8proc.
#include "base/error.h"
#include "text/nfc.h"

namespace dsr {

NormalizedText to_nfc(std::string_view, std::span<const ByteRange>) {
  fail_internal("normalisation in a build without utf8proc");
}

void require_nfc(std::string_view place) {
  fail_model(place,
             " is NFC, and this build has no utf8proc to normalise with"
             "\n  try: apt-get install libutf8proc-dev, and build again");
}

}  // namespace dsr
