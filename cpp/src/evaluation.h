// How well the network does on the test set.
#pragma once

#include <vector>

#include "communicator.h"
#include "data.h"
#include "model.h"

namespace nnpar {

// The accuracy on all test examples, divided among ranks and their workers (collective).
double evaluate(const DataSet& data, const float* weights, std::vector<Worker>& workers,
                Communicator& communicator);

}  // namespace nnpar
