// Locks that clang checks: which lock guards what is written in the code and proved by
// -Wthread-safety (https://clang.llvm.org/docs/ThreadSafetyAnalysis.html).
//
//     Mutex mutex_;
//     std::size_t used_ GUARDED_BY(mutex_) = 0;
//     void grow_locked() REQUIRES(mutex_);
//
// libstdc++ annotates neither std::mutex nor std::lock_guard for Debian's clang, so these classes
// wrap them.  A function whose name ends in _locked is called with the lock held.
#pragma once
#include <chrono>
#include <condition_variable>
#include <mutex>

#include "base/adaptive_lock.h"
#include "base/assert.h"
#include "base/blocking.h"
#include "base/hold_watch.h"

#if defined(__clang__)
#define PMFS_THREAD_ATTRIBUTE(x) __attribute__((x))
#else
#define PMFS_THREAD_ATTRIBUTE(x)
#endif

#define CAPABILITY(name) PMFS_THREAD_ATTRIBUTE(capability(name))
#define SCOPED_CAPABILITY PMFS_THREAD_ATTRIBUTE(scoped_lockable)
#define GUARDED_BY(lock) PMFS_THREAD_ATTRIBUTE(guarded_by(lock))
#define PT_GUARDED_BY(lock) PMFS_THREAD_ATTRIBUTE(pt_guarded_by(lock))
#define ACQUIRED_BEFORE(...) PMFS_THREAD_ATTRIBUTE(acquired_before(__VA_ARGS__))
#define ACQUIRED_AFTER(...) PMFS_THREAD_ATTRIBUTE(acquired_after(__VA_ARGS__))
#define REQUIRES(...) PMFS_THREAD_ATTRIBUTE(requires_capability(__VA_ARGS__))
#define REQUIRES_SHARED(...) PMFS_THREAD_ATTRIBUTE(requires_shared_capability(__VA_ARGS__))
#define EXCLUDES(...) PMFS_THREAD_ATTRIBUTE(locks_excluded(__VA_ARGS__))
#define ACQUIRE(...) PMFS_THREAD_ATTRIBUTE(acquire_capability(__VA_ARGS__))
#define ACQUIRE_SHARED(...) PMFS_THREAD_ATTRIBUTE(acquire_shared_capability(__VA_ARGS__))
#define RELEASE(...) PMFS_THREAD_ATTRIBUTE(release_capability(__VA_ARGS__))
#define RELEASE_SHARED(...) PMFS_THREAD_ATTRIBUTE(release_shared_capability(__VA_ARGS__))
#define RELEASE_GENERIC(...) PMFS_THREAD_ATTRIBUTE(release_generic_capability(__VA_ARGS__))
#define TRY_ACQUIRE(...) PMFS_THREAD_ATTRIBUTE(try_acquire_capability(__VA_ARGS__))
#define TRY_ACQUIRE_SHARED(...) PMFS_THREAD_ATTRIBUTE(try_acquire_shared_capability(__VA_ARGS__))
#define ASSERT_CAPABILITY(...) PMFS_THREAD_ATTRIBUTE(assert_capability(__VA_ARGS__))
#define ASSERT_SHARED_CAPABILITY(...) PMFS_THREAD_ATTRIBUTE(assert_shared_capability(__VA_ARGS__))
#define RETURN_CAPABILITY(lock) PMFS_THREAD_ATTRIBUTE(lock_returned(lock))
#define NO_THREAD_SAFETY_ANALYSIS PMFS_THREAD_ATTRIBUTE(no_thread_safety_analysis)

namespace pmfs {

class CAPABILITY("mutex") Mutex {
public:
    Mutex() = default;
    Mutex(const Mutex &) = delete;
    Mutex &operator=(const Mutex &) = delete;

    void lock() ACQUIRE() { mutex_.lock(); }
    void unlock() RELEASE() { mutex_.unlock(); }
    bool try_lock() TRY_ACQUIRE(true) { return mutex_.try_lock(); }

private:
    friend class CondVar;
    std::mutex mutex_;
};

// Holds a Mutex until the end of its scope, or until unlock().
class SCOPED_CAPABILITY Lock {
public:
    explicit Lock(Mutex &mutex) ACQUIRE(mutex) : mutex_(mutex), held_(true) { mutex_.lock(); }
    ~Lock() RELEASE() {
        if (held_) mutex_.unlock();
    }
    Lock(const Lock &) = delete;
    Lock &operator=(const Lock &) = delete;

