// The pools that send notifications: see notifier.h.
#include "front/clients/notifier.h"

#include <chrono>
#include <map>
#include <utility>

#include "base/bytes.h"
#include "base/thread.h"

namespace pmfs::front {
namespace {

// Each thread waits for the kernel's write-back of one file, which may wait as long as a lease may
// take to be given back: so there are many, and a user gets few of them.
constexpr unsigned kPageThreads = 32, kPageShare = 4;
constexpr unsigned kNameThreads = 8;
constexpr std::uint64_t kPage = 4096;  // the kernel's

}  // namespace

// A write through the cache that waits for its pages to be dropped.  It is answered once: by the
// thread that has dropped them, or by the one that finds that this takes too long.
class Notifier::Refilled {
public:
    Refilled(const Kernel &kernel, const Pages &pages, std::function<void()> then)
        : kernel_(kernel), pages_(pages), then_(std::move(then)) {}

    void drop() EXCLUDES(mutex_) {
        kernel_.drop_again(pages_);
        if (const auto then = taken(false)) return then();
        kernel_.ended(pages_);
    }
    void late() EXCLUDES(mutex_) {
        if (const auto then = taken(true)) then();
    }

private:
    std::function<void()> taken(bool goes_on) EXCLUDES(mutex_) {
        Lock held(mutex_);
        if (then_ != nullptr && goes_on) kernel_.goes_on(pages_);
        return std::exchange(then_, nullptr);
    }
    const Kernel &kernel_;
    const Pages pages_;
    Mutex mutex_;
    std::function<void()> then_ GUARDED_BY(mutex_);  // null: it was answered
};

// Answers those that have waited for too long.
class Notifier::LateAnswers {
public:
    ~LateAnswers() { finish(); }
    Result<> start() {
        thread_ = TRY(start_thread("pmfs-late", [this] { work(); }));
        return {};
    }
    void add(std::shared_ptr<Refilled> write, std::chrono::milliseconds time_max) EXCLUDES(mutex_) {
        {
            Lock held(mutex_);
            if (!finishing_) {
                waiting_.emplace(Clock::now() + time_max, std::move(write));
                changed_.notify_all();
                return;
            }
        }
        write->late();
    }
    // Answers all, and later ones at once.
    void finish() EXCLUDES(mutex_) {
        {
            Lock held(mutex_);
            finishing_ = true;
            changed_.notify_all();
        }
        if (thread_.joinable()) thread_.join();
    }

private:
    using Clock = std::chrono::steady_clock;
    void work() EXCLUDES(mutex_) {
        while (const std::shared_ptr<Refilled> write = next()) write->late();
    }
    // Null: it is to end.
    std::shared_ptr<Refilled> next() EXCLUDES(mutex_) {
        Lock held(mutex_);
        while (waiting_.empty() ? !finishing_
                                : !finishing_ && Clock::now() < waiting_.begin()->first)
            if (waiting_.empty())
                changed_.wait(mutex_);
            else
                changed_.wait_for(mutex_, waiting_.begin()->first - Clock::now());
        if (waiting_.empty()) return nullptr;
        std::shared_ptr<Refilled> first = std::move(waiting_.begin()->second);
        waiting_.erase(waiting_.begin());
        return first;
    }

    Mutex mutex_;
    CondVar changed_;
    std::multimap<Clock::time_point, std::shared_ptr<Refilled>> waiting_ GUARDED_BY(mutex_);
    bool finishing_ GUARDED_BY(mutex_) = false;
    std::thread thread_;
};

Notifier::Notifier(Kernel kernel)
    : kernel_(std::move(kernel)),
      late_(std::make_unique<LateAnswers>()),
      pages_("pmfs-notify", kPageThreads, kPageShare),
      refilled_("pmfs-refilled", kPageThreads, kPageShare),
      attributes_("pmfs-attr", 1),
      names_("pmfs-names", kNameThreads) {}

Notifier::~Notifier() {
    finish();
}

Result<> Notifier::start() {
    TRY(pages_.start());
    TRY(refilled_.start());
    TRY(late_->start());
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

void Notifier::drop_refilled(const Pages &written, Parts parts, std::uint32_t user,
                             const std::function<void()> &then) {
    const WrittenPages split(written.bytes(), kPage);
    const auto those = [&written](const ByteRange &bytes, bool chosen) {
        Pages pages = written;
        pages.offset = bytes.from;
        pages.length = chosen ? bytes.to - bytes.from : 0;
        return pages;
    };
    const Pages others = those(split.others, parts.others), part = those(split.part, parts.part);
    const auto drop = [this, user](const Pages &pages, unsigned ms, const auto &next) {
        if (pages.length == 0) return next();  // (to a kernel that would mean all)
        const auto write = std::make_shared<Refilled>(kernel_, pages, next);
        if (!refilled_.submit({user, 0, [write] { write->drop(); }})) return write->late();
        late_->add(write, std::chrono::milliseconds(ms));
    };
    drop(others, kWholeMs, [drop, part, then] { drop(part, kPartMs, then); });
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
    late_->finish();  // the next pool may wait for these answers
    refilled_.finish();
    attributes_.finish();
}

}  // namespace pmfs::front
