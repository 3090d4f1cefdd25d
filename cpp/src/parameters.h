// Initial weights and the order of the examples: from files that the library wrote, or from a seed.
#pragma once

#include <cstdint>
#include <vector>

#include "model.h"
#include "options.h"

namespace nnpar {

// A Problem where the network has more parameters than a message or a machine can take.
void check_network(const std::vector<Layer>& layers);

std::vector<float> initial_weights(const Options& options, const std::vector<Layer>& layers);

// Example numbers, epoch after epoch, each a permutation of all examples.
std::vector<std::uint32_t> example_order(const Options& options, std::size_t num_examples,
                                         std::size_t num_epochs);

}  // namespace nnpar
