// The words that every layer uses: results, ids, bytes, checksums, locks, clocks.
#include <doctest/doctest.h>

#include <array>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <thread>
#include <unordered_set>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/crc32c.h"
#include "base/ids.h"
#include "base/mutex.h"
#include "base/printable.h"
#include "base/result.h"

using namespace pmfs;

namespace {

ConstBytes text(std::string_view words) {
    return std::as_bytes(std::span(words.data(), words.size()));
}

Result<int> half(int value) {
    if (value % 2 != 0) return Error(EINVAL, "odd");
    return value / 2;
}

Result<int> quarter(int value) {
    return TRY(half(TRY(half(value))));
}

Result<> must_be_even(int value, bool &went_on) {
    TRY(half(value));
    went_on = true;
    return {};
}

// In a branch of its own, for that is how clang follows a lock that may not be got.
template <class M>
bool is_free(M &mutex) {
    if (!mutex.try_lock()) return false;
    mutex.unlock();
    return true;
}

struct Base {
    virtual ~Base() = default;
};
struct Derived : Base {};

}  // namespace

TEST_CASE("result: TRY gives the value or hands the error on, nested too") {
    CHECK(quarter(12).take() == 3);
    CHECK(quarter(6).error().errno_value() == EINVAL);
    CHECK(quarter(7).error().what() == std::string("odd"));

    bool went_on = false;
    CHECK(must_be_even(4, went_on).ok());
    CHECK(went_on);
    went_on = false;
    CHECK_FALSE(must_be_even(5, went_on).ok());
    CHECK_FALSE(went_on);
}

TEST_CASE("result: an error knows where it was raised first, not where it was handed on") {
    const int line = __LINE__ + 1;
    const auto fails = []() -> Result<int> { return Error(EIO, "here"); };
    const auto passes_on = [&]() -> Result<> {
        TRY(fails());
        return {};
    };
    const auto result = passes_on();
    CHECK(result.error().line() == line);
    CHECK(std::string_view(result.error().file()).ends_with("t_base.cc"));
    CHECK(corrupt("bad").errno_value() == EUCLEAN);
}

TEST_CASE("result: holds what can only be moved, and converts like a plain return") {
    const auto make = []() -> Result<std::unique_ptr<Base>> { return std::make_unique<Derived>(); };
    std::unique_ptr<Base> made = make().take();
    CHECK(made != nullptr);

    Result<std::vector<int>> list = std::vector<int>{1, 2};
    list.value().push_back(3);
    CHECK(list.value().size() == 3);
    CHECK(half(8).value_or(1) == 4);
    CHECK(half(9).value_or(1) == 1);
}

TEST_CASE("result: costs no more to copy than its value") {
    static_assert(std::is_trivially_copyable_v<Result<>>);
    static_assert(std::is_trivially_copyable_v<Result<std::uint64_t>>);
    static_assert(std::is_trivially_destructible_v<Result<BlockNo>>);
    CHECK(sizeof(Result<>) == sizeof(Error));
    CHECK(sizeof(Result<BlockNo>) == sizeof(Error) + 8);
}

TEST_CASE("ids: count up, differ by counts, and never mix") {
    BlockNo block(7);
    CHECK((++block).value() == 8);
    CHECK((block + 2) - block == 2);
    CHECK((block -= 8) == BlockNo());
    CHECK(BlockNo(1) < BlockNo(2));
    CHECK(BlockNo(515) % 512 == 3);
    static_assert(!std::is_convertible_v<std::uint64_t, BlockNo>);
    static_assert(!std::is_convertible_v<BlockNo, std::uint64_t>);
    static_assert(!std::is_constructible_v<BlockNo, FileBlock>);
    static_assert(!std::equality_comparable_with<BlockNo, InodeNo>);

    std::unordered_set<InodeNo> inodes;
    for (std::uint64_t i = 0; i < 1000; ++i) inodes.insert(InodeNo(i));
    CHECK(inodes.size() == 1000);
    CHECK(inodes.contains(InodeNo(999)));
}

