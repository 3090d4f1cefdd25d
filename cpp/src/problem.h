// What the person who called the program can mend: one line that names the value and the remedy.
#pragma once

#include <stdexcept>

namespace nnpar {

class Problem : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

}  // namespace nnpar
