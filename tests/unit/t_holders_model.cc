// Two holders, a breaker and a server that dies, in every order: explored until nothing new comes.
//
// The model knows what seal.md says of them and nothing of the engine.  Each state that it can be
// in is reached once, by the shortest way, and every step that can follow is taken from there on an
// engine of its own.  Planted faults show that it goes deep enough.
#include <doctest/doctest.h>

#include <array>
#include <deque>
#include <functional>
#include <map>

#include "holders_world.h"

using namespace pmfs;
using namespace pmfs::test;

namespace {

constexpr std::uint64_t kFile = 8;  // blocks; a pin has the first 4, a truncation leaves 2
enum class Step {
    take_t,
    take_b,
    take_r,
    map_t,
    map_b,
    give_back,
    close,
    die,
    truncate,
    time,
    crash
};
constexpr unsigned kStepsOfHolder = 8;

struct Act {
    Step step;
    unsigned who = 0;  // holder 0 or 1
};

enum class Fault { none, alive_taken_for_dead, lease_forgotten, time_runs_early };

// What seal.md says.
struct Holder1 {
    enum Has { nothing, t, b, r } has = nothing;
    bool maps = false, open = true, alive = true;
    bool lost = false;  // maps, and has no grant any more
    auto operator<=>(const Holder1 &) const = default;
};
struct Model {
    std::array<Holder1, 2> holder;
    bool waiting = false;    // the breaker
    bool truncated = false;  // the file
    auto operator<=>(const Model &) const = default;

    bool any(Holder1::Has what) const { return holder[0].has == what || holder[1].has == what; }
    bool mapped_by_lost() const { return holder[0].lost || holder[1].lost; }
    // The leases are gone: a waiting operation continues, or gets the error of the present state.
    int let_go() {
        waiting = false;
        if (any(Holder1::t) || any(Holder1::r)) return ETXTBSY;
        truncated = true;
        return 0;
    }
};

class Play {
public:
    explicit Play(Fault fault) : fault_(fault), world_(4 << 20) {
        const auto file = world_.make("f", kFile, 90);
        ino_ = file.ino;
        world_->release(file.handle);
        blocks_ = world_.blocks_of(ino_);
        for (unsigned i = 0; i < 2; ++i) handle_[i] = world_.open(ino_, pid(i)).handle;
    }
    const Model &model() const { return model_; }
    const std::string &wrong() const { return wrong_; }

    bool can(const Act &act) const {
        const Holder1 &h = model_.holder[act.who];
        switch (act.step) {
            case Step::take_t:
            case Step::take_b:
            case Step::take_r:
            case Step::map_t:
            case Step::map_b:
                return h.open && h.alive && h.has == Holder1::nothing && !h.lost &&
                       !model_.truncated;
            case Step::give_back:
                return h.open && h.alive && h.has != Holder1::nothing;
            case Step::close:
                return h.open && h.alive;
            case Step::die:
                return h.alive;
            case Step::truncate:
                return !model_.waiting && !model_.truncated;
            case Step::time:
                return model_.waiting;
            case Step::crash:
                return true;
        }
        return false;
    }

    void run(const Act &act) {
        Holder1 &h = model_.holder[act.who];
        switch (act.step) {
            case Step::take_t:
                return take(act.who, GrantKind::temporary, Holder1::t, false);
            case Step::take_b:
                return take(act.who, GrantKind::breakable, Holder1::b, false);
            case Step::take_r:
                return take(act.who, GrantKind::pin, Holder1::r, false);
            case Step::map_t:
                return take(act.who, GrantKind::temporary, Holder1::t, true);
            case Step::map_b:
                return take(act.who, GrantKind::breakable, Holder1::b, true);
            case Step::give_back:
                expect("give back", errno_of(world_->drop_grant(handle_[act.who], grant_[act.who])),
                       0);
                h.has = Holder1::nothing;
                h.maps = false;
                break;
            case Step::close:
                h.lost = h.lost || h.maps;
                h.has = Holder1::nothing;
                h.maps = h.open = false;
                world_->release(handle_[act.who]);
                break;
            case Step::die:  // the kernel closes what it had
                h.alive = false;
                h.lost = h.maps = false;
                h.has = Holder1::nothing;
                world_.dead.insert(pid(act.who));
                if (h.open) world_->release(handle_[act.who]);
                h.open = false;
                for (const auto &q : world_->quarantine().take())
                    if (q.process.pid == pid(act.who))
                        (void)world_->release_quarantine(q.id, World::user(1, 0)).ok();
                break;
            case Step::truncate:
                truncate();
                break;
            case Step::time:
                for (Holder1 &one : model_.holder)
                    if (one.has == Holder1::b) {
                        one.has = Holder1::nothing;
                        one.lost = one.maps;
                        one.maps = false;
                    }
                world_.later(11);
                break;
            case Step::crash:
                crash();
                break;
        }
        after();
    }

    // A holder that may still store harms no file: none of its blocks can be allocated.
    void end() {
        if (!model_.mapped_by_lost()) return world_.check();
        world_.check();
        if (!disjoint(lost_blocks(), world_.fill("x")))
            wrong_ += " a lost holder's block was given out;";
        world_.check();
    }

private:
    static std::uint32_t pid(unsigned who) { return 10 * (who + 1); }
    void expect(const char *what, int got, int wanted) {
        if (got != wanted)
            wrong_ += std::string(" ") + what + " gave " + std::to_string(got) + ", not " +
                      std::to_string(wanted) + ";";
    }

