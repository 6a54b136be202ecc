// The pools that send notifications: see notifier.h.
#include "front/clients/notifier.h"

#include <chrono>
#include <memory>
#include <utility>

namespace pmfs::front {
namespace {

// Each thread waits for the kernel's write-back of one file, which may wait as long as a lease may
// take to be given back: so there are many, and a user gets few of them.
constexpr unsigned kPageThreads = 32, kPageShare = 4;
constexpr unsigned kNameThreads = 8;
// A thread that drops pages again may wait for the answer that another one gives after kLockedMs at
// most.  So these are two pools: in one, the former could keep all threads from the latter.
constexpr unsigned kRefilledThreads = 4;

// What one thread waits for, for a limited time, and another one gives.
class Signal {
public:
    void give() EXCLUDES(mutex_) {
        Lock held(mutex_);
        given_ = true;
        changed_.notify_all();
    }
    void wait(std::chrono::nanoseconds time_max) EXCLUDES(mutex_) {
        const auto end = std::chrono::steady_clock::now() + time_max;
        Lock held(mutex_);
        while (!given_) {
            const auto left = end - std::chrono::steady_clock::now();
            if (left <= left.zero()) return;
            changed_.wait_for(mutex_, left);
        }
    }

private:
    Mutex mutex_;
    CondVar changed_;
    bool given_ GUARDED_BY(mutex_) = false;
};

}  // namespace

Notifier::Notifier(Kernel kernel)
    : kernel_(std::move(kernel)),
      pages_("pmfs-notify", kPageThreads, kPageShare),
      refilled_("pmfs-refilled", kRefilledThreads, kRefilledThreads),
      answers_("pmfs-answers", kRefilledThreads, kRefilledThreads),
      attributes_("pmfs-attr", 1),
      names_("pmfs-names", kNameThreads) {}

Result<> Notifier::start() {
    TRY(pages_.start());
    TRY(refilled_.start());
    TRY(answers_.start());
    TRY(attributes_.start());
    return names_.start();
}

void Notifier::drop_pages(const Pages &pages, std::uint32_t user,
                          const std::function<void()> &then) {
    auto run = [this, pages, then] {
        kernel_.drop_pages(pages);
        then();
    };
    if (!pages_.submit({user, pages.ino.value(), std::move(run)})) then();
}

void Notifier::drop_refilled(const Pages &written, std::uint32_t user,
                             const std::function<void()> &then) {
    const auto dropped = std::make_shared<Signal>();
    refilled_.submit({user, 0, [this, written, dropped] {
                          kernel_.drop_again(written);
                          dropped->give();
                      }});
    const auto wait = [dropped, then] {
        dropped->wait(std::chrono::milliseconds(kLockedMs));
        then();
    };
    if (!answers_.submit({user, 0, wait})) then();
}

void Notifier::drop_pages_later(InodeNo ino, std::uint32_t user) {
    {
        Lock held(mutex_);
        if (!later_.insert(ino.value()).second) return;
    }
    const auto run = [this, ino] {
        {
            Lock held(mutex_);
            later_.erase(ino.value());  // later writes ask again
        }
        kernel_.drop_pages({.ino = ino});
    };
    pages_.submit({user, ino.value(), run});
}

void Notifier::forget_attributes(InodeNo ino, const std::function<void()> &then) {
    auto run = [this, ino, then] {
        kernel_.forget_attributes(ino);
        then();
    };
    if (!attributes_.submit({0, ino.value(), std::move(run)})) then();
}

void Notifier::forget_name(const Name &name, std::uint32_t user,
                           const std::function<void()> &then) {
    auto run = [this, name, then] {
        kernel_.forget_name(name);
        kernel_.drop_pages({.ino = name.dir});  // its listing
        then();
    };
    if (!names_.submit({user, name.dir.value(), std::move(run)})) then();
}

void Notifier::finish() {
    names_.finish();  // their continuations may notify the others
    pages_.finish();
    answers_.finish();  // the next pool may wait for these
    refilled_.finish();
    attributes_.finish();
}

}  // namespace pmfs::front
