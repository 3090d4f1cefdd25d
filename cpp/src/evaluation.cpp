#include "evaluation.h"

#include <algorithm>
#include <numeric>

#include "part.h"

namespace nnpar {
namespace {

std::size_t count_correct(const DataSet& data, const float* weights, Worker& worker, Range range) {
    std::vector<std::uint32_t> indices(worker.max_examples());
    std::size_t num_correct = 0;
    for (std::size_t done = 0; done < range.size; done += indices.size()) {
        indices.resize(std::min(worker.max_examples(), range.size - done));
        std::iota(indices.begin(), indices.end(), static_cast<std::uint32_t>(range.begin + done));
        normalise(data, data.test, indices, worker.input());
        std::ranges::transform(indices, worker.labels().begin(),
                               [&](std::uint32_t i) { return data.test.labels[i]; });
        worker.forward(weights, indices.size());
        num_correct += worker.count_correct(indices.size());
    }
    return num_correct;
}

}  // namespace

double evaluate(const DataSet& data, const float* weights, std::vector<Worker>& workers,
                Communicator& communicator) {
    const Range mine = part(data.test.size(), communicator.size(), communicator.rank());
    const auto num_threads = static_cast<int>(workers.size());
    std::size_t num_correct = 0;
#pragma omp parallel for schedule(static, 1) num_threads(num_threads) reduction(+ : num_correct)
    for (int i = 0; i < num_threads; ++i) {
        const auto thread = static_cast<std::size_t>(i);
        num_correct +=
            count_correct(data, weights, workers[thread], part(mine, workers.size(), thread));
    }
    return communicator.sum(static_cast<double>(num_correct)) /
           static_cast<double>(data.test.size());
}

}  // namespace nnpar
