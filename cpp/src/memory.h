// Whether the machine has the memory that a run needs.
#pragma once

#include <cstddef>

#include "data.h"
#include "model.h"
#include "options.h"

namespace nnpar {

// A Problem where the ranks of this machine need more memory than it, or the control group that
// they run in, has left. To be called before the ranks allocate anything large.
void check_memory(const Options& options, const DataSet& data, const std::vector<Layer>& layers,
                  std::size_t num_ranks, std::size_t node_size);

}  // namespace nnpar
