// What the command line asks for, under the names that the library's RunConfig has.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace nnpar {

struct Options {
    std::string strategy = "cpp";
    std::string dataset = "digits";
    std::size_t num_threads = 1;
    std::size_t global_batch_size = 128;
    std::size_t num_epochs = 1;
    std::size_t num_steps = 0;
    std::string optimizer = "momentum";
    double lr = 0.1;
    double momentum = 0.9;
    std::string lr_schedule = "constant";
    std::string allreduce = "shared";
    std::size_t average_every = 0;
    std::vector<std::size_t> hidden = {256, 128};
    std::size_t seed = 0;
    std::string binding = "core";
    std::size_t num_warmup_steps = 5;
    std::size_t evaluate_every = 1;
    std::string data;
    std::string weights;
    std::string order;
    std::string out;
    std::string save_weights;
    std::string save_losses;
    double stall_seconds = 60;
    bool measure_sgemm = false;

    [[nodiscard]] bool averages_weights() const { return strategy == "cpp_weight_averaging"; }
    [[nodiscard]] float momentum_factor() const {
        return optimizer == "sgd" ? 0.0F : static_cast<float>(momentum);
    }
};

bool wants_help(const std::vector<std::string>& words);
std::string help();

// Reads the words of the command line; a Problem names the one that is wrong.
Options parse_options(const std::vector<std::string>& words);

// A Problem where the options do not fit the data or the number of ranks.
void check_sizes(const Options& options, std::size_t num_examples, std::size_t num_ranks,
                 std::size_t node_size);

}  // namespace nnpar
