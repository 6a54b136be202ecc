// Tells the kernel which cached data is no longer valid (docs/coherence.md), and then continues the
// work that waited for that.
//
// The kernel answers a notification about pages only after it has written the dirty ones back,
// through our own queues: if a server thread sent it, that would be a deadlock (measured). So
// threads that own no queue and hold no lock send them. Notifications about attributes have a
// thread of their own: a buffered write that waits for one keeps its pages locked, and a
// notification about pages waits for those. Notifications about names have threads of their own,
// too: they wait for the directory, which a request of that kernel may keep locked until one of the
// others was sent.
#pragma once
#include <functional>
#include <memory>
#include <set>
#include <string>

#include "base/byte_range.h"
#include "base/fair_pool.h"
#include "base/ids.h"
#include "base/mutex.h"

namespace pmfs::front {

class Notifier {
public:
    struct Pages {
        InodeNo ino;
        std::uint64_t offset = 0, length = 0;  // bytes; length 0: to the end of the file
        // The thread of that kernel whose request waits for it, as FUSE names it; 0: unknown.
        std::uint32_t thread = 0;
        ByteRange bytes() const {
            return {offset, length == 0 ? ~std::uint64_t{0} : offset + length};
        }
    };
    struct Name {
        InodeNo dir;
        std::string name;
    };
    struct Kernel {
        // Blocks until the kernel has written back and dropped every page of the range, and has
        // dropped the attributes.
        std::function<void(const Pages &)> drop_pages;
        // The same, of pages that were filled again (drop_refilled()); that goes on after the
        // write was answered; and has ended then.
        std::function<void(const Pages &)> drop_again, goes_on, ended;
        std::function<void(InodeNo)> forget_attributes;
        // Blocks while the kernel has the directory locked, for instance for one of its own
        // requests.
        std::function<void(const Name &)> forget_name;
    };
    explicit Notifier(Kernel kernel);
    ~Notifier();
    // Starts its threads.  EAGAIN: there are no more.
    Result<> start();

    // Runs `then` once the kernel holds no page of the range, dirty or clean.  Later stores through
    // a mapping are not covered.  `user`: whose request it is, so that no user can keep all threads
    // busy.  `then` may block, but not for a request.
    void drop_pages(const Pages &pages, std::uint32_t user, const std::function<void()> &then);
    // More than kWaitingMax requests wait for drop_pages().  Further ones must not wait: the kernel
    // has a number of background requests (asynchronous direct reads and writes, write-back) that
    // may be under way at once, and write-back, which drop_pages() waits for, needs one.
    bool crowded() { return pages_.waiting() >= kWaitingMax; }
    // For a write through the cache that was executed and is not answered: runs `then` once the
    // kernel holds no page of the range that was filled before, or of those parts of it that are
    // chosen (WrittenPages).  But of the last page, if such a write covers only a part of it, the
    // kernel may keep the lock until it has the answer: nobody has filled that one, and `then` runs
    // after kPartMs.  (Other pages it does not lock.  For a kernel that does there is kWholeMs.)
    struct Parts {
        bool others = true, part = true;
    };
    void drop_refilled(const Pages &written, Parts parts, std::uint32_t user,
                       const std::function<void()> &then);
    static constexpr unsigned kPartMs = 200, kWholeMs = 1000;
    // Drops all pages of the file later.
    void drop_pages_later(InodeNo ino, std::uint32_t user) EXCLUDES(mutex_);
    static constexpr std::size_t kWaitingMax = 4096;
    // Runs `then` once the kernel asks for the attributes of the inode before it uses them again.
    void forget_attributes(InodeNo ino, const std::function<void()> &then);
    // Runs `then` once the kernel asks for that name, and for the directory's listing, anew.  Never
    // for a request of this kernel, which may have the directory locked.
    void forget_name(const Name &name, std::uint32_t user, const std::function<void()> &then);

    // Sends what is queued.  From then on nothing is sent, and `then` runs at once.
    void finish();

private:
    class Refilled;
    class LateAnswers;
    const Kernel kernel_;
    Mutex mutex_;
    std::set<std::uint64_t> later_ GUARDED_BY(mutex_);  // files of drop_pages_later()
    std::unique_ptr<LateAnswers> late_;
    FairPool pages_, refilled_, attributes_, names_;  // last: their threads end first
};

}  // namespace pmfs::front
