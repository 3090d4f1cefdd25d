// Which cores the threads of a rank run on.
#pragma once

#include "communicator.h"
#include "options.h"

namespace nnpar {

struct Placement {
    bool bound;           // each thread keeps to a core of its own
    bool oversubscribed;  // more threads than cores on this machine
};

Placement place(const Options& options, const Communicator& communicator);

std::size_t num_cores();

}  // namespace nnpar
