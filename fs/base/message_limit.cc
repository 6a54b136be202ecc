// Counting messages by place and window: see message_limit.h.
#include "base/message_limit.h"

#include <utility>

namespace pmfs {

void MessageLimit::log(const Place &place, const std::string &sentence, const Log &log,
                       std::uint64_t now_ns) {
    const std::int64_t suppressed = take(place, now_ns);
    if (suppressed < 0) return;
    if (suppressed > 0) log(std::to_string(suppressed) + " similar messages suppressed");
    log(sentence);
}

std::int64_t MessageLimit::take(const Place &place, std::uint64_t now_ns) {
    Lock held(mutex_);
    Window &window = windows_[place];
    if (window.logged == 0 || now_ns - window.begin_ns >= kWindow_ns) {
        window.begin_ns = now_ns;
        window.logged = 0;
    }
    if (window.logged == kBurst) {
        ++window.suppressed;
        return -1;
    }
    ++window.logged;
    return static_cast<std::int64_t>(std::exchange(window.suppressed, 0));
}

}  // namespace pmfs