    void unlock() RELEASE() {
        held_ = false;
        mutex_.unlock();
    }
    void lock() ACQUIRE() {
        mutex_.lock();
        held_ = true;
    }

private:
    Mutex &mutex_;
    bool held_;
};

// never: a thread that holds it makes no system call that may block (base/blocking.h).
enum class Blocking { may, never };

// Many readers or one writer (adaptive_lock.h).  A thread that holds it must not take it
// again, shared or not.
class CAPABILITY("mutex") SharedMutex {
public:
    explicit SharedMutex(Blocking blocking = Blocking::may)
        : counts_(blocking == Blocking::never ? 1 : 0) {}
    SharedMutex(const SharedMutex &) = delete;
    SharedMutex &operator=(const SharedMutex &) = delete;

    void lock() ACQUIRE() {
        lock_.lock();
        taken();
    }
    void lock_shared() ACQUIRE_SHARED() {
        lock_.lock_shared();
        taken();
    }
    void unlock() RELEASE() {
        leaves();
        lock_.unlock();
    }
    // Whether any thread waits.
    bool contended() const REQUIRES(this) { return lock_.contended(); }
    void unlock_shared() RELEASE_SHARED() {
        leaves();
        lock_.unlock_shared();
    }
    bool try_lock_shared() TRY_ACQUIRE_SHARED(true) {
        if (!lock_.try_lock_shared()) return false;
        taken();
        return true;
    }
    // For functions whose caller holds the lock under another name: clang believes it, and a brief
    // lock is checked at run time.
    void assert_held() const ASSERT_CAPABILITY(this) { assert_counted(); }
    void assert_held_shared() const PMFS_THREAD_ATTRIBUTE(assert_shared_capability(this)) {
        assert_counted();
    }

private:
    void assert_counted() const { PMFS_ASSERT(brief_locks_held >= counts_); }
    void taken() {
        if (counts_ == 0) return;
        brief_locks_held += counts_;
        if (holds_watched.load(std::memory_order_relaxed)) hold_begins();
    }
    void leaves() {
        if (counts_ == 0) return;
        if (holds_watched.load(std::memory_order_relaxed)) hold_ends();
        brief_locks_held -= counts_;
    }

    AdaptiveLock lock_;
    const unsigned counts_;
};

class SCOPED_CAPABILITY ExclusiveLock {
public:
    explicit ExclusiveLock(SharedMutex &mutex) ACQUIRE(mutex) : mutex_(mutex) { mutex_.lock(); }
    ~ExclusiveLock() RELEASE() { mutex_.unlock(); }
    ExclusiveLock(const ExclusiveLock &) = delete;
    ExclusiveLock &operator=(const ExclusiveLock &) = delete;

private:
    SharedMutex &mutex_;
};

class SCOPED_CAPABILITY SharedLock {
public:
    explicit SharedLock(SharedMutex &mutex) ACQUIRE_SHARED(mutex) : mutex_(mutex) {
        mutex_.lock_shared();
    }
    ~SharedLock() RELEASE_GENERIC() { mutex_.unlock_shared(); }
    SharedLock(const SharedLock &) = delete;
    SharedLock &operator=(const SharedLock &) = delete;

private:
    SharedMutex &mutex_;
};

// Waits for a condition that a Mutex guards.  A wait may end early for no reason, so test the
// condition in a loop of your own (clang cannot see through a predicate's lambda):
//
//     Lock lock(mutex_);
//     while (!ready_) changed_.wait(mutex_);
class CondVar {
public:
    void wait(Mutex &mutex) REQUIRES(mutex) {
        std::unique_lock<std::mutex> held(mutex.mutex_, std::adopt_lock);
        condition_.wait(held);
        held.release();
    }
    // False when the time is over.
    bool wait_for(Mutex &mutex, std::chrono::nanoseconds time_max) REQUIRES(mutex) {
        std::unique_lock<std::mutex> held(mutex.mutex_, std::adopt_lock);
        const auto status = condition_.wait_for(held, time_max);
        held.release();
        return status == std::cv_status::no_timeout;
    }
    void notify_one() { condition_.notify_one(); }
    void notify_all() { condition_.notify_all(); }

private:
    std::condition_variable condition_;
};

}  // namespace pmfs
