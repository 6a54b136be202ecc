// Limits how often a message is logged that a user, a guest or a bad medium can cause as often as
// it likes.  As printk_ratelimit() of the kernel: in bursts, each place in the code for itself.
#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>

#include "base/clock.h"
#include "base/mutex.h"

namespace pmfs {

class MessageLimit {
public:
    // From each place at most so many messages in each window of time.
    static constexpr unsigned kBurst = 10;
    static constexpr std::uint64_t kWindow_ns = 5'000'000'000;

    // Where a message is from.  (So there are not more of them than lines of code.)
    struct Place {
        std::string_view file;
        unsigned line = 0;
        friend constexpr auto operator<=>(const Place &, const Place &) = default;
    };

    using Log = std::function<void(const std::string &sentence)>;

    // Logs the sentence, or only counts it.  The first message that a place may log after some were
    // not logged is preceded by one that says how many.
    void log(const Place &place, const std::string &sentence, const Log &log,
             std::uint64_t now_ns = monotonic_ns()) EXCLUDES(mutex_);

private:
    struct Window {
        std::uint64_t begin_ns = 0, suppressed = 0;
        unsigned logged = 0;
    };
    // How many messages were suppressed before this one; -1: this one is, too.
    std::int64_t take(const Place &place, std::uint64_t now_ns) EXCLUDES(mutex_);

    Mutex mutex_;
    std::map<Place, Window> windows_ GUARDED_BY(mutex_);
};

}  // namespace pmfs
