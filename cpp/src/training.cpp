#include "training.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numbers>

#include "blas.h"
#include "evaluation.h"
#include "memory.h"
#include "parameters.h"

namespace nnpar {
namespace {

constexpr std::size_t kMinExamples = 256;  // an evaluation in smaller portions would be slow

}  // namespace

std::size_t total_steps(const Options& options, std::size_t num_examples) {
    const std::size_t steps =
        options.num_epochs * divide_up(num_examples, options.global_batch_size);
    return options.num_steps == 0 ? steps : std::min(steps, options.num_steps);
}

std::size_t worker_examples(const Options& options, std::size_t num_ranks) {
    const std::size_t num_local = divide_up(options.global_batch_size, num_ranks);
    return std::max(divide_up(num_local, options.num_threads), kMinExamples);
}

DataSet load_checked_data(const Options& options, std::size_t num_ranks, std::size_t node_size) {
    DataSet data = load_data(options.data);
    check_sizes(options, data.train.size(), num_ranks, node_size);
    const std::vector<Layer> layers = make_layers(data.num_pixels, options.hidden);
    check_network(layers);
    check_memory(options, data, layers, num_ranks, node_size);
    return data;
}

void load_start(const Options& options, Inputs& inputs) {
    const std::size_t num_examples = inputs.data.train.size();
    inputs.weights = initial_weights(options, make_layers(inputs.data.num_pixels, options.hidden));
    const std::size_t num_epochs = divide_up(total_steps(options, num_examples),
                                             divide_up(num_examples, options.global_batch_size));
    inputs.order = example_order(options, num_examples, num_epochs);
}

Training::Training(const Options& options, const Inputs& inputs, Communicator& communicator)
    : options_(options),
      data_(inputs.data),
      order_(inputs.order),
      communicator_(communicator),
      steps_per_epoch_(divide_up(data_.train.size(), options.global_batch_size)),
      total_steps_(total_steps(options, data_.train.size())),
      layers_(make_layers(data_.num_pixels, options.hidden)),
      update_(options, layers_, inputs.weights, communicator, timeline_),
      losses_(total_steps_) {
    const std::size_t max_examples = worker_examples(options, communicator.size());
    for (std::size_t thread = 0; thread < options.num_threads; ++thread) {
        workers_.emplace_back(layers_, max_examples);
    }
}

std::size_t Training::num_examples() const {
    const std::size_t epochs = num_steps_ / steps_per_epoch_;
    return epochs * data_.train.size() + num_steps_ % steps_per_epoch_ * options_.global_batch_size;
}

bool Training::diverged() const {
    return !std::isfinite(history_.back().train_loss);
}

Range Training::global_batch(std::size_t step) const {
    const std::size_t start = step % steps_per_epoch_ * options_.global_batch_size;
    return {.begin = step / steps_per_epoch_ * data_.train.size() + start,
            .size = std::min(options_.global_batch_size, data_.train.size() - start)};
}

void Training::run() {
    for (std::size_t i = 0; i < std::min(options_.num_warmup_steps, total_steps_); ++i) {
        step(i);
    }
    update_.reset();
    num_local_ = num_global_ = 0;
    timeline_.reset();
    communicator_.barrier();
    timeline_.start();
    for (num_steps_ = 0; num_steps_ < total_steps_;) {
        step(num_steps_);
        ++num_steps_;
        if (num_steps_ % steps_per_epoch_ == 0 || num_steps_ == total_steps_) {
            end_epoch();
            if (diverged()) {
                return;
            }
        }
    }
}

void Training::step(std::size_t step) {
    const Range batch = global_batch(step);
    const Range mine = part(batch, communicator_.size(), communicator_.rank());
    const std::size_t divisor =
        options_.averages_weights() ? std::max<std::size_t>(1, mine.size) : batch.size;
    const float scale = 1 / static_cast<float>(divisor);
    double loss = 0;
    const auto num_threads = static_cast<int>(options_.num_threads);
    if (mine.size > 0 || !options_.averages_weights()) {
#pragma omp parallel for schedule(static, 1) num_threads(num_threads) reduction(+ : loss)
        for (int i = 0; i < num_threads; ++i) {
            const auto thread = static_cast<std::size_t>(i);
            loss += work(thread, part(mine, options_.num_threads, thread), scale);
        }
        if (update_.is_overlapped()) {
            backward_in_step(mine);
        }
        timeline_.lap(Activity::kBackward);
        update_.apply(learning_rate(step));
    }
    losses_[step] = loss;
    num_local_ += static_cast<double>(mine.size);
    num_global_ += static_cast<double>(batch.size);
    if (options_.averages_weights() && options_.average_every > 0 &&
        (step + 1) % options_.average_every == 0) {
        synchronise();
    }
}

double Training::work(std::size_t thread, Range examples, float scale) {
    Worker& worker = workers_[thread];
    const std::span<const std::uint32_t> indices(order_.data() + examples.begin, examples.size);
    normalise(data_, data_.train, indices, worker.input());
    std::ranges::transform(indices, worker.labels().begin(),
                           [&](std::uint32_t i) { return data_.train.labels[i]; });
    if (thread == 0) {
        timeline_.lap(Activity::kLoad);
    }
    worker.forward(update_.weights(), examples.size);
    const double loss =
        worker.loss(examples.size, scale, options_.momentum_factor(), update_.velocity(thread));
    if (thread == 0) {
        timeline_.lap(Activity::kForward);
    }
    if (!update_.is_overlapped()) {
        for (std::size_t layer = layers_.size(); layer-- > 0;) {
            back(thread, layer, examples.size);
        }
    }
    return loss;
}

void Training::back(std::size_t thread, std::size_t layer, std::size_t num_examples) {
    const float momentum = options_.momentum_factor();
    float* velocity = update_.velocity(thread);
    const bool drives = update_.is_overlapped() && thread == 0;  // one thread alone may call MPI
    workers_[thread].backward(
        layer, num_examples, momentum, velocity,
        drives ? std::function<void()>([this] { update_.progress(); }) : nullptr);
    if (layer > 0) {
        workers_[thread].hand_down(layer, update_.weights(), num_examples, momentum, velocity);
    }
}

// All threads go through the layers in step, so that a layer's sum can start when all of them have
// its gradient.
void Training::backward_in_step(Range mine) {
    const auto num_threads = static_cast<int>(options_.num_threads);
    for (std::size_t layer = layers_.size(); layer-- > 0;) {
#pragma omp parallel for schedule(static, 1) num_threads(num_threads)
        for (int i = 0; i < num_threads; ++i) {
            const auto thread = static_cast<std::size_t>(i);
            back(thread, layer, part(mine, options_.num_threads, thread).size);
        }
        timeline_.lap(Activity::kBackward);
        update_.layer_done(layer);
    }
}

void Training::synchronise() {
    if (num_global_ > 0 && communicator_.size() > 1) {
        update_.average_weights(static_cast<float>(num_local_ / num_global_));
    }
    num_local_ = num_global_ = 0;
}

void Training::end_epoch() {
    if (options_.averages_weights()) {
        synchronise();
    }
    timeline_.lap(Activity::kOther);
    communicator_.barrier();
    timeline_.lap(Activity::kWait);
    std::vector<double> losses(losses_.begin() + static_cast<std::ptrdiff_t>(first_step_of_epoch_),
                               losses_.begin() + static_cast<std::ptrdiff_t>(num_steps_));
    communicator_.sum(losses);
    double sum = 0;
    double num_examples = 0;
    for (std::size_t i = 0; i < losses.size(); ++i) {
        const auto size = static_cast<double>(global_batch(first_step_of_epoch_ + i).size);
        sum += losses[i];
        num_examples += size;
        losses_[first_step_of_epoch_ + i] = losses[i] / size;
    }
    first_step_of_epoch_ = num_steps_;
    const std::size_t epoch = divide_up(num_steps_, steps_per_epoch_);
    const bool due = options_.evaluate_every > 0 &&
                     (epoch % options_.evaluate_every == 0 || num_steps_ == total_steps_);
    history_.push_back(
        {.epoch = epoch,
         .step = num_steps_,
         .train_seconds = communicator_.max(timeline_.total()),
         .train_loss = sum / num_examples,
         .test_accuracy = due ? evaluate(data_, update_.weights(), workers_, communicator_) : NAN});
    communicator_.barrier();
    timeline_.start();
}

float Training::learning_rate(std::size_t step) const {
    const double done = static_cast<double>(step) / static_cast<double>(total_steps_);
    double factor = 1;
    if (options_.lr_schedule == "linear") {
        factor = 1 - done;
    } else if (options_.lr_schedule == "cosine") {
        factor = (1 + std::cos(std::numbers::pi * done)) / 2;
    }
    return static_cast<float>(options_.lr * factor);
}

double Training::sgemm_rate() {
    const Layer& first = layers_.front();
    const std::size_t num_examples =
        divide_up(options_.global_batch_size, communicator_.size() * options_.num_threads);
    std::vector<float> output(num_examples * first.num_out);
    double fastest = 0;
    for (int repeat = 0; repeat < 20; ++repeat) {
        const auto start = std::chrono::steady_clock::now();
        blas::multiply(blas::Form::kTransposed, num_examples, first.num_out, first.num_in,
                       workers_.front().input(), update_.weights(), output.data());
        const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
        fastest = std::max(fastest,
                           2.0 * static_cast<double>(output.size() * first.num_in) / time.count());
    }
    return fastest;
}

}  // namespace nnpar