TEST_CASE("crc32c: is the standard's, by its published values") {
    CHECK(crc32c(0, text("123456789")) == 0xE3069283u);
    CHECK(crc32c(0, {}) == 0);
    // RFC 3720, appendix B.4
    std::vector<std::byte> bytes(32, std::byte{0});
    CHECK(crc32c(0, bytes) == 0x8A9136AAu);
    std::ranges::fill(bytes, std::byte{0xff});
    CHECK(crc32c(0, bytes) == 0x62A8AB43u);
    for (unsigned i = 0; i < 32; ++i) bytes[i] = std::byte(i);
    CHECK(crc32c(0, bytes) == 0x46DD794Eu);
}

TEST_CASE("crc32c: may be taken in pieces, cut anywhere and aligned anyhow") {
    std::vector<std::byte> bytes(4096 + 17);
    for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = std::byte(i * 31 >> 3);
    const ConstBytes all(bytes);
    const std::uint32_t whole = crc32c(0, all);
    for (std::size_t cut = 0; cut <= all.size(); cut += 61) {
        CAPTURE(cut);
        CHECK(crc32c(crc32c(0, all.first(cut)), all.subspan(cut)) == whole);
    }
}

TEST_CASE("crc32c: of a changed message follows from the old one's and the change") {
    std::vector<std::byte> bytes(4096);
    for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = std::byte(i * 37 >> 2);
    for (std::size_t at = 0; at < bytes.size(); at += 64) {
        CAPTURE(at);
        const std::uint32_t old = crc32c(0, bytes);
        std::array<std::byte, 64> difference;
        for (std::size_t i = 0; i < 64; ++i) difference[i] = std::byte(i * 11 + at);
        for (std::size_t i = 0; i < 64; ++i) bytes[at + i] ^= difference[i];
        CHECK((old ^ crc32c_of_change(difference, bytes.size() - at - 64)) == crc32c(0, bytes));
    }
}

TEST_CASE("bytes: alignment rounds to the unit and not beyond") {
    CHECK(align_down(4097, 4096) == 4096);
    CHECK(align_up(4097, 4096) == 8192);
    CHECK(align_up(4096, 4096) == 4096);
    CHECK(is_aligned(2 * kMiB, 2 * kMiB));
    CHECK_FALSE(is_aligned(2 * kMiB + 1, 2 * kMiB));
    CHECK(divide_up(0, 3) == 0);
    CHECK(divide_up(9, 3) == 3);
    CHECK(divide_up(~std::uint64_t{0}, 2) == std::uint64_t{1} << 63);
}

TEST_CASE("bytes: an object loads from any alignment") {
    std::uint32_t words[3] = {0, 0x01020304, 0};
    const ConstBytes bytes = bytes_of(words);
    CHECK(load<std::uint32_t>(bytes, 4) == 0x01020304u);
    std::uint32_t shifted;
    std::memcpy(&shifted, bytes.data() + 3, sizeof shifted);
    CHECK(load<std::uint32_t>(bytes, 3) == shifted);
    writable_bytes_of(words)[0] = std::byte{1};
    CHECK(words[0] == load<std::uint32_t>(bytes));
}

TEST_CASE("mutex: one thread at a time; a condition wakes its waiter") {
    Mutex mutex;
    CondVar changed;
    std::uint64_t count = 0;
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i) {
        threads.emplace_back([&] {
            for (int n = 0; n < 10'000; ++n) {
                Lock lock(mutex);
                ++count;
            }
            changed.notify_one();
        });
    }
    {
        Lock lock(mutex);
        while (count != 40'000) changed.wait(mutex);
        CHECK_FALSE(changed.wait_for(mutex, std::chrono::milliseconds(1)));
    }
    for (auto &thread : threads) thread.join();
    Lock lock(mutex);
    lock.unlock();
    CHECK(is_free(mutex));
}

// In a branch of its own, as above.
bool readers_may_come(SharedMutex &mutex) {
    if (!mutex.try_lock_shared()) return false;
    mutex.unlock_shared();
    return true;
}

