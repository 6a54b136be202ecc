// The table of file locks, by itself: fcntl's ranges and flock's whole files, as Linux has them.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <map>
#include <random>
#include <set>
#include <thread>

#include "front/clients/file_locks.h"

using namespace pmfs;
using front::FileLocks;
using front::LockKind;
using front::LockOwner;
using front::LockRequest;

namespace {

constexpr auto kNone = LockKind::none, kShared = LockKind::shared, kAlone = LockKind::exclusive;
constexpr std::uint64_t kLast = LockRequest::kLast;

LockOwner owner(std::uint64_t number) {
    return {.client = static_cast<ClientId>(number % 2), .number = number};
}

// An owner's request by a handle of its own.
LockRequest range(std::uint64_t number, LockKind kind, std::uint64_t first, std::uint64_t last,
                  InodeNo ino = InodeNo(9)) {
    return {.ino = ino,
            .handle = 100 * ino.value() + number,
            .owner = owner(number),
            .kind = kind,
            .first = first,
            .last = last,
            .pid = static_cast<std::uint32_t>(1000 + number)};
}
LockRequest whole(std::uint64_t number, LockKind kind) {
    LockRequest request = range(number, kind, 0, kLast);
    request.whole = true;
    return request;
}

// Waits, and what became of it: -1, nothing yet.
struct Waiter {
    int result = -1;
    std::shared_ptr<FileLocks::Wait> wait;
};
std::unique_ptr<Waiter> waits(FileLocks &locks, const LockRequest &wanted) {
    auto waiter = std::make_unique<Waiter>();
    waiter->wait = std::make_shared<FileLocks::Wait>(
        wanted, [raw = waiter.get()](const FileLocks::Wait &, int error) {
            CHECK(raw->result == -1);
            raw->result = error;
        });
    locks.wait(waiter->wait);
    return waiter;
}

// What an owner has, as another one sees it: "w0-9 r20-".
std::string seen(FileLocks &locks, InodeNo ino = InodeNo(9)) {
    std::string text;
    for (std::uint64_t at = 0; at <= kLast;) {
        const auto found = locks.in_the_way(range(99, kAlone, at, kLast, ino));
        if (!found) break;
        text += (text.empty() ? "" : " ") + std::string(found->kind == kAlone ? "w" : "r") +
                std::to_string(found->first) + "-" +
                (found->last == kLast ? "" : std::to_string(found->last));
        at = found->last + 1;
    }
    return text;
}

}  // namespace

TEST_CASE("file locks: an owner's ranges split, merge, and change their kind in the middle") {
    FileLocks locks;
    CHECK(locks.set(range(1, kAlone, 0, 9)) == 0);
    CHECK(locks.set(range(1, kAlone, 20, 29)) == 0);
    CHECK(seen(locks) == "w0-9 w20-29");
    CHECK(locks.set(range(1, kAlone, 10, 19)) == 0);
    CHECK(seen(locks) == "w0-29");
    CHECK(locks.held_by(1) == 1);
    CHECK(locks.set(range(1, kNone, 5, 6)) == 0);
    CHECK(seen(locks) == "w0-4 w7-29");
    CHECK(locks.set(range(1, kShared, 10, 19)) == 0);
    CHECK(seen(locks) == "w0-4 w7-9 r10-19 w20-29");
    CHECK(locks.held_by(1) == 4);
    CHECK(locks.set(range(1, kShared, 3, 24)) == 0);
    CHECK(seen(locks) == "w0-2 r3-24 w25-29");
    CHECK(locks.set(range(1, kAlone, 0, kLast)) == 0);
    CHECK(seen(locks) == "w0-");
    CHECK(locks.set(range(1, kNone, 100, 100)) == 0);
    CHECK(seen(locks) == "w0-99 w101-");
    CHECK(locks.set(range(1, kNone, 0, kLast)) == 0);
    CHECK(seen(locks).empty());
    CHECK(locks.held_by(1) == 0);
}

