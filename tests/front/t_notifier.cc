// A notification that is sent before a request is answered must not wait for that answer for ever.
//
// Holds docs/coherence.md "Threads".
#include <doctest/doctest.h>

#include <chrono>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "base/mutex.h"
#include "front/clients/notifier.h"

using namespace pmfs;
using front::Notifier;

namespace {

// A kernel that keeps a page of each file locked until the write to it is answered.
class Kernel {
public:
    Notifier::Kernel functions() {
        return {.drop_pages = [](const Notifier::Pages &) {},
                .drop_again = [this](const Notifier::Pages &pages) { drop(pages.ino.value()); },
                .goes_on = [this](const Notifier::Pages &) { note("goes on"); },
                .ended = [this](const Notifier::Pages &) { note("ended"); },
                .forget_attributes = [](InodeNo) {},
                .forget_name = [](const Notifier::Name &) {}};
    }
    void lock(std::uint64_t file) EXCLUDES(mutex_) {
        Lock held(mutex_);
        locked_.insert(file);
    }
    void note(const char *what) EXCLUDES(mutex_) {
        Lock held(mutex_);
        notes_.emplace_back(what);
    }
    std::vector<std::string> notes() EXCLUDES(mutex_) {
        Lock held(mutex_);
        return notes_;
    }
    void unlock(std::uint64_t file) EXCLUDES(mutex_) {
        Lock held(mutex_);
        locked_.erase(file);
        changed_.notify_all();
    }
    bool all_unlocked_within(std::chrono::seconds time_max) EXCLUDES(mutex_) {
        const auto end = std::chrono::steady_clock::now() + time_max;
        Lock held(mutex_);
        while (!locked_.empty() && std::chrono::steady_clock::now() < end)
            changed_.wait_for(mutex_, std::chrono::milliseconds(10));
        return locked_.empty();
    }

private:
    void drop(std::uint64_t file) EXCLUDES(mutex_) {
        Lock held(mutex_);
        while (locked_.contains(file)) changed_.wait(mutex_);
        notes_.emplace_back("dropped");
    }
    Mutex mutex_;
    CondVar changed_;
    std::set<std::uint64_t> locked_ GUARDED_BY(mutex_);
    std::vector<std::string> notes_ GUARDED_BY(mutex_);
};

}  // namespace

TEST_CASE(
    "notifier: writes of many users are answered, although each keeps a page locked until then") {
    constexpr std::uint32_t kUsers = 32;
    Kernel kernel;
    Notifier notifier(kernel.functions());
    REQUIRE(notifier.start().ok());
    for (std::uint32_t user = 1; user <= kUsers; ++user) {
        kernel.lock(user);
        notifier.drop_refilled({.ino = InodeNo(user), .offset = 0, .length = 10}, {}, user,
                               [&kernel, user] { kernel.unlock(user); });
    }
    CHECK(kernel.all_unlocked_within(std::chrono::seconds(10)));
    for (std::uint32_t user = 1; user <= kUsers; ++user) kernel.unlock(user);
    notifier.finish();
}

TEST_CASE(
    "notifier: a write is answered after its whole pages were dropped, however long it takes") {
    Kernel kernel;
    Notifier notifier(kernel.functions());
    REQUIRE(notifier.start().ok());
    kernel.lock(1);  // for instance by a read that is under way
    std::thread reader([&kernel] {
        std::this_thread::sleep_for(std::chrono::milliseconds(4 * Notifier::kPartMs));
        kernel.unlock(1);
    });
    notifier.drop_refilled({.ino = InodeNo(1), .offset = 0, .length = 8192}, {}, 1,
                           [&kernel] { kernel.note("answered"); });
    reader.join();
    notifier.finish();
    CHECK(kernel.notes() == std::vector<std::string>{"dropped", "answered"});
}

TEST_CASE("notifier: of a write's pages those are dropped that were filled again") {
    Kernel kernel;
    Notifier notifier(kernel.functions());
    REQUIRE(notifier.start().ok());
    kernel.lock(1);  // the page in which the write ends
    notifier.drop_refilled({.ino = InodeNo(1), .offset = 100, .length = 10}, {true, false}, 1,
                           [&kernel] { kernel.note("answered"); });
    notifier.drop_refilled({.ino = InodeNo(1), .offset = 0, .length = 8192}, {false, true}, 1,
                           [&kernel] { kernel.note("answered"); });
    CHECK(kernel.notes() == std::vector<std::string>{"answered", "answered"});
    kernel.unlock(1);
    // The last page is in part covered also if the write ends with it.
    notifier.drop_refilled({.ino = InodeNo(1), .offset = 2048, .length = 2048}, {false, true}, 1,
                           [&kernel] { kernel.note("answered late"); });
    notifier.finish();
    CHECK(kernel.notes().size() == 4);
}

TEST_CASE("notifier: a drop that outlasts the answer is known to go on until it has ended") {
    Kernel kernel;
    Notifier notifier(kernel.functions());
    REQUIRE(notifier.start().ok());
    kernel.lock(1);
    notifier.drop_refilled({.ino = InodeNo(1), .offset = 100, .length = 10}, {}, 1, [&kernel] {
        kernel.note("answered");
        kernel.unlock(1);
    });
    CHECK(kernel.all_unlocked_within(std::chrono::seconds(10)));
    notifier.finish();
    CHECK(kernel.notes() == std::vector<std::string>{"goes on", "answered", "dropped", "ended"});
}
