#include "parameters.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <numeric>
#include <random>

#include "files.h"
#include "problem.h"

namespace nnpar {
namespace {

constexpr std::size_t kMostParameters = 1U << 28U;  // a GiB

template <typename Value>
std::vector<Value> read_values(const std::string& path, std::size_t num_values) {
    check_input(path, "name a file, or leave the option out to draw from the seed");
    std::ifstream file(path, std::ios::binary | std::ios::ate);
    if (!file) {
        throw Problem(
            path + " cannot be read; name a file, or leave the option out to draw from the seed");
    }
    const auto num_bytes = static_cast<std::size_t>(file.tellg());
    if (num_bytes != num_values * sizeof(Value)) {
        throw Problem(path + " has " + std::to_string(num_bytes) + " bytes instead of " +
                      std::to_string(num_values * sizeof(Value)) +
                      "; write it again for these sizes");
    }
    std::vector<Value> values(num_values);
    file.seekg(0);
    // NOLINTNEXTLINE(cppcoreguidelines-pro-type-reinterpret-cast): how streams want their bytes
    file.read(reinterpret_cast<char*>(values.data()), static_cast<std::streamsize>(num_bytes));
    return values;
}

}  // namespace

void check_network(const std::vector<Layer>& layers) {
    if (layers.back().end() > kMostParameters) {
        throw Problem("--hidden makes a network of " + std::to_string(layers.back().end()) +
                      " parameters; take narrower layers, of " + std::to_string(kMostParameters) +
                      " in all at most");
    }
}

std::vector<float> initial_weights(const Options& options, const std::vector<Layer>& layers) {
    const std::size_t num_parameters = layers.back().end();
    if (!options.weights.empty()) {
        return read_values<float>(options.weights, num_parameters);
    }
    std::vector<float> weights(num_parameters);
    std::mt19937_64 random(options.seed);
    for (const Layer& layer : layers) {
        const float bound =
            1 / std::sqrt(static_cast<float>(layer.num_in));  // as PyTorch draws those of a Linear
        std::uniform_real_distribution<float> uniform(-bound, bound);
        for (std::size_t i = layer.offset; i < layer.end(); ++i) {
            weights[i] = uniform(random);
        }
    }
    return weights;
}

std::vector<std::uint32_t> example_order(const Options& options, std::size_t num_examples,
                                         std::size_t num_epochs) {
    if (!options.order.empty()) {
        auto order = read_values<std::uint32_t>(options.order, num_examples * num_epochs);
        if (*std::ranges::max_element(order) >= num_examples) {
            throw Problem(options.order + " names an example beyond the last of " +
                          std::to_string(num_examples) + "; write it again for this data set");
        }
        return order;
    }
    std::vector<std::uint32_t> order;
    order.reserve(num_examples * num_epochs);
    std::vector<std::uint32_t> permutation(num_examples);
    std::mt19937_64 random(options.seed + 1);
    for (std::size_t epoch = 0; epoch < num_epochs; ++epoch) {
        std::iota(permutation.begin(), permutation.end(), 0U);
        std::ranges::shuffle(permutation, random);
        order.insert(order.end(), permutation.begin(), permutation.end());
    }
    return order;
}

}  // namespace nnpar