TEST_CASE("file locks: readers share, a writer is alone, an owner does not conflict with itself") {
    FileLocks locks;
    CHECK(locks.set(range(1, kShared, 0, 9)) == 0);
    CHECK(locks.set(range(2, kShared, 5, 14)) == 0);
    CHECK(locks.set(range(3, kAlone, 9, 9)) == EAGAIN);
    CHECK(locks.set(range(3, kAlone, 15, 20)) == 0);
    CHECK(locks.set(range(1, kAlone, 0, 9)) == EAGAIN);  // an upgrade, and it keeps what it has
    CHECK(locks.set(range(1, kAlone, 0, 4)) == 0);
    CHECK(locks.set(range(2, kShared, 4, 4)) == EAGAIN);
    CHECK(locks.set(range(1, kShared, 0, 9)) == 0);  // a downgrade
    CHECK(locks.set(range(2, kShared, 4, 4)) == 0);
    CHECK(locks.set(range(1, kAlone, 0, 9, InodeNo(10))) == 0);  // another file
    const auto found = locks.in_the_way(range(3, kAlone, 0, 9));
    REQUIRE(found);
    CHECK(found->owner == owner(1));
    CHECK(found->pid == 1001);
    CHECK(!locks.in_the_way(range(3, kShared, 0, 9)));
}

TEST_CASE("file locks: F_OFD_GETLK with F_UNLCK finds the owner's own") {
    FileLocks locks;
    CHECK(locks.set(range(1, kShared, 3, 5)) == 0);
    CHECK(locks.set(range(2, kShared, 0, 9)) == 0);
    const auto found = locks.in_the_way(range(1, kNone, 0, 9));
    REQUIRE(found);
    CHECK(found->first == 3);
    CHECK(!locks.in_the_way(range(1, kNone, 6, 9)));
    CHECK(!locks.in_the_way(range(3, kNone, 0, 9)));
}

TEST_CASE("file locks: flock and ranges do not affect each other") {
    FileLocks locks;
    CHECK(locks.set(range(1, kAlone, 0, kLast)) == 0);
    CHECK(locks.set(whole(2, kAlone)) == 0);
    CHECK(locks.set(whole(1, kShared)) == EAGAIN);
    CHECK(locks.set(range(2, kShared, 0, 0)) == EAGAIN);
    locks.closed(owner(1), InodeNo(9));
    locks.closed(owner(2), InodeNo(9));  // takes ranges only
    CHECK(locks.set(whole(1, kShared)) == EAGAIN);
    CHECK(locks.set(range(2, kShared, 0, 0)) == 0);
}

TEST_CASE("file locks: an flock that cannot change its kind is lost, as on Linux") {
    FileLocks locks;
    CHECK(locks.set(whole(1, kShared)) == 0);
    CHECK(locks.set(whole(2, kShared)) == 0);
    CHECK(locks.set(whole(1, kAlone)) == EAGAIN);
    CHECK(locks.set(whole(2, kAlone)) == 0);  // so the other one is alone
    CHECK(locks.set(whole(2, kAlone)) == 0);
    CHECK(locks.set(whole(2, kShared)) == 0);
    CHECK(locks.set(whole(1, kShared)) == 0);
}

TEST_CASE("file locks: waiting requests get the lock in the order of arrival") {
    FileLocks locks;
    CHECK(locks.set(range(1, kAlone, 0, 9)) == 0);
    const auto second = waits(locks, range(2, kAlone, 0, 4));
    const auto third = waits(locks, range(3, kAlone, 3, 9));
    const auto fourth = waits(locks, range(4, kShared, 8, 8));
    CHECK(second->result == -1);
    CHECK(locks.held_by(0) == 2);  // waits count
    CHECK(locks.set(range(1, kNone, 0, 9)) == 0);
    CHECK(second->result == 0);
    CHECK(third->result == -1);
    CHECK(fourth->result == 0);
    CHECK(locks.set(range(4, kNone, 8, 8)) == 0);
    CHECK(third->result == -1);
    CHECK(locks.set(range(2, kNone, 3, 3)) == 0);
    CHECK(third->result == -1);
    CHECK(locks.set(range(2, kShared, 4, 4)) == 0);
    CHECK(third->result == -1);
    CHECK(locks.set(range(2, kNone, 4, 4)) == 0);
    CHECK(third->result == 0);
    CHECK(seen(locks) == "w0-2 w3-9");
}

