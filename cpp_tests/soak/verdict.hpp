// Holds what was taken of a request against what was stored.

#pragma once

#include "ledger.hpp"

namespace soak {

// To be called when all its takers are done. Adds to the ledger's counters, and shows what is wrong.
void judge(Request &request);

} // namespace soak
