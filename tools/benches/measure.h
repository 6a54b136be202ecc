// Medians, and rows as tools/bench reads them.
#pragma once
#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <optional>
#include <vector>

#include "base/clock.h"

namespace pmfs::bench {

inline double median(std::vector<double> values) {
    const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
    std::nth_element(values.begin(), middle, values.end());
    return *middle;
}

// The median time of a call in microseconds.  Calls are timed `batch` at a time: the clock costs a
// tenth of the shortest of them.
template <class Call>
double time_calls(std::size_t count, std::size_t batch, Call &&call) {
    std::vector<double> times;
    times.reserve(count / batch);
    for (std::size_t i = 0; i + batch <= count;) {
        const std::size_t end = i + batch;
        const std::uint64_t begin = monotonic_ns();
        for (; i < end; ++i) call(i);
        times.push_back(static_cast<double>(monotonic_ns() - begin) / 1000 /
                        static_cast<double>(batch));
    }
    return median(std::move(times));
}

// One figure over the rounds of a run, with that of a peer measured in turns with it.
class Figure {
public:
    void add(double value) { values_.push_back(value); }
    void add(double value, double peer) {
        add(value);
        peers_.push_back(peer);
        ratios_.push_back(value / peer);
    }
    void print(const char *name, const char *unit) const {
        const std::string end = peers_.empty()
                                    ? ""
                                    : fmt::format(", \"peer\": {:.4f}, \"ratio\": {:.4f}",
                                                  median(peers_), median(ratios_));
        fmt::print("{{\"name\": \"{}\", \"value\": {:.4f}, \"unit\": \"{}\"{}}}\n", name,
                   median(values_), unit, end);
        std::fflush(stdout);
    }

private:
    std::vector<double> values_, peers_, ratios_;
};

}  // namespace pmfs::bench