TEST_CASE("file locks: a downgrade lets waiting readers in, and a granted request may be one") {
    FileLocks locks;
    CHECK(locks.set(range(1, kAlone, 0, 9)) == 0);
    CHECK(locks.set(range(2, kAlone, 10, 19)) == 0);
    const auto reader = waits(locks, range(3, kShared, 0, 5));
    const auto wider = waits(locks, range(1, kShared, 0, 19));  // its first half becomes less
    CHECK(locks.set(range(2, kNone, 10, 19)) == 0);
    CHECK(wider->result == 0);
    CHECK(reader->result == 0);
}

TEST_CASE("file locks: closing an open file releases its locks and ends its waiting requests") {
    FileLocks locks;
    CHECK(locks.set(range(1, kAlone, 0, 9)) == 0);
    CHECK(locks.set(whole(1, kAlone)) == 0);
    const auto for_range = waits(locks, range(2, kAlone, 0, 9));
    const auto for_whole = waits(locks, whole(3, kAlone));
    const auto released = waits(locks, whole(5, kAlone));
    locks.released(whole(5, kAlone).handle);
    CHECK(released->result == EBADF);
    locks.released(range(1, kAlone, 0, 9).handle);
    CHECK(for_range->result == 0);
    CHECK(for_whole->result == 0);
    CHECK(locks.held_by(1) == 1);
    locks.released(whole(3, kAlone).handle);
    locks.released(range(2, kAlone, 0, 9).handle);
    CHECK(locks.held_by(0) + locks.held_by(1) == 0);
}

TEST_CASE("file locks: closing takes the owner's ranges, whichever handle they were made by") {
    FileLocks locks;
    LockRequest other = range(1, kAlone, 20, 29);
    other.handle = 77;
    CHECK(locks.set(range(1, kAlone, 0, 9)) == 0);
    CHECK(locks.set(other) == 0);
    CHECK(locks.set(range(3, kAlone, 40, 49)) == 0);
    const auto waiter = waits(locks, range(2, kAlone, 0, 29));
    locks.closed(owner(1), InodeNo(9));
    CHECK(waiter->result == 0);
    CHECK(locks.in_the_way(range(9, kAlone, 0, 39))->last == 29);
    CHECK(locks.in_the_way(range(9, kAlone, 0, kLast))->first == 40);  // of who came first
}

TEST_CASE("file locks: an owner that would wait for itself gets EDEADLK, except with flock") {
    FileLocks locks;
    for (std::uint64_t number = 1; number <= 4; ++number)
        CHECK(locks.set(range(number, kAlone, number, number, InodeNo(number))) == 0);
    std::vector<std::unique_ptr<Waiter>> chain;
    for (std::uint64_t number = 1; number < 4; ++number)
        chain.push_back(
            waits(locks, range(number, kAlone, number + 1, number + 1, InodeNo(number + 1))));
    const auto last = waits(locks, range(4, kAlone, 1, 1, InodeNo(1)));
    CHECK(last->result == EDEADLK);
    CHECK(locks.set(range(4, kNone, 4, 4, InodeNo(4))) == 0);
    CHECK(chain[2]->result == 0);
    CHECK(chain[1]->result == -1);
    // Two readers that both want to write.
    CHECK(locks.set(range(5, kShared, 0, 0)) == 0);
    CHECK(locks.set(range(6, kShared, 0, 0)) == 0);
    const auto first = waits(locks, range(5, kAlone, 0, 0));
    CHECK(first->result == -1);
    const auto second = waits(locks, range(6, kAlone, 0, 0));
    CHECK(second->result == EDEADLK);
    CHECK(locks.set(range(6, kNone, 0, 0)) == 0);
    CHECK(first->result == 0);
    CHECK(locks.set(whole(7, kAlone)) == 0);
    CHECK(locks.set(range(8, kAlone, 50, 50)) == 0);
    const auto flock = waits(locks, whole(8, kAlone));
    const auto beside = waits(locks, range(7, kAlone, 50, 50));
    CHECK(beside->result == -1);
    CHECK(locks.cancel(*flock->wait) == EINTR);
    CHECK(locks.cancel(*beside->wait) == EINTR);
}

