// The training loop: batch -> gradients -> update -> evaluation, and what it measured.
#pragma once

#include <cstdint>
#include <vector>

#include "communicator.h"
#include "data.h"
#include "model.h"
#include "options.h"
#include "timeline.h"
#include "update.h"

namespace nnpar {

struct Inputs {
    DataSet data;
    std::vector<float> weights;
    std::vector<std::uint32_t> order;
};

// The steps of a run.
std::size_t total_steps(const Options& options, std::size_t num_examples);

// The examples that a thread of a rank has room for.
std::size_t worker_examples(const Options& options, std::size_t num_ranks);

// Reads the data set; a Problem where the network, the batch or the ranks do not fit it or the
// memory of this machine.
DataSet load_checked_data(const Options& options, std::size_t num_ranks, std::size_t node_size);

// Reads the initial weights and the order of the examples, or draws them where no file is named.
void load_start(const Options& options, Inputs& inputs);

struct Epoch {
    std::size_t epoch;
    std::size_t step;
    double train_seconds;  // since the start, evaluations left out, the slowest rank's
    double train_loss;
    double test_accuracy;  // NaN where none was due
};

class Training {
  public:
    Training(const Options& options, const Inputs& inputs, Communicator& communicator);

    // Warms up, then takes all steps (collective).
    void run();

    [[nodiscard]] const std::vector<Epoch>& history() const { return history_; }
    // The mean loss of each step over the global batch.
    [[nodiscard]] const std::vector<double>& losses() const { return losses_; }
    [[nodiscard]] const Timeline& timeline() const { return timeline_; }
    [[nodiscard]] std::size_t num_steps() const { return num_steps_; }
    [[nodiscard]] std::size_t num_examples() const;
    [[nodiscard]] bool diverged() const;
    [[nodiscard]] Update& update() { return update_; }
    // Multiplications and additions a second of the largest product of this run, by one thread
    // alone.
    [[nodiscard]] double sgemm_rate();

  private:
    [[nodiscard]] Range global_batch(std::size_t step) const;
    void step(std::size_t step);
    double work(std::size_t thread, Range examples, float scale);
    void back(std::size_t thread, std::size_t layer, std::size_t num_examples);
    void backward_in_step(Range mine);
    void synchronise();
    void end_epoch();
    [[nodiscard]] float learning_rate(std::size_t step) const;

    const Options& options_;
    const DataSet& data_;
    const std::vector<std::uint32_t>& order_;
    Communicator& communicator_;
    std::size_t steps_per_epoch_;
    std::size_t total_steps_;
    std::vector<Layer> layers_;
    Timeline timeline_;
    Update update_;
    std::vector<Worker> workers_;
    std::vector<double> losses_;
    std::vector<Epoch> history_;
    std::size_t num_steps_ = 0;
    std::size_t first_step_of_epoch_ = 0;
    double num_local_ = 0;  // examples since the last average of weights
    double num_global_ = 0;
};

}  // namespace nnpar