TEST_CASE("shared mutex: readers together, a writer alone") {
    SharedMutex mutex;
    bool together = false, beside_writer = true;
    {
        SharedLock held(mutex);
        std::thread([&] { together = readers_may_come(mutex); }).join();
    }
    {
        ExclusiveLock held(mutex);
        std::thread([&] { beside_writer = readers_may_come(mutex); }).join();
    }
    CHECK(together);
    CHECK_FALSE(beside_writer);
    CHECK(readers_may_come(mutex));

    std::uint64_t sum = 0;  // even, but inside of a writer
    std::atomic<int> torn{0};
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i)
        threads.emplace_back([&, i] {
            for (int n = 0; n < 20'000; ++n) {
                if (i < 2) {
                    ExclusiveLock held(mutex);
                    ++sum;
                    ++sum;
                } else {
                    SharedLock held(mutex);
                    if (sum % 2 != 0) ++torn;
                }
            }
        });
    for (auto &thread : threads) thread.join();
    CHECK(sum == 80'000);
    CHECK(torn == 0);
}

// Threads that wait for a lock, one after the other, each of which says when it has it.
class Queue {
public:
    ~Queue() { join(); }
    void writer(const char *name) {
        start([this, name] {
            ExclusiveLock held(mutex);
            note(name);
        });
    }
    void reader(const char *name) {
        start([this, name] {
            SharedLock held(mutex);
            note(name);
        });
    }
    void join() {
        for (auto &thread : threads_)
            if (thread.joinable()) thread.join();
    }
    std::vector<std::string> order() {
        Lock held(order_mutex_);
        return order_;
    }
    SharedMutex mutex;

private:
    void note(const char *name) {
        Lock held(order_mutex_);
        order_.emplace_back(name);
    }
    void start(std::function<void()> body) {
        std::atomic<bool> came{false};
        threads_.emplace_back([&came, body = std::move(body)] {
            came = true;
            body();
        });
        while (!came) std::this_thread::yield();
        std::this_thread::sleep_for(std::chrono::milliseconds(20));  // until it sleeps
    }
    Mutex order_mutex_;
    std::vector<std::string> order_ GUARDED_BY(order_mutex_);
    std::vector<std::thread> threads_;
};

TEST_CASE("shared mutex: sleeping threads get it in the order in which they came") {
    Queue queue;
    {
        ExclusiveLock held(queue.mutex);
        queue.writer("first writer");
        queue.reader("reader");
        queue.writer("second writer");
    }
    queue.join();
    CHECK(queue.order() == std::vector<std::string>{"first writer", "reader", "second writer"});
}

TEST_CASE(
    "shared mutex: no thread overtakes the first sleeper, nor a writer that waits for readers") {
    Queue queue;
    {
        ExclusiveLock held(queue.mutex);
        queue.writer("writer");
    }
    while (!readers_may_come(queue.mutex)) std::this_thread::yield();
    CHECK(queue.order() == std::vector<std::string>{"writer"});

    bool joined = true;
    {
        SharedLock held(queue.mutex);
        queue.writer("beside a reader");
        std::thread([&] { joined = readers_may_come(queue.mutex); }).join();
    }
    queue.join();
    CHECK_FALSE(joined);
    CHECK(queue.order().back() == "beside a reader");
}

TEST_CASE("shared mutex: threads that take it without a pause starve no other") {
    SharedMutex mutex;
    std::atomic<bool> over{false};
    std::vector<std::thread> busy;
    for (const bool writer : {true, true, false, false})
        busy.emplace_back([&, writer] {
            while (!over) {
                if (writer)
                    ExclusiveLock held(mutex);
                else
                    SharedLock held(mutex);
            }
        });
    for (int i = 0; i < 2000; ++i) {
        if (i % 2 == 0)
            ExclusiveLock held(mutex);
        else
            SharedLock held(mutex);
    }
    over = true;
    for (auto &thread : busy) thread.join();
}