TEST_CASE("file locks: a deadlock that arises from a release ends with EDEADLK, too") {
    FileLocks locks;
    CHECK(locks.set(range(2, kShared, 0, 0)) == 0);
    CHECK(locks.set(range(4, kShared, 0, 0)) == 0);
    CHECK(locks.set(range(3, kAlone, 0, 0, InodeNo(1))) == 0);
    const auto third = waits(locks, range(3, kAlone, 0, 0));  // waits for owner 2
    const auto fourth = waits(locks, range(4, kAlone, 0, 0, InodeNo(1)));
    CHECK(fourth->result == -1);
    CHECK(locks.set(range(2, kNone, 0, 0)) == 0);  // now for owner 4, which waits for it
    CHECK(third->result == EDEADLK);
    CHECK(locks.set(range(3, kNone, 0, 0, InodeNo(1))) == 0);
    CHECK(fourth->result == 0);
}

TEST_CASE("file locks: a wait that is cancelled, before or after it began, is not called") {
    FileLocks locks;
    CHECK(locks.set(range(1, kAlone, 0, 9)) == 0);
    const auto waiter = waits(locks, range(2, kAlone, 0, 9));
    CHECK(locks.cancel(*waiter->wait) == EINTR);
    CHECK(locks.set(range(1, kNone, 0, 9)) == 0);
    CHECK(waiter->result == -1);
    CHECK(seen(locks).empty());
    CHECK(locks.held_by(0) == 0);
    Waiter early;
    early.wait = std::make_shared<FileLocks::Wait>(
        range(2, kAlone, 0, 9), [&](const FileLocks::Wait &, int error) { early.result = error; });
    CHECK(locks.cancel(*early.wait) == EINTR);
    locks.wait(early.wait);
    CHECK(early.result == -1);
    CHECK(seen(locks).empty());
    const auto granted = waits(locks, range(3, kAlone, 0, 9));
    CHECK(granted->result == 0);
    CHECK(locks.cancel(*granted->wait) == 0);  // too late
    CHECK(seen(locks) == "w0-9");
}

TEST_CASE("file locks: beyond the limit of a client or an owner is ENOLCK, and nothing changes") {
    FileLocks locks;
    const auto limited = [](LockRequest request) {
        request.client_max = 6;
        request.share_max = 3;
        return request;
    };
    for (const std::uint64_t first : {0, 10, 20})
        CHECK(locks.set(limited(range(2, kAlone, first, first + 5))) == 0);
    CHECK(locks.set(limited(range(2, kAlone, 30, 35))) == ENOLCK);
    CHECK(locks.set(limited(range(2, kNone, 2, 2))) == ENOLCK);  // would be two
    CHECK(locks.set(limited(whole(2, kShared))) == ENOLCK);
    CHECK(seen(locks) == "w0-5 w10-15 w20-25");
    CHECK(locks.set(limited(range(2, kAlone, 0, 25))) == 0);
    CHECK(locks.set(limited(range(2, kNone, 2, 2))) == 0);
    CHECK(locks.held_by(0) == 2);
    CHECK(locks.set(limited(range(4, kAlone, 100, 105))) == 0);
    CHECK(locks.set(limited(range(4, kAlone, 110, 115))) == 0);
    CHECK(locks.set(limited(range(4, kShared, 103, 103))) == ENOLCK);  // would be two more
    std::vector<std::unique_ptr<Waiter>> waiting;
    for (const std::uint64_t number : {6, 8})
        waiting.push_back(waits(locks, limited(range(number, kAlone, 100, 100))));
    for (const auto &waiter : waiting) CHECK(waiter->result == -1);
    CHECK(waits(locks, limited(range(10, kAlone, 100, 100)))->result == ENOLCK);
    CHECK(locks.set(limited(range(3, kAlone, 200, 205))) == 0);  // another client
    CHECK(locks.set(limited(range(4, kNone, 0, kLast))) == 0);
    CHECK(waiting.front()->result == 0);
    CHECK(waiting.back()->result == -1);
    CHECK(locks.held_by(0) == 4);
}

