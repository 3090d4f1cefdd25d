#include "data.h"

#include <array>
#include <cmath>
#include <fstream>
#include <iterator>

#include "files.h"
#include "problem.h"

namespace nnpar {
namespace {

constexpr std::size_t kUnsignedByte = 8;

std::vector<std::uint8_t> read_bytes(const std::string& path) {
    check_input(path, "copy a good file there");
    std::ifstream file(path, std::ios::binary);
    if (!file) {
        throw Problem(path +
                      " cannot be read; name the folder of the idx files with --data FOLDER");
    }
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

std::size_t big_endian(const std::vector<std::uint8_t>& bytes, std::size_t at) {
    std::size_t value = 0;
    for (std::size_t i = 0; i < 4; ++i) {
        value = (value << 8U) | bytes[at + i];
    }
    return value;
}

struct Idx {
    std::vector<std::size_t> shape;
    std::vector<std::uint8_t> values;
};

Idx read_idx(const std::string& path, std::size_t num_dimensions) {
    std::vector<std::uint8_t> bytes = read_bytes(path);
    const std::size_t header = 4 * (1 + num_dimensions);
    if (bytes.size() < header || big_endian(bytes, 0) != kUnsignedByte * 256 + num_dimensions) {
        throw Problem(path + " is no idx file of bytes in " + std::to_string(num_dimensions) +
                      " dimensions; copy a good one there");
    }
    Idx idx;
    std::size_t expected = 1;
    for (std::size_t i = 1; i <= num_dimensions; ++i) {
        idx.shape.push_back(big_endian(bytes, 4 * i));
        expected *= idx.shape.back();
    }
    if (bytes.size() != header + expected) {
        throw Problem(path + " has " + std::to_string(bytes.size()) + " bytes instead of " +
                      std::to_string(header + expected) + "; copy a good one there");
    }
    idx.values.assign(bytes.begin() + static_cast<std::ptrdiff_t>(header), bytes.end());
    return idx;
}

Examples read_examples(const std::string& prefix, std::size_t& num_pixels) {
    Idx images = read_idx(prefix + "-images-idx3-ubyte", 3);
    Idx labels = read_idx(prefix + "-labels-idx1-ubyte", 1);
    if (images.shape[0] != labels.shape[0] || images.values.empty()) {
        throw Problem(prefix + "-images-idx3-ubyte holds " + std::to_string(images.shape[0]) +
                      " images for " + std::to_string(labels.shape[0]) +
                      " labels; copy good files there");
    }
    for (const std::uint8_t label : labels.values) {
        if (label >= kNumClasses) {
            throw Problem(prefix + "-labels-idx1-ubyte holds the label " + std::to_string(label) +
                          ", but classes are 0 to 9; copy a good file there");
        }
    }
    num_pixels = images.shape[1] * images.shape[2];
    return {.pixels = std::move(images.values), .labels = std::move(labels.values)};
}

void measure_pixels(DataSet& data) {
    std::array<double, 256> counts{};
    for (const std::uint8_t pixel : data.train.pixels) {
        counts.at(pixel) += 1;
    }
    const auto total = static_cast<double>(data.train.pixels.size());
    double sum = 0;
    for (std::size_t value = 0; value < counts.size(); ++value) {
        sum += counts.at(value) * static_cast<double>(value) / 255;
    }
    data.mean = sum / total;
    double squares = 0;
    for (std::size_t value = 0; value < counts.size(); ++value) {
        const double distance = static_cast<double>(value) / 255 - data.mean;
        squares += counts.at(value) * distance * distance;
    }
    data.std = squares > 0 ? std::sqrt(squares / total) : 1.0;
}

}  // namespace

DataSet load_data(const std::string& folder) {
    DataSet data;
    std::size_t num_test_pixels = 0;
    data.train = read_examples(folder + "/train", data.num_pixels);
    data.test = read_examples(folder + "/t10k", num_test_pixels);
    if (num_test_pixels != data.num_pixels) {
        throw Problem(folder + " holds training images of " + std::to_string(data.num_pixels) +
                      " pixels and test images of " + std::to_string(num_test_pixels) +
                      "; copy files of one set there");
    }
    measure_pixels(data);
    return data;
}

void normalise(const DataSet& data, const Examples& examples,
               std::span<const std::uint32_t> indices, float* rows) {
    const auto scale = static_cast<float>(1 / (255 * data.std));
    const auto shift = static_cast<float>(-data.mean / data.std);
    const std::size_t num_pixels = data.num_pixels;
    for (const std::uint32_t index : indices) {
        const std::uint8_t* pixels = examples.pixels.data() + index * num_pixels;
#pragma omp simd
        for (std::size_t i = 0; i < num_pixels; ++i) {
            rows[i] = static_cast<float>(pixels[i]) * scale + shift;
        }
        rows += num_pixels;
    }
}

}  // namespace nnpar
