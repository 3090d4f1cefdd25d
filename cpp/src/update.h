// How the workers' gradients become one step of the weights: the place of all communication.
#pragma once

#include <cstddef>
#include <vector>

#include "communicator.h"
#include "model.h"
#include "options.h"
#include "part.h"
#include "timeline.h"

namespace nnpar {

// Each worker keeps its own share of the velocity, share = momentum * share + its gradient, which
// the matrix product computes in passing. Velocity is linear in the gradients, so the sum of the
// shares is the velocity of the global batch.
class Update {
  public:
    Update(const Options& options, std::vector<Layer> layers, std::vector<float> initial,
           Communicator& communicator, Timeline& timeline);

    [[nodiscard]] float* weights() { return weights_; }
    [[nodiscard]] float* velocity(std::size_t thread) { return local_shares_[thread]; }
    [[nodiscard]] std::size_t num_parameters() const { return initial_.size(); }
    [[nodiscard]] bool is_overlapped() const { return sums_ == Sums::kOverlapped; }
    [[nodiscard]] bool measures_wait() const { return !sends_messages(); }

    // Starts the sum of a layer over ranks (overlapped only).
    void layer_done(std::size_t layer);
    // Lets messages move.
    void progress() { communicator_.progress(); }
    // Takes the step: weights -= lr * sum of shares (collective, unless ranks average their
    // weights).
    void apply(float lr);
    // Averages the weights of the ranks, each with the share of the examples that it has seen
    // (collective).
    void average_weights(float share_of_examples);
    // Goes back to the initial weights and no velocity (collective).
    void reset();

  private:
    enum class Sums { kHere, kShared, kBlocking, kOverlapped };
    [[nodiscard]] bool sends_messages() const {
        return sums_ == Sums::kBlocking || sums_ == Sums::kOverlapped;
    }
    void allocate();
    void sum_local(Range range);
    void descend(const std::vector<float*>& shares, Range range, float lr);

    std::vector<Layer> layers_;
    std::vector<float> initial_;
    Communicator& communicator_;
    Timeline& timeline_;
    std::size_t num_threads_;
    Sums sums_ = Sums::kHere;
    bool averages_through_memory_;
    std::vector<std::vector<float>> private_buffers_;
    std::vector<float*> local_shares_;  // one a thread
    std::vector<float*> all_shares_;    // of every worker whose share is read here
    std::vector<float*> exchange_;      // where ranks of one machine leave weights to be averaged
    float* weights_ = nullptr;
    float* total_ = nullptr;  // the sum over ranks where it comes by message
};

}  // namespace nnpar