TEST_CASE(
    "file locks: a user has no more than its share by many owners, and root a part of its own") {
    FileLocks locks;
    const auto of = [](std::uint32_t user, std::uint64_t number, std::uint64_t first) {
        LockRequest request = range(number, kShared, first, first);
        request.user = user;
        request.client_max = 16;
        request.share_max = 8;
        return request;
    };
    std::uint64_t number = 2;  // of owners, all of one client
    const auto count = [&](std::uint32_t user) {
        std::size_t made = 0;
        while (locks.set(of(user, number, 10 * made)) == 0) ++made, number += 2;
        return made;
    };
    CHECK(count(1000) == 8);
    CHECK(count(1001) == 6);  // two are root's
    CHECK(count(1002) == 0);
    CHECK(count(0) == 2);
    LockRequest let_go = of(1001, 2, 0);  // by any user: the owner's locks are charged to its own
    let_go.kind = kNone;
    CHECK(locks.set(let_go) == 0);
    CHECK(count(1001) == 0);
    CHECK(count(0) == 1);
    CHECK(locks.held_by(0) == 16);
}

// --- against a model that is slow and simple

namespace {

constexpr unsigned kBytes = 24, kOwners = 6, kFiles = 2;

struct Model {
    struct Cell {
        LockKind kind = kNone;
        HandleId handle = 0;
    };
    using Cells = std::array<Cell, kBytes>;
    struct File {
        std::map<LockOwner, Cells> cells;
        std::map<LockOwner, Cell> wholes;
    };
    std::map<InodeNo, File> files;
    struct Waiting {
        LockRequest wanted;
        std::shared_ptr<FileLocks::Wait> wait;
    };
    std::map<const FileLocks::Wait *, Waiting> waiting;

