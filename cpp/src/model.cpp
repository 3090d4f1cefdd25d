#include "model.h"

#include <algorithm>
#include <cmath>

#include "blas.h"
#include "data.h"
#include "part.h"

namespace nnpar {
namespace {

constexpr std::size_t kNumBlocks =
    4;  // of a large product, between which messages get a chance to move
constexpr std::size_t kLargeProduct = 65536;  // weights of a layer that is worth cutting

void add_bias(const float* bias, std::size_t width, std::size_t num_rows, bool is_last,
              float* rows) {
    const float floor = is_last ? -HUGE_VALF : 0.0F;
    for (std::size_t row = 0; row < num_rows; ++row, rows += width) {
#pragma omp simd
        for (std::size_t i = 0; i < width; ++i) {
            const float value = rows[i] + bias[i];
            rows[i] = value < floor ? floor : value;  // a NaN stays one, so that divergence is seen
        }
    }
}

void scale_by(float factor, std::size_t size, float* values) {
#pragma omp simd
    for (std::size_t i = 0; i < size; ++i) {
        values[i] *= factor;
    }
}

// Turns a row of logits into scale * (softmax - one-hot); returns the row's loss.
double softmax_gradient(const float* logits, std::uint8_t label, float scale, float* delta) {
    const float largest = *std::max_element(logits, logits + kNumClasses);
    float sum = 0;
    for (std::size_t i = 0; i < kNumClasses; ++i) {
        delta[i] = std::exp(logits[i] - largest);
        sum += delta[i];
    }
    for (std::size_t i = 0; i < kNumClasses; ++i) {
        delta[i] *= scale / sum;
    }
    delta[label] -= scale;
    return static_cast<double>(std::log(sum)) - static_cast<double>(logits[label] - largest);
}

}  // namespace

std::vector<Layer> make_layers(std::size_t num_pixels, const std::vector<std::size_t>& hidden) {
    std::vector<std::size_t> widths = hidden;
    widths.push_back(kNumClasses);
    std::vector<Layer> layers;
    std::size_t offset = 0;
    std::size_t num_in = num_pixels;
    for (const std::size_t width : widths) {
        layers.push_back({.num_in = num_in, .num_out = width, .offset = offset});
        offset = layers.back().end();
        num_in = width;
    }
    return layers;
}

Worker::Worker(std::vector<Layer> layers, std::size_t max_examples)
    : layers_(std::move(layers)), labels_(max_examples) {
    activations_.emplace_back(max_examples * layers_.front().num_in);
    for (const Layer& layer : layers_) {
        activations_.emplace_back(max_examples * layer.num_out);
        deltas_.emplace_back(max_examples * layer.num_out);
    }
}

void Worker::forward(const float* weights, std::size_t num_examples) {
    for (std::size_t l = 0; l < layers_.size(); ++l) {
        const Layer& layer = layers_[l];
        blas::multiply(blas::Form::kTransposed, num_examples, layer.num_out, layer.num_in,
                       activations_[l].data(), weights + layer.offset, output(l));
        add_bias(weights + layer.bias_offset(), layer.num_out, num_examples,
                 l + 1 == layers_.size(), output(l));
    }
}

double Worker::loss(std::size_t num_examples, float scale, float momentum, float* velocity) {
    const float* logits = activations_.back().data();
    float* delta = deltas_.back().data();
    float* bias = velocity + layers_.back().bias_offset();
    scale_by(momentum, kNumClasses, bias);
    double sum = 0;
    for (std::size_t row = 0; row < num_examples;
         ++row, logits += kNumClasses, delta += kNumClasses) {
        sum += softmax_gradient(logits, labels_[row], scale, delta);
        for (std::size_t i = 0; i < kNumClasses; ++i) {
            bias[i] += delta[i];
        }
    }
    return sum;
}

void Worker::backward(std::size_t layer, std::size_t num_examples, float momentum, float* velocity,
                      const std::function<void()>& pause) {
    const Layer& here = layers_[layer];
    const std::size_t num_blocks =
        pause && here.num_in * here.num_out >= kLargeProduct ? kNumBlocks : 1;
    for (std::size_t block = 0; block < num_blocks; ++block) {
        const Range rows = part(here.num_out, num_blocks, block);
        blas::multiply_columns(here.num_out, rows.size, here.num_in, num_examples,
                               deltas_[layer].data() + rows.begin, activations_[layer].data(),
                               momentum, velocity + here.offset + rows.begin * here.num_in);
        if (pause) {
            pause();
        }
    }
}

void Worker::hand_down(std::size_t layer, const float* weights, std::size_t num_examples,
                       float momentum, float* velocity) {
    const Layer& here = layers_[layer];
    float* delta = deltas_[layer - 1].data();
    blas::multiply(blas::Form::kPlain, num_examples, here.num_in, here.num_out,
                   deltas_[layer].data(), weights + here.offset, delta);
    const float* active = activations_[layer].data();
    float* bias = velocity + layers_[layer - 1].bias_offset();
    scale_by(momentum, here.num_in, bias);
    for (std::size_t row = 0; row < num_examples;
         ++row, delta += here.num_in, active += here.num_in) {
#pragma omp simd
        for (std::size_t i = 0; i < here.num_in; ++i) {
            delta[i] = active[i] > 0 ? delta[i] : 0.0F;
            bias[i] += delta[i];
        }
    }
}

std::size_t Worker::count_correct(std::size_t num_examples) const {
    std::size_t num_correct = 0;
    const float* logits = activations_.back().data();
    for (std::size_t row = 0; row < num_examples; ++row, logits += kNumClasses) {
        num_correct +=
            std::max_element(logits, logits + kNumClasses) - logits == labels_[row] ? 1 : 0;
    }
    return num_correct;
}

}  // namespace nnpar