    void take(unsigned who, GrantKind kind, Holder1::Has has, bool maps) {
        int wanted = 0;
        if (kind == GrantKind::temporary && model_.any(Holder1::b)) wanted = EBUSY;
        if (kind == GrantKind::breakable && model_.any(Holder1::t)) wanted = EBUSY;
        if (kind == GrantKind::breakable && model_.waiting && wanted == 0) wanted = kBreakErrno;
        const auto got = world_.take({ino_, handle_[who]}, kind, pid(who), maps, 0, 4 * kBlock);
        expect("take", errno_of(got), wanted);
        if (!got.ok() || wanted != 0) return;
        grant_[who] = got.value();
        model_.holder[who].has = has;
        model_.holder[who].maps = maps;
        after();
    }

    void truncate() {
        Result<> done = world_.truncate({ino_, 0}, 2 * kBlock, 90);
        const bool busy = model_.any(Holder1::t) || model_.any(Holder1::r);
        const bool leased = model_.any(Holder1::b);
        expect("truncate", errno_of(done), busy ? ETXTBSY : leased ? kBreakErrno : 0);
        model_.waiting = !busy && leased;
        model_.truncated = !busy && !leased;
        if (errno_of(done) != kBreakErrno) return;
        breaker_ = kBreakErrno;
        world_->when_ready(done.error(), [this] { retry(); });
        if (fault_ == Fault::time_runs_early) world_.later(11);
        if (fault_ == Fault::lease_forgotten)
            for (unsigned i = 0; i < 2; ++i)
                if (model_.holder[i].has == Holder1::b)
                    (void)world_->drop_grant(handle_[i], grant_[i]).ok();
    }
    void retry() {
        Result<> done = world_.truncate({ino_, 0}, 2 * kBlock, 90);
        breaker_ = errno_of(done);
        if (breaker_ == kBreakErrno) world_->when_ready(done.error(), [this] { retry(); });
    }

    void crash() {
        for (Holder1 &h : model_.holder) {
            h.lost = h.alive && (h.lost || h.maps);
            h.has = Holder1::nothing;
            h.maps = h.open = false;
        }
        model_.waiting = false;
        breaker_ = 0;
        if (fault_ == Fault::alive_taken_for_dead) world_.dead = {10, 20};
        world_.crash();
    }

    // What holds after every step.
    void after() {
        if (model_.waiting && !model_.any(Holder1::b)) {
            const int wanted = model_.let_go();
            world_.later(0);
            expect("the breaker", breaker_, wanted);
        } else {
            world_.later(0);
            if (model_.waiting) expect("the breaker, waiting", breaker_, kBreakErrno);
        }
        const auto size = world_->getattr(ino_).take().size / kBlock;
        if (size != (model_.truncated ? 2 : kFile)) wrong_ += " the file has another size;";
        std::uint64_t lost = 0;
        for (const Holder1 &h : model_.holder) lost += h.lost;
        const auto quarantine = world_->quarantine().take();
        if (quarantine.size() != lost) wrong_ += " another number of lost holders;";
        for (const auto &q : quarantine)
            if (q.held != (model_.truncated ? 2 * kBlock : 0)) wrong_ += " held is wrong;";
    }
    // The first half of the file, as the holders map it.
    std::set<BlockNo> lost_blocks() {
        std::set<BlockNo> half;
        for (const BlockNo block : blocks_)
            if (half.size() < 4) half.insert(block);
        return half;
    }

    const Fault fault_;
    World world_;
    Model model_;
    InodeNo ino_;
    std::set<BlockNo> blocks_;
    HandleId handle_[2] = {};
    GrantId grant_[2] = {};
    int breaker_ = 0;
    std::string wrong_;
};

struct Explored {
    std::size_t states = 0, steps = 0;
    std::vector<std::string> wrong;
};

Explored explore(Fault fault, std::size_t wrong_max) {
    Explored found;
    std::map<Model, std::vector<Act>> ways{{Model{}, {}}};
    std::deque<Model> queue{Model{}};
    while (!queue.empty() && found.wrong.size() < wrong_max) {
        const std::vector<Act> way = ways[queue.front()];
        queue.pop_front();
        ++found.states;
        for (unsigned i = 0; i < kStepsOfHolder * 2 + 3; ++i) {
            const bool of_holder = i < kStepsOfHolder * 2;
            const Act act{static_cast<Step>(of_holder ? i / 2 : i - kStepsOfHolder),
                          of_holder ? i % 2 : 0};
            Play play(fault);
            for (const Act &before : way) play.run(before);
            if (!play.can(act)) continue;
            play.run(act);
            ++found.steps;
            if (play.wrong().empty() && ways.try_emplace(play.model(), way).second) {
                ways[play.model()].push_back(act);
                queue.push_back(play.model());
                play.end();
            }
            if (play.wrong().empty()) continue;
            std::string text;
            for (const Act &one : way)
                text += std::to_string(static_cast<int>(one.step)) + "." + std::to_string(one.who) +
                        " ";
            found.wrong.push_back(text + std::to_string(static_cast<int>(act.step)) + "." +
                                  std::to_string(act.who) + ":" + play.wrong());
        }
    }
    return found;
}

}  // namespace

TEST_CASE("model: two holders, a breaker and a crash, in every order, do as seal.md says") {
    const Explored found = explore(Fault::none, 5);
    for (const std::string &wrong : found.wrong) MESSAGE(wrong);
    CHECK(found.wrong.empty());
    MESSAGE(found.states, " states, ", found.steps, " steps");
    CHECK(found.states > 100);
}

TEST_CASE("model: it is explored deeply enough to find planted faults") {
    CHECK_FALSE(explore(Fault::alive_taken_for_dead, 1).wrong.empty());
    CHECK_FALSE(explore(Fault::lease_forgotten, 1).wrong.empty());
    CHECK_FALSE(explore(Fault::time_runs_early, 1).wrong.empty());
}
