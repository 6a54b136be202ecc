// watch: prints a line for each holder of a file that appears, ends, or is asked for its lease.
#include <fmt/format.h>

#include <chrono>
#include <csignal>
#include <map>
#include <utility>

#include "json.h"
#include "sentences.h"
#include "verbs.h"

namespace pmfs::ctl {
namespace {

constexpr timespec kPause{.tv_sec = 0, .tv_nsec = 200'000'000};

// The number of a handle, a grant or a quarantine: each kind has its own numbers.
using Key = std::pair<unsigned, std::uint64_t>;
using Holders = std::map<Key, pmfs_holder>;

Key key_of(const pmfs_holder &holder) {
    if (holder.id == 0) return {0, holder.handle};
    return {holder.kind == PMFS_HOLDER_QUARANTINED ? 2 : 1, holder.id};
}

int look(const File &file, Holders *out) {
    std::vector<pmfs_holder> all;
    const int error = file.holders(&all);
    out->clear();
    for (const pmfs_holder &holder : all) out->emplace(key_of(holder), holder);
    return error;
}

class Teller {
public:
    explicit Teller(bool json) : json_(json) {}

    void tell(const char *event, const pmfs_holder &holder) const {
        const auto now = std::chrono::system_clock::now().time_since_epoch();
        const auto seconds = std::chrono::duration<double>(now).count();
        if (json_) {
            Json json = {{"event", event}, {"time", seconds}};
            json.update(to_json(holder));
            print_line(json);
            return;
        }
        fmt::print("{:<6} {}\n", event, describe(holder));
        std::fflush(stdout);
    }

    void compare(const Holders &before, const Holders &now) const {
        for (const auto &[key, holder] : before)
            if (!now.contains(key)) tell("goes", holder);
        for (const auto &[key, holder] : now) {
            const auto found = before.find(key);
            if (found == before.end()) tell("comes", holder);
            const bool asked_before =
                found != before.end() && (found->second.flags & PMFS_HOLDER_BREAKING) != 0;
            if ((holder.flags & PMFS_HOLDER_BREAKING) != 0 && !asked_before) tell("asked", holder);
        }
    }

private:
    const bool json_;
};

}  // namespace

int watch(const Options &options) {
    const File file(options.path, File::Access::read);
    sigset_t ends;
    ::sigemptyset(&ends);
    for (const int number : {SIGINT, SIGTERM, SIGHUP}) ::sigaddset(&ends, number);
    ::sigprocmask(SIG_BLOCK, &ends, nullptr);
    const Teller teller(options.json);
    Holders before, now;
    if (const int error = look(file, &before)) return complain(file, Verb::watch, error);
    for (const auto &[key, holder] : before) teller.tell("holds", holder);
    while (::sigtimedwait(&ends, nullptr, &kPause) < 0) {
        if (const int error = look(file, &now)) return complain(file, Verb::watch, error);
        teller.compare(before, now);
        before.swap(now);
    }
    return kDone;
}

}  // namespace pmfs::ctl
