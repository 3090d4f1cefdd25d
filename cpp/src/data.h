// A data set, whole in memory as bytes, from the idx files that MNIST comes in.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace nnpar {

inline constexpr std::size_t kNumClasses = 10;

struct Examples {
    std::vector<std::uint8_t> pixels;  // [size, num_pixels]
    std::vector<std::uint8_t> labels;  // [size]

    [[nodiscard]] std::size_t size() const { return labels.size(); }
};

struct DataSet {
    Examples train;
    Examples test;
    std::size_t num_pixels = 0;
    double mean = 0;  // of the training pixels, scaled to [0, 1]
    double std = 1;
};

// Reads train-images-idx3-ubyte and its three siblings; a Problem names the file that is missing or
// damaged.
DataSet load_data(const std::string& folder);

// Writes (pixel / 255 - mean) / std of the examples that `indices` name: rows of num_pixels.
void normalise(const DataSet& data, const Examples& examples,
               std::span<const std::uint32_t> indices, float* rows);

}  // namespace nnpar
