// The thread that waits so that no server thread has to: for leases to be given back or their time
// to be over, for processes to end, and for short delays.
//
// It only waits and dispatches. What is due runs on a pool that is fair by user and by file, so
// work for one file never delays that for another. It takes only its own lock, inside every other,
// and makes calls without it.
#pragma once
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <thread>
#include <vector>

#include "base/fair_pool.h"
#include "base/file_descriptor.h"
#include "base/ids.h"
#include "base/mutex.h"
#include "base/result.h"

namespace pmfs {

class Caretaker {
public:
    struct Callbacks {
        std::function<void(InodeNo)> revoke;         // the time of a file's leases is over
        std::function<void(InodeNo)> process_ended;  // of this record
        std::function<void(InodeNo)> look_again;     // whether any process maps by this record
    };
    // pool: must outlive it, except for queued jobs; null: no thread, because tests call tend().
    Caretaker(Callbacks callbacks, FairPool *pool);
    // Starts the thread.  EAGAIN: there are no more.
    Result<> start() EXCLUDES(mutex_);
    ~Caretaker();
    // Ends the thread; waiting operations are dropped, and none can wait any more.
    void stop() EXCLUDES(mutex_);

    // An operation waits for the leases of a file; a break that is under way keeps its deadline.
    void begin_break(InodeNo ino, std::uint64_t deadline_ns) EXCLUDES(mutex_);
    bool breaking(InodeNo ino) EXCLUDES(mutex_);
    // Milliseconds until the break's deadline, at least 1; nothing: no break is under way.
    std::optional<std::uint32_t> time_left_ms(InodeNo ino, std::uint64_t now_ns) EXCLUDES(mutex_);
    // Leases of the file are gone, but not all operations that waited for that have run yet.
    bool has_turns(InodeNo ino) EXCLUDES(mutex_);
    // Runs `again` for the user when the file has no lease any more.
    void wait(InodeNo ino, std::uint32_t user, std::function<void()> again) EXCLUDES(mutex_);
    // Runs `again` for the user at time `at_ns`.
    void run_at(std::uint64_t at_ns, std::uint32_t user, std::function<void()> again)
        EXCLUDES(mutex_);
    // Runs `again` when its turn comes, for no particular user.
    void run(std::function<void()> again) EXCLUDES(mutex_);
    // The last lease of the file is gone.
    void leases_gone(InodeNo ino) EXCLUDES(mutex_);

    // process: a pidfd, or none.  look: the end must also be polled for.  O(log n); while nothing
    // happens, watched processes cost nothing, however many there are.
    void watch(InodeNo record, FileDescriptor process, bool look) EXCLUDES(mutex_);
    void forget(InodeNo record) EXCLUDES(mutex_);

    // Dispatches what is due at `now_ns`.
    void tend(std::uint64_t now_ns) EXCLUDES(mutex_);

private:
    struct Waiting {
        std::uint64_t ino = 0;  // the file whose leases it waits for; 0: none
        std::uint32_t user = 0;
        std::function<void()> again;
    };
    struct Break {
        std::uint64_t deadline_ns = 0;
        bool revoking = false;         // its time was over, and the leases are being revoked
        std::vector<Waiting> waiting;  // in the order that they came
    };
    void loop() EXCLUDES(mutex_);
    void make_ready(Waiting waiting) REQUIRES(mutex_);
    void wake() REQUIRES(mutex_);
    int milliseconds_left() EXCLUDES(mutex_);
    std::vector<InodeNo> late(std::uint64_t now_ns) REQUIRES(mutex_);
    std::vector<InodeNo> ended() REQUIRES(mutex_);
    std::vector<InodeNo> looks(std::uint64_t now_ns) REQUIRES(mutex_);
    void dispatch(std::uint32_t user, std::uint64_t file, std::function<void()> what)
        EXCLUDES(mutex_);
    void had_turn(std::uint64_t ino) EXCLUDES(mutex_);

    const Callbacks callbacks_;
    FairPool *const pool_;
    FileDescriptor wake_, epoll_;  // epoll_: of wake_, and of the pidfds by their record
    Mutex mutex_;
    std::map<std::uint64_t, Break> breaks_ GUARDED_BY(mutex_);  // by inode
    std::vector<Waiting> ready_ GUARDED_BY(mutex_);
    std::multimap<std::uint64_t, Waiting> timed_ GUARDED_BY(mutex_);  // by when they are ready
    std::map<std::uint64_t, unsigned> turns_ GUARDED_BY(mutex_);  // of those in ready_ and running
    std::map<std::uint64_t, FileDescriptor> processes_ GUARDED_BY(mutex_);  // by record
    std::set<std::uint64_t> looked_for_ GUARDED_BY(mutex_);                 // records
    std::uint64_t next_look_ns_ GUARDED_BY(mutex_) = 0;
    bool looking_ GUARDED_BY(mutex_) = false;
    bool stopping_ GUARDED_BY(mutex_) = false;
    std::thread thread_;
};

}  // namespace pmfs
