// A clock that books the time since its last lap to the activity that just ended, as the library's
// Timeline does.
#pragma once

#include <chrono>
#include <cstddef>
#include <numeric>
#include <vector>

namespace nnpar {

enum class Activity : std::size_t {
    kLoad,
    kForward,
    kBackward,
    kUpdate,
    kCommunicate,
    kWait,
    kOther
};
inline constexpr std::size_t kNumActivities = 7;

class Timeline {
  public:
    void start() { last_ = Clock::now(); }

    void lap(Activity activity) {
        const Clock::time_point now = Clock::now();
        seconds_[static_cast<std::size_t>(activity)] +=
            std::chrono::duration<double>(now - last_).count();
        last_ = now;
    }

    void reset() {
        seconds_.assign(kNumActivities, 0.0);
        start();
    }

    [[nodiscard]] const std::vector<double>& seconds() const { return seconds_; }
    [[nodiscard]] double total() const {
        return std::accumulate(seconds_.begin(), seconds_.end(), 0.0);
    }

  private:
    using Clock = std::chrono::steady_clock;
    std::vector<double> seconds_ = std::vector<double>(kNumActivities, 0.0);
    Clock::time_point last_ = Clock::now();
};

}  // namespace nnpar