TEST_CASE("shared mutex: a writer is told whether a thread waits, to read or to write") {
    for (const bool writer : {false, true}) {
        CAPTURE(writer);
        SharedMutex mutex;
        std::thread other;
        bool alone = true, together = false;
        {
            ExclusiveLock held(mutex);
            alone = mutex.contended();
            other = std::thread([&] {
                if (writer)
                    ExclusiveLock theirs(mutex);
                else
                    SharedLock theirs(mutex);
            });
            for (int i = 0; i < 5000 && !together; ++i) {
                std::this_thread::sleep_for(std::chrono::milliseconds(1));
                together = mutex.contended();
            }
        }
        other.join();
        CHECK_FALSE(alone);
        CHECK(together);
        ExclusiveLock held(mutex);
        CHECK_FALSE(mutex.contended());
    }
}

TEST_CASE("holds: the longest hold of a brief lock is reported, and other locks are not watched") {
    SharedMutex brief(Blocking::never), other;
    const auto work = [](SharedMutex &mutex, std::uint64_t ns) {
        ExclusiveLock held(mutex);
        const auto busy_until = monotonic_ns() + ns;
        while (monotonic_ns() < busy_until) {
        }
    };
    work(brief, 3'000'000);
    CHECK(longest_hold_ns() == 0);
    watch_holds(true);
    work(other, 3'000'000);
    CHECK(longest_hold_ns() == 0);
    work(brief, 3'000'000);
    CHECK(longest_hold_ns() > 0);
    watch_holds(false);
    CHECK(longest_hold_ns() == 0);
}

TEST_CASE("clock: the coarse time is the time, a few milliseconds old at most") {
    const Timespec before = now_coarse(), exact = now();
    CHECK(before <= exact);
    CHECK(exact.seconds - before.seconds <= 1);
    CHECK(exact.nanoseconds < 1'000'000'000u);
    const std::uint64_t start = monotonic_ns();
    CHECK(monotonic_ns() >= start);
}

TEST_CASE("printable: nothing in it controls a terminal, and words in any script are kept") {
    for (const char *words :
         {"", "plain name.txt", "back\\slash \"quotes\" $(x)", "Gr\u00fc\u00dfe",
          "\u65e5\u672c\u8a9e", "\u0645\u0644\u0641", "\U0001f600"})
        CHECK(printable(words) == words);
    const std::pair<std::string_view, const char *> cases[] = {
        {"\x1b[31mred\x07", "\\x1b[31mred\\x07"},
        {"two\nlines\r\t", "two\\x0alines\\x0d\\x09"},
        {std::string_view("a\0b", 3), "a\\x00b"},
        {"\x7f", "\\x7f"},
        {"\u009b31m", "\\xc2\\x9b31m"},  // CSI in one character
        {"\x9b"
         "31m",
         "\\x9b31m"},  // and in one byte
        {"a\u202etxt.exe", "a\\xe2\\x80\\xaetxt.exe"},
        {"\u2066x\u2069\u200b\ufeff",
         "\\xe2\\x81\\xa6x\\xe2\\x81\\xa9\\xe2\\x80\\x8b\\xef\\xbb\\xbf"},
        {"\u2028", "\\xe2\\x80\\xa8"},
        {"\U000e0041", "\\xf3\\xa0\\x81\\x81"},
        {"\xc0\x9b", "\\xc0\\x9b"},  // overlong
        {"\xe0\x80\x9b", "\\xe0\\x80\\x9b"},
        {"\xed\xa0\x80", "\\xed\\xa0\\x80"},  // a surrogate
        {"\xf4\x90\x80\x80", "\\xf4\\x90\\x80\\x80"},
        {"\xff\xfe", "\\xff\\xfe"},
        {"cut \xe2\x82", "cut \\xe2\\x82"},
        {"\xe2\x82z", "\\xe2\\x82z"},
    };
    for (const auto &[from, to] : cases) CHECK(printable(from) == to);
    std::mt19937 random(5);
    for (int round = 0; round < 20000; ++round) {
        std::string bytes(random() % 12, '\0');
        for (char &byte : bytes)
            byte = static_cast<char>(random() % 3 ? random() : 0x80 + random() % 32);
        const std::string out = printable(bytes);
        CHECK(printable(out) == out);
        for (std::size_t at = 0; at < out.size();) {
            std::uint32_t character = 0;
            const std::size_t size = utf8_at(out, at, &character);
            REQUIRE(size != 0);
            REQUIRE_FALSE(unprintable(character));
            at += size;
        }
    }
}
