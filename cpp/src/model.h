// The network: fully connected layers with ReLU between them and softmax cross-entropy behind the
// last one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

namespace nnpar {

// Where a layer lies in the flat buffer of parameters: weights [num_out, num_in], then biases, as
// PyTorch orders them.
struct Layer {
    std::size_t num_in;
    std::size_t num_out;
    std::size_t offset;

    [[nodiscard]] std::size_t bias_offset() const { return offset + num_in * num_out; }
    [[nodiscard]] std::size_t size() const { return (num_in + 1) * num_out; }
    [[nodiscard]] std::size_t end() const { return offset + size(); }
};

std::vector<Layer> make_layers(std::size_t num_pixels, const std::vector<std::size_t>& hidden);

// One thread's passes through the network, with room for `max_examples`: nothing is allocated
// later.
class Worker {
  public:
    Worker(std::vector<Layer> layers, std::size_t max_examples);

    [[nodiscard]] float* input() { return activations_.front().data(); }
    [[nodiscard]] std::vector<std::uint8_t>& labels() { return labels_; }
    [[nodiscard]] std::size_t max_examples() const { return labels_.size(); }

    // From the rows of input() to the logits.
    void forward(const float* weights, std::size_t num_examples);

    // Returns the sum of the losses. The gradient of the logits, times `scale`, replaces them.
    double loss(std::size_t num_examples, float scale, float momentum, float* velocity);

    // Sets velocity = momentum * velocity + gradient for one layer, in the matrix product itself;
    // `pause` is called now and then, for messages move only while somebody calls MPI.
    void backward(std::size_t layer, std::size_t num_examples, float momentum, float* velocity,
                  const std::function<void()>& pause);

    // Hands the gradient down to the output of the layer before, and adds its columns to that
    // layer's bias.
    void hand_down(std::size_t layer, const float* weights, std::size_t num_examples,
                   float momentum, float* velocity);

    [[nodiscard]] std::size_t count_correct(std::size_t num_examples) const;

  private:
    [[nodiscard]] float* output(std::size_t layer) { return activations_[layer + 1].data(); }

    std::vector<Layer> layers_;
    std::vector<std::vector<float>>
        activations_;  // the input and each layer's output [max_examples, width]
    std::vector<std::vector<float>> deltas_;  // the loss's gradient of each layer's output
    std::vector<std::uint8_t> labels_;
};

}  // namespace nnpar
