// The record of a run, in the library's schema.
#pragma once

#include <string>

#include "communicator.h"
#include "options.h"
#include "placement.h"
#include "training.h"

namespace nnpar {

// One line of JSON, the same on all ranks (collective).
std::string make_record(const Options& options, const Placement& placement, Training& training,
                        Communicator& communicator);

}  // namespace nnpar