    static bool meet(LockKind a, LockKind b) {
        return a != kNone && b != kNone && (a == kAlone || b == kAlone);
    }
    std::set<LockOwner> blockers(const LockRequest &wanted) {
        std::set<LockOwner> found;
        File &file = files[wanted.ino];
        if (wanted.whole) {
            for (const auto &[owner, cell] : file.wholes)
                if (owner != wanted.owner && meet(cell.kind, wanted.kind)) found.insert(owner);
            return found;
        }
        for (const auto &[owner, cells] : file.cells)
            for (auto at = wanted.first; at <= wanted.last; ++at)
                if (owner != wanted.owner && meet(cells[at].kind, wanted.kind)) found.insert(owner);
        return found;
    }
    // What flock gives up before it looks further.
    void loses(const LockRequest &wanted) {
        if (!wanted.whole) return;
        Cell &own = files[wanted.ino].wholes[wanted.owner];
        if (own.kind != wanted.kind) own = {};
    }
    void gets(const LockRequest &wanted) {
        if (wanted.whole) {
            Cell &own = files[wanted.ino].wholes[wanted.owner];
            if (own.kind != wanted.kind)
                own = {wanted.kind, wanted.kind == kNone ? 0 : wanted.handle};
            return;
        }
        Cells &cells = files[wanted.ino].cells[wanted.owner];
        auto first = wanted.first, last = wanted.last;
        if (wanted.kind != kNone) {
            while (first > 0 && cells[first - 1].kind == wanted.kind) --first;
            while (last + 1 < kBytes && cells[last + 1].kind == wanted.kind) ++last;
        }
        for (auto at = first; at <= last; ++at)
            cells[at] = {wanted.kind, wanted.kind == kNone ? 0 : wanted.handle};
    }
    void drop(InodeNo ino, HandleId handle) {
        for (auto &[owner, cells] : files[ino].cells)
            for (Cell &cell : cells)
                if (cell.handle == handle) cell = {};
        for (auto &[owner, cell] : files[ino].wholes)
            if (cell.handle == handle) cell = {};
    }
    // By the waits that there are, whether the one waits for the other.
    bool leads_to(const LockOwner &from, const LockOwner &to, unsigned depth = 0) {
        if (from == to) return true;
        if (depth > kOwners) return false;
        for (const auto &[wait, one] : waiting)
            if (!one.wanted.whole && one.wanted.owner == from)
                for (const LockOwner &next : blockers(one.wanted))
                    if (leads_to(next, to, depth + 1)) return true;
        return false;
    }
};

class Race {
public:
    explicit Race(std::uint64_t seed) : random_(seed) {}

    void step() {
        const LockRequest wanted = request();
        switch (number(12)) {
            case 0:
                return close(wanted);
            case 1:
                return release(wanted);
            case 2:
            case 3:
            case 4:
                return wait(wanted);
            case 5:
                return cancel();
            default:
                set(wanted);
        }
    }
    void check() {
        for (const auto &[wait, one] : model_.waiting) CHECK(!model_.blockers(one.wanted).empty());
        for (unsigned file = 0; file < kFiles; ++file)
            for (std::uint64_t at = 0; at < kBytes; ++at)
                for (const LockKind kind : {kShared, kAlone}) {
                    const LockRequest one = range(kOwners, kind, at, at, InodeNo(file));
                    CHECK(locks_.in_the_way(one).has_value() == !model_.blockers(one).empty());
                }
        if (model_.waiting.empty() && empty()) CHECK(locks_.held_by(0) + locks_.held_by(1) == 0);
    }

private:
    std::uint64_t number(std::uint64_t below) { return random_() % below; }

    LockRequest request() {
        const std::uint64_t one = number(kBytes), other = number(kBytes);
        const LockKind kind = std::array{kNone, kShared, kAlone, kAlone}[number(4)];
        const InodeNo ino(number(kFiles));
        LockRequest made =
            range(number(kOwners), kind, std::min(one, other), std::max(one, other), ino);
        made.handle = 1 + made.handle * 2 + number(2);
        made.whole = number(4) == 0;
        return made;
    }
    bool empty() {
        for (const auto &[ino, file] : model_.files) {
            for (const auto &[owner, cells] : file.cells)
                for (const auto &cell : cells)
                    if (cell.kind != kNone) return false;
            for (const auto &[owner, cell] : file.wholes)
                if (cell.kind != kNone) return false;
        }
        return true;
    }

    bool waits(const LockOwner &owner) const {
        return std::ranges::any_of(
            model_.waiting, [&](const auto &one) { return one.second.wanted.owner == owner; });
    }

    // (In the model first: what follows of it is told before the call returns.)
    void set(const LockRequest &wanted) {
        // (It would be given up whenever its wait is tried again.)
        if (wanted.whole && waits(wanted.owner)) return;
        model_.loses(wanted);
        const bool free = wanted.kind == kNone || model_.blockers(wanted).empty();
        if (free) model_.gets(wanted);
        CHECK(locks_.set(wanted) == (free ? 0 : EAGAIN));
    }
    void wait(LockRequest wanted) {
        if (wanted.kind == kNone) wanted.kind = kAlone;
        // (One at a time of each owner, for a deadlock is looked for by the oldest.)
        if (waits(wanted.owner)) return;
        model_.loses(wanted);
        const auto wait = std::make_shared<FileLocks::Wait>(
            wanted, [this](const FileLocks::Wait &waiter, int error) { finished(waiter, error); });
        model_.waiting.emplace(wait.get(), Model::Waiting{wanted, wait});
        locks_.wait(wait);
    }
    void finished(const FileLocks::Wait &waiter, int error) {
        const auto found = model_.waiting.find(&waiter);
        REQUIRE(found != model_.waiting.end());
        const Model::Waiting one = found->second;
        const auto blockers = model_.blockers(one.wanted);
        if (error == EDEADLK) {
            CHECK(!one.wanted.whole);
            CHECK(std::ranges::any_of(blockers, [&](const LockOwner &blocker) {
                return model_.leads_to(blocker, one.wanted.owner);
            }));
        } else if (error == EBADF) {
            CHECK(one.wanted.handle == releasing_);
        } else {
            CHECK(error == 0);
            CHECK(blockers.empty());
            model_.gets(one.wanted);
        }
        model_.waiting.erase(&waiter);
    }
    void cancel() {
        if (model_.waiting.empty()) return;
        const auto one = std::next(model_.waiting.begin(),
                                   static_cast<std::ptrdiff_t>(number(model_.waiting.size())));
        CHECK(locks_.cancel(*one->second.wait) == EINTR);
        model_.waiting.erase(one);
    }
    void close(const LockRequest &wanted) {
        model_.files[wanted.ino].cells[wanted.owner] = {};
        locks_.closed(wanted.owner, wanted.ino);
    }
    void release(const LockRequest &wanted) {
        model_.drop(wanted.ino, wanted.handle);
        releasing_ = wanted.handle;
        locks_.released(wanted.handle);
        releasing_ = 0;
    }

    std::mt19937_64 random_;
    FileLocks locks_;
    Model model_;
    HandleId releasing_ = 0;
};

}  // namespace

TEST_CASE("file locks: random sequences agree with a model") {
    const char *text = std::getenv("PMFS_SEED");
    const std::uint64_t seed = text == nullptr ? 20261126 : std::strtoull(text, nullptr, 0);
    for (std::uint64_t run = 0; run < 60; ++run) {
        CAPTURE(seed + run);
        Race race(seed + run);
        for (unsigned step = 0; step < 400; ++step) {
            race.step();
            if (step % 4 == 0) race.check();
        }
    }
}

TEST_CASE("file locks: many threads lock, wait and unlock, and one at a time has the lock") {
    FileLocks locks;
    constexpr unsigned kThreads = 4, kRounds = 300;
    unsigned inside = 0;  // guarded by the lock
    std::atomic<unsigned> rounds = 0;
    std::vector<std::thread> threads;
    for (unsigned number = 0; number < kThreads; ++number)
        threads.emplace_back([&, number] {
            for (unsigned round = 0; round < kRounds; ++round) {
                const auto result = std::make_shared<std::atomic<int>>(-1);
                const auto wait = std::make_shared<FileLocks::Wait>(
                    range(number, kAlone, 0, 9), [result](const FileLocks::Wait &, int error) {
                        *result = error;
                        result->notify_one();
                    });
                locks.wait(wait);
                if (round % 7 == 3 && locks.cancel(*wait) == EINTR) continue;
                result->wait(-1);
                if (*result != 0 || ++inside != 1) break;
                --inside;
                ++rounds;
                if (locks.set(range(number, kNone, 0, kLast)) != 0) break;
            }
        });
    for (std::thread &thread : threads) thread.join();
    CHECK(rounds > kThreads * kRounds / 2);
    CHECK(locks.held_by(0) + locks.held_by(1) == 0);
}
